"""`llm-proxy calls list` and `calls stop`: what runs now, read from the running gateway, and an end to it.

Invariants: what the gateway does not know (the limits store or a process does not answer) is named on
standard error; a stop is the gateway's, with its audit entry. Exit 1 when nothing was stopped.
"""

from urllib.parse import quote

import click
import httpx

from llm_proxy.cli.context import admin_client, complete_models, request_json, show_in_console, url_option
from llm_proxy.cli.printing import (
    Column,
    CommandGroup,
    as_json_option,
    confirm,
    print_json,
    print_result,
    print_table,
    warn,
    yes_option,
)
from llm_proxy.json_access import Json

TIMEOUT_S = 30
_FILTERS = ("tenant", "key", "agent", "user", "session", "run", "model")
_COLUMNS = (
    Column("request id", unbroken=True), "state", Column("age", number=True), "model", "key", "tenant",
    "agent", Column("bytes", number=True), Column("~tokens", number=True),
)  # fmt: skip


@click.group(cls=CommandGroup)
def calls() -> None:
    """List running calls, and stop one.

    Reads LLM_PROXY__ADMIN_KEY (to list, LLM_PROXY__ADMIN_READ_KEY is enough) from the environment, .env or
    .keys/.
    """


@calls.command("list")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--key", help="Only this key's, by its name, prefix or id.")
@click.option("--agent", help="Only this agent's.")
@click.option("--user", help="Only this end user's.")
@click.option("--session", help="Only this session's.")
@click.option("--run", help="Only this run's.")
@click.option("--model", help="Only this model group's.", shell_complete=complete_models)
@click.option(
    "--limit",
    type=click.IntRange(1, 5000),
    default=200,
    help="At most this many.",
    show_default=True,
)
@as_json_option
@url_option
def list_calls(*, limit: int, as_json: bool, url: str | None, **filters: str | None) -> None:
    """List the calls that run now, the oldest first; tokens are estimates."""
    given = {name: value for name in _FILTERS if (value := filters[name]) is not None}
    path = str(httpx.URL("/admin/calls", params={**given, "limit": limit}))
    with admin_client(url, timeout_s=TIMEOUT_S, read_only=True) as client:
        listed = request_json(client, "GET", path)
    print_result(listed, _print_calls, as_json=as_json)
    if not as_json:
        show_in_console("/live")
    if listed["note"]:
        warn(listed["note"])


def _print_calls(listed: Json) -> None:
    if not listed["data"]:
        click.echo("no call runs")
        return
    print_table(_COLUMNS, [_row(one) for one in listed["data"]])
    if listed["has_more"]:
        warn(f"only the oldest {len(listed['data'])}; --limit shows more")


def _row(call: Json) -> tuple[str, ...]:
    so_far = call["estimated_completion_tokens"]
    return (
        call["request_id"], call["state"], f"{call['age_s']:.0f} s", call["model"] or "-",
        call["key_name"] or call["key_prefix"] or "-", call["tenant"] or "-", call["agent"] or "-",
        f"{call['sent_bytes']:,}", "-" if so_far is None else f"{so_far:,}",
    )  # fmt: skip


@calls.command("stop")
@click.argument("request_id", type=click.UUID)
@as_json_option
@yes_option
@url_option
def stop_call(*, request_id: object, as_json: bool, yes: bool, url: str | None) -> None:
    """Stop the running call REQUEST_ID: its caller gets an error, or the end of its stream."""
    confirm(f"Stop the call {request_id}?", yes=yes)
    with admin_client(url, timeout_s=TIMEOUT_S) as client:
        stopped = request_json(client, "DELETE", f"/admin/calls/{quote(str(request_id))}")
    if as_json:
        print_json(stopped)
        return
    call = stopped["call"]
    whose = call["key_name"] or call["key_prefix"] or "a key"
    click.echo(f"stopped after {call['age_s']:.1f} s: {call['model'] or 'no model yet'}, {whose}")
