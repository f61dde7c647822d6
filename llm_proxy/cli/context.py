"""A command's settings, its client of the running gateway, and completion of model names.

Invariants: the operator's settings win; a running stack's addresses (its state folder) fill in what is not
set. Completion never fails and never prints: it offers nothing when the gateway does not answer within
`COMPLETION_TIMEOUT_S`.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import click
import httpx
from pydantic import ValidationError

from llm_proxy.cli.printing import EXIT_FAILED, EXIT_UNAVAILABLE, EXIT_WRONG_INPUT, fail, warn
from llm_proxy.json_access import Json
from llm_proxy.secret_files import SecretFileUnreadable
from llm_proxy.setting_sources import PREFIX
from llm_proxy.settings import Settings, load, setting_errors
from llm_proxy.stack import state_dir
from llm_proxy.stack.operator_env import OperatorEnv, read_operator_env
from llm_proxy.stack.probe import client_host
from llm_proxy.wildcards import wildcard_matches

GATEWAY_URL_NAME = "LLM_PROXY_URL"
FETCH_TIMEOUT_S = 5.0
"""For optional additions to a command's result."""
NOT_UTF8 = "a file of .env or .keys/ is not UTF-8: save it in that encoding"
_STACK_SETTINGS = ("DATABASE_URL", "LIMITS_REDIS_URL")

url_option = click.option(
    "--url", help="The gateway, such as http://127.0.0.1:7007 [default: as in the settings]."
)


def stack_addresses() -> dict[str, str]:
    """Returns the addresses of the stack that runs in this folder, by variable; empty without one."""
    return state_dir.read_addresses(Path(os.environ.get("LLM_PROXY_STATE", ".local")))


def operator_env() -> OperatorEnv:
    """Returns what the operator sets in this folder; ends the command with a line if it cannot be read."""
    try:
        return read_operator_env(os.environ, Path.cwd())
    except UnicodeDecodeError:
        fail(NOT_UTF8, EXIT_WRONG_INPUT)
    except (SecretFileUnreadable, OSError) as fault:
        fail(str(fault), EXIT_WRONG_INPUT)


def load_settings() -> Settings:
    """Returns the settings; ends the command with a line naming the first wrong variable."""
    try:
        settings = load()
        addresses = stack_addresses()
        missing = {
            name.lower(): addresses[PREFIX + name]
            for name in _STACK_SETTINGS
            if getattr(settings, name.lower()) is None and addresses.get(PREFIX + name)
        }
        return load(**missing) if missing else settings
    except ValidationError as fault:
        fail(setting_errors(fault)[0], EXIT_WRONG_INPUT)


def gateway_url(settings: Settings, url: str | None = None) -> str:
    """The gateway's base URL without `/v1`: `url`, else that of this folder's stack, else the settings'."""
    found = (
        url
        or stack_addresses().get(GATEWAY_URL_NAME)
        or f"http://{client_host(settings.host)}:{settings.port}"
    )
    return found.rstrip("/").removesuffix("/v1")


def show_in_console(path: str) -> None:
    """Prints where the console of `LLM_PROXY__CONSOLE_URL`, if that is set, shows the same."""
    url = load_settings().console_url
    if url is not None:
        click.echo(f"console: {url.rstrip('/')}{path}")


def gateway_client(
    settings: Settings, key: str | None, url: str | None = None, *, timeout_s: float
) -> httpx.Client:
    """Returns a client of the gateway at `gateway_url`, with this key."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=gateway_url(settings, url), headers=headers, timeout=timeout_s)


def admin_key_of(settings: Settings, *, read_only: bool = True) -> str | None:
    """Returns the admin key that a command sends: the newest one that may read, where reading is enough."""
    keys = (*(settings.admin_read_keys if read_only else ()), *settings.admin_keys)
    return keys[0] if keys else None


def admin_client(url: str | None, *, timeout_s: float, read_only: bool = False) -> httpx.Client:
    """Returns a client of the gateway with an admin key; ends the command if none is set."""
    settings = load_settings()
    key = admin_key_of(settings, read_only=read_only)
    if key is None:
        fail(
            "LLM_PROXY__ADMIN_KEY is not set: run the command in the folder of the stack's .env, or set it",
            EXIT_WRONG_INPUT,
        )
    return gateway_client(settings, key, url, timeout_s=timeout_s)


def unanswered(url: str, fault: Exception) -> str:
    """Returns the line of a gateway that does not answer, with what to do."""
    return (
        f"the gateway at {url} does not answer ({fault}): start it with `llm-proxy up`, or name another "
        "with --url"
    )


def request_json(client: httpx.Client, method: str, path: str, body: object = None) -> Json:
    """A route's JSON response; ends the command with the gateway's message if the status is no success."""
    try:
        response = client.request(method, path, json=body)
    except httpx.HTTPError as fault:
        fail(unanswered(str(client.base_url), fault), EXIT_UNAVAILABLE)
    if not response.is_success:
        status = response.status_code
        code = EXIT_WRONG_INPUT if status == 400 else EXIT_UNAVAILABLE if status >= 500 else EXIT_FAILED
        fail(f"{status}: {_error_message(response)}", code)
    document: Json = response.json()
    return document


def fetch_if_running(path: str, timeout_s: float = FETCH_TIMEOUT_S) -> Json | None:
    """The JSON response of an admin route; None if no gateway answers, it rejects, or no admin key is set."""
    settings = load_settings()
    key = admin_key_of(settings)
    if key is None:
        return None
    try:
        with gateway_client(settings, key, timeout_s=timeout_s) as client:
            response = client.get(path)
            document: Json | None = response.json() if response.is_success else None
    except (httpx.HTTPError, ValueError):
        return None
    return document


def _error_message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]


COMPLETION_TIMEOUT_S = 2.0


def complete_models(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Returns the names of served model groups."""
    try:
        return [name for name in served_models() if name.startswith(incomplete)]
    except click.ClickException:
        return []


def served_models() -> list[str]:
    """Returns the model groups of the running gateway; empty if none answers."""
    document = fetch_if_running("/admin/models", COMPLETION_TIMEOUT_S)
    try:
        return [str(group["id"]) for group in document["data"]] if document else []
    except (KeyError, TypeError):
        return []


def require_served_models(models: Sequence[str]) -> None:
    """Ends the command at a name or wildcard that matches no served model group.

    Warns that nothing was compared if no gateway answers.
    """
    groups = served_models() if models else []
    if models and not groups:
        warn("no gateway answers, so it is unknown whether these models are served")
    for one in models if groups else ():
        if not any(wildcard_matches(one, group) or wildcard_matches(group, one) for group in groups):
            fail(
                f"no served model group matches {one!r}: nothing was done. `llm-proxy models` lists the "
                "groups; --force allows one that is to be served later",
                EXIT_WRONG_INPUT,
            )
