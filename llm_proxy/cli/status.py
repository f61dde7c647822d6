"""`llm-proxy status`: how the running gateway and its parts are.

Invariants: no model is called. Exit 0: requests are served; 1: they are not; 3: no gateway answers.
"""

import sys

import click
import httpx

from llm_proxy.cli import nearby
from llm_proxy.cli.printing import (
    FAILED,
    UNAVAILABLE,
    Column,
    as_json_option,
    fail,
    print_fields,
    print_json,
    print_table,
    warn,
)
from llm_proxy.json_access import Json

TIMEOUT_S = 10
_COLUMNS = ("part", "state", Column("for", number=True), "detail")


@click.command
@as_json_option
@click.option("--url", help="The gateway, such as http://127.0.0.1:7007 [default: the one of the settings].")
def status(*, as_json: bool, url: str | None) -> None:
    """Show whether requests are served, and the state of each part: sidecars, stores, workers.

    Reads LLM_PROXY__ADMIN_READ_KEY or LLM_PROXY__ADMIN_KEY from the environment, .env or .keys/; without
    either only the verdict is known.
    """
    settings = nearby.settings()
    base = (url or nearby.gateway_url(settings)).rstrip("/").removesuffix("/v1")
    key = settings.admin_read_key or settings.admin_key
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key is not None else {}
    try:
        answer = httpx.get(f"{base}/health", headers=headers, timeout=TIMEOUT_S)
        found: Json = answer.json()
    except (httpx.HTTPError, ValueError) as fault:
        fail(f"the gateway at {base} does not answer: {fault}", UNAVAILABLE)
    parts: list[Json] = found.pop("parts", [])
    if as_json:
        print_json({"url": base, **found, "parts": parts})
    else:
        print_fields({"gateway": base, **found})
        if parts:
            click.echo()
            print_table(_COLUMNS, [_row(one) for one in parts])
        else:
            warn(
                "the parts are shown to an admin: LLM_PROXY__ADMIN_READ_KEY is not set, or not the gateway's"
            )
    sys.exit(0 if answer.status_code == 200 else FAILED)


def _row(one: Json) -> tuple[str, ...]:
    return one["part"], one["state"], f"{one['since_s']:.0f} s", one["detail"]
