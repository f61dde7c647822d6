"""A command's settings, its client of the running gateway, and completion of key and model names.

Invariants: what the operator sets wins; addresses noted by a stack in this folder count only where nothing is
set and only while that stack runs. Completion never fails and never prints: it offers nothing when neither
database nor gateway answers within `COMPLETION_TIMEOUT_S`.
"""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import httpx
from pydantic import SecretStr, ValidationError

from llm_proxy.cli.printing import EXIT_FAILED, EXIT_UNAVAILABLE, EXIT_WRONG_INPUT, fail, warn
from llm_proxy.errors import APIError
from llm_proxy.identity import KeyRepository
from llm_proxy.identity.postgres_store import open_pool
from llm_proxy.settings import PREFIX, Settings, faults_of, load
from llm_proxy.stack import state_dir
from llm_proxy.stack.probe import client_host
from llm_proxy.wildcards import wildcard_matches

GATEWAY_URL_NAME = "LLM_PROXY_URL"
FETCH_TIMEOUT_S = 5
"""So long a command waits for what the gateway can add to its answer."""
_NOTED_SETTINGS = ("DATABASE_URL", "LIMITS_REDIS_URL")


def stack_addresses() -> dict[str, str]:
    """What a stack that runs in this folder has written down."""
    return state_dir.read_addresses(Path(os.environ.get("LLM_PROXY_STATE", ".local")))


def load_settings() -> Settings:
    """The settings; ends the command with one line naming the variable that is wrong."""
    try:
        found = load()
        note = stack_addresses()
        missing = {
            name.lower(): note[PREFIX + name]
            for name in _NOTED_SETTINGS
            if getattr(found, name.lower()) is None and note.get(PREFIX + name)
        }
        return load(**missing) if missing else found
    except ValidationError as wrong:
        fail(faults_of(wrong)[0], EXIT_WRONG_INPUT)


def gateway_url(found: Settings) -> str:
    """Where the gateway answers: the one running in this folder, else the one the settings mean."""
    return stack_addresses().get(GATEWAY_URL_NAME) or f"http://{client_host(found.host)}:{found.port}"


def gateway_client(found: Settings, key: SecretStr, url: str | None, *, timeout_s: float) -> httpx.Client:
    """A client of the gateway at `url`, or of the one the settings mean, with an admin key."""
    base = (url or gateway_url(found)).rstrip("/").removesuffix("/v1")
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"}
    return httpx.Client(base_url=base, headers=headers, timeout=timeout_s)


def request_json(client: httpx.Client, method: str, path: str, body: object = None) -> dict[str, Any]:
    """The JSON answer of a route; ends the command with the gateway's message for anything but a success."""
    try:
        answer = client.request(method, path, json=body)
    except httpx.HTTPError as fault:
        fail(f"the gateway at {client.base_url} does not answer: {fault}", EXIT_UNAVAILABLE)
    if not answer.is_success:
        status = answer.status_code
        code = EXIT_WRONG_INPUT if status == 400 else EXIT_UNAVAILABLE if status >= 500 else EXIT_FAILED
        fail(f"{status}: {_error_message(answer)}", code)
    document: dict[str, Any] = answer.json()
    return document


def fetch_if_running(path: str) -> dict[str, Any] | None:
    """The running gateway's answer to an operator; None when none answers, or no admin key is known."""
    found = load_settings()
    secret = found.admin_read_key or found.admin_key
    if secret is None:
        return None
    try:
        with gateway_client(found, secret, None, timeout_s=FETCH_TIMEOUT_S) as client:
            answer = client.get(path)
    except httpx.HTTPError:
        return None
    document: dict[str, Any] | None = answer.json() if answer.is_success else None
    return document


def _error_message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]


COMPLETION_TIMEOUT_S = 2.0
MAX_COMPLETED_KEYS = 1000


def complete_keys(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Names of keys that are not revoked."""
    try:
        return asyncio.run(_key_names(incomplete))
    except (click.ClickException, APIError, TimeoutError, OSError):
        return []


def complete_models(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Names of model groups."""
    try:
        return [name for name in served_models() if name.startswith(incomplete)]
    except click.ClickException:
        return []


def served_models() -> list[str]:
    """The model groups of the running gateway; empty where none answers."""
    configured = load_settings()
    key = configured.admin_read_key or configured.admin_key
    if key is None:
        return []
    try:
        with gateway_client(configured, key, None, timeout_s=COMPLETION_TIMEOUT_S) as client:
            told: Any = client.get("/admin/models").raise_for_status().json()
        return [str(group["id"]) for group in told["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return []


async def _key_names(incomplete: str) -> list[str]:
    configured = load_settings()
    url = configured.database_url
    if url is None:
        return []
    async with (
        asyncio.timeout(COMPLETION_TIMEOUT_S),
        open_pool(url.get_secret_value(), configured.tls_for(url)) as pool,
    ):
        page = await KeyRepository(pool).list_keys(limit=MAX_COMPLETED_KEYS)
    return [one.spec.name for one in page if one.revoked_at is None and one.spec.name.startswith(incomplete)]


def warn_of_unserved_models(models: Iterable[str]) -> None:
    """One line on standard error for each name or wildcard that fits no model group; never fails."""
    groups = served_models()
    for one in models if groups else ():
        if not any(wildcard_matches(one, group) or wildcard_matches(group, one) for group in groups):
            warn(f"no model group served now fits {one!r} (`llm-proxy models` lists them)")
