"""`llm-proxy explain`: what would become of a call, asked of the running gateway; no model is called.

Invariant: exit 1 when the call would be refused.
"""

import sys
from typing import Any

import click
import httpx
from pydantic import SecretStr

from llm_proxy.cli import nearby
from llm_proxy.cli.completion import complete_keys, complete_models
from llm_proxy.cli.printing import (
    FAILED,
    WRONG,
    as_json_option,
    fail,
    print_fields,
    print_json,
)
from llm_proxy.cli.standings_table import print_standings
from llm_proxy.json_access import Json
from llm_proxy.settings import Settings

TIMEOUT_S = 15


@click.command
@click.option("--key", help="As this key, by id, name or prefix.", shell_complete=complete_keys)
@click.option("--tenant", help="Without --key: for this tenant, as a trusted service.")
@click.option("--agent", help="For this agent.")
@click.option("--user", help="For this end user.")
@click.option("--model", required=True, help="The model that is called.", shell_complete=complete_models)
@click.option("--prompt", default="Hello", show_default=True, help="What is asked; its length counts.")
@click.option("--max-tokens", type=click.IntRange(1), help="The longest answer that is asked for.")
@as_json_option
@click.option("--url", help="The gateway, such as http://127.0.0.1:7007 [default: the one of the settings].")
def explain(*, key: str | None, as_json: bool, url: str | None, **said: Any) -> None:  # noqa: ANN401 -- click's options
    """Tell whether a call would be let in, and where it would stand at each limit and budget.

    With --key it reads LLM_PROXY__ADMIN_KEY, else LLM_PROXY__INTERNAL_API_KEY, from the environment, .env or
    .keys/.
    """
    settings = nearby.settings()
    body: Json = {"model": said["model"], "messages": [{"role": "user", "content": said["prompt"]}]}
    if said["max_tokens"] is not None:
        body["max_tokens"] = said["max_tokens"]
    path = "/v1/explain" if key is None else str(httpx.URL("/v1/explain", params={"key": key}))
    with nearby.gateway(settings, _secret(settings, key), url, timeout_s=TIMEOUT_S) as client:
        named = {f"x-{name}-id": said[name] for name in ("tenant", "agent", "user") if said[name]}
        client.headers.update(named)
        told = nearby.ask(client, "POST", path, body)
    if as_json:
        print_json(told)
    else:
        _print(told)
    sys.exit(0 if told["verdict"] == "admitted" else FAILED)


def _secret(settings: Settings, key: str | None) -> SecretStr:
    if key is not None:
        if settings.admin_key is None:
            fail("LLM_PROXY__ADMIN_KEY is not set", WRONG)
        return settings.admin_key
    if not settings.internal_keys:
        fail("LLM_PROXY__INTERNAL_API_KEY is not set; --key NAME explains as a key", WRONG)
    return SecretStr(settings.internal_keys[0])


def _print(told: Json) -> None:
    refusal: Json = told.get("refusal") or {}
    print_fields(
        {
            "verdict": told["verdict"],
            "why": refusal.get("message"),
            "status": refusal.get("status"),
            "code": refusal.get("code"),
            "retry after s": refusal.get("retry_after_s"),
            "model": told.get("model"),
            "group": told.get("group"),
        }
    )
    if told.get("limits"):
        click.echo()
        print_standings(told["limits"])
