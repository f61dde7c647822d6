"""`llm-proxy runs list`, `show`, `stopped`, `release`: runs of agents, the calls of one, stopped ones.

Invariants: all ask the running gateway; figures equal those of `GET /v1/runs`; a release has its audit entry.
What is not shown, because a page is full, is named on standard error.
"""

from datetime import datetime
from urllib.parse import urlencode

import click
import httpx

from llm_proxy.cli.context import admin_client, request_json, show_in_console, url_option
from llm_proxy.cli.printing import (
    Column,
    CommandGroup,
    as_json_option,
    confirm,
    print_fields,
    print_result,
    print_table,
    warn,
    yes_option,
)
from llm_proxy.json_access import Json
from llm_proxy.ledger.request_detail import model_of
from llm_proxy.path_names import api_segment, page_segment

TIMEOUT_S = 30
_RUN_COLUMNS = (
    "run", "key", "tenant", "agents", Column("last call", unbroken=True), Column("calls", number=True),
    Column("turns", number=True), Column("failed", number=True), Column("rejected", number=True),
    Column("tokens", number=True), Column("cost USD", number=True),
)  # fmt: skip
_CALL_COLUMNS = (
    Column("at", unbroken=True), Column("request id", unbroken=True), "endpoint", "model", "deployment",
    "outcome", Column("prompt", number=True), Column("cached", number=True),
    Column("completion", number=True), Column("cost USD", number=True), Column("ms", number=True),
)  # fmt: skip


@click.group(cls=CommandGroup)
def runs() -> None:
    """Show the runs of agents and what one has cost, and release one that the loop guard has stopped.

    Reads LLM_PROXY__ADMIN_KEY (to release) or LLM_PROXY__ADMIN_READ_KEY from the environment, .env or .keys/.
    """


@runs.command("list")
@click.option("--since", default="24h", show_default=True, help="2026-11-01, 24h, 7d, today, last-week.")
@click.option("--until", help="The same; the end of today by default.")
@click.option("--key", help="Only this key's, by its name, prefix or id.")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--agent", help="Only calls of this agent.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most this many."
)
@as_json_option
@url_option
def list_runs(*, as_json: bool, url: str | None, **query: object) -> None:
    """List runs with their sums in a range, those with the latest calls first."""
    found = _ask(url, "/v1/runs", query)
    print_result(found, _print_runs, as_json=as_json)


@runs.command("show")
@click.argument("run")
@click.option("--since", default="7d", show_default=True, help="2026-11-01, 24h, 7d, today, last-week.")
@click.option("--until", help="The same; the end of today by default.")
@click.option("--key", help="The key that named it, where several runs have the name.")
@click.option("--tenant", help="Its tenant, for the same.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=200, show_default=True, help="At most this many calls."
)
@as_json_option
@url_option
def show_run(*, run: str, as_json: bool, url: str | None, **query: object) -> None:
    """Show the calls of RUN, in the order they began, and those that were rejected."""
    found = _ask(url, f"/v1/runs/{api_segment(run)}", query)
    print_result(found, _print_run, as_json=as_json)


def _ask(url: str | None, path: str, query: dict[str, object]) -> Json:
    given = {name: str(value) for name, value in query.items() if value is not None}
    with admin_client(url, timeout_s=TIMEOUT_S, read_only=True) as client:
        return request_json(client, "GET", str(httpx.URL(path, params=given)))


def _print_runs(found: Json) -> None:
    if not found["data"]:
        click.echo("no run")
        return
    print_table(_RUN_COLUMNS, [_run_row(one) for one in found["data"]])
    if found["has_more"]:
        warn(f"only the latest {len(found['data'])}; --limit shows more")


def _run_row(run: Json) -> tuple[str, ...]:
    tokens = run["prompt_tokens"] + run["completion_tokens"]
    return (
        run["run"], run["key_name"] or run["key_prefix"] or run["key_id"], run["tenant"] or "-",
        ", ".join(run["agents"]) or "-", _time_text(run["last_at"]), f"{run['calls']:,}",
        f"{run['turns']:,}", f"{run['failed']:,}", f"{run['rejected']:,}", f"{tokens:,}",
        f"{run['cost_usd']:.6f}",
    )  # fmt: skip


def _print_run(found: Json) -> None:
    run = found["run"]
    shown = run | {"cost_usd": f"{run['cost_usd']:.6f}"}
    print_fields({name: value for name, value in shown.items() if name != "key_id"})
    click.echo()
    print_table(_CALL_COLUMNS, [_call_row(one) for one in found["data"]])
    if found["has_more"]:
        warn(f"only the first {len(found['data'])} calls; --limit shows more")
    owner = urlencode({name: run[name] for name in ("key_id", "tenant") if run[name]}).replace(
        "key_id", "key"
    )
    show_in_console(f"/runs/{page_segment(run['run'])}?{owner}")


def _call_row(call: Json) -> tuple[str, ...]:
    if call["outcome"] == "refused":
        named = (call["door"] or "-", model_of(call) or "-", "-", f"rejected: {call['code']}")
        return (_time_text(call["refused_at"]), call["request_id"], *named, *("-",) * 5)
    cost, counts = call["cost_usd"], (call["prompt_tokens"], call["cached_tokens"], call["completion_tokens"])
    return (
        _time_text(call["started_at"]), call["request_id"], call["door"], call["model_group"],
        call["deployment"] or "-", call["refusal_code"] or call["outcome"],
        *("?" if one is None else f"{one:,}" for one in counts), "?" if cost is None else f"{cost:.6f}",
        f"{call['latency_ms']:,.0f}",
    )  # fmt: skip


def _time_text(text: str) -> str:
    return datetime.fromisoformat(text).isoformat(" ", "seconds")


_STOPPED_COLUMNS = ("run", "key", "tenant", "signal", Column("times", number=True), "tool", "until")


@runs.command("stopped")
@as_json_option
@url_option
def list_stopped(*, as_json: bool, url: str | None) -> None:
    """List the runs that the loop guard has stopped, the latest first."""
    with admin_client(url, timeout_s=TIMEOUT_S, read_only=True) as client:
        listed = request_json(client, "GET", "/admin/runs/quarantined")
    print_result(listed, _print_stopped, as_json=as_json)


def _print_stopped(listed: Json) -> None:
    if not listed["data"]:
        click.echo("no run is stopped")
        return
    print_table(_STOPPED_COLUMNS, [_stopped_row(one) for one in listed["data"]])


def _stopped_row(one: Json) -> tuple[str, ...]:
    return (
        one["run"], one["key_name"] or one["key"], one["tenant"] or "-", one["signal"], str(one["times"]),
        one["tool"] or "-", one["until"],
    )  # fmt: skip


@runs.command("release")
@click.argument("run")
@click.option("--key", help="The key that named it, by name or id, where several runs have the name.")
@click.option("--tenant", help="Its tenant, for the same.")
@as_json_option
@yes_option
@url_option
def release_run(
    *, run: str, key: str | None, tenant: str | None, as_json: bool, yes: bool, url: str | None
) -> None:
    """Let a RUN that the loop guard has stopped go on."""
    confirm(f"Let the run {run} go on?", yes=yes)
    with admin_client(url, timeout_s=TIMEOUT_S) as client:
        body: Json = {"run": run, "key": key, "tenant": tenant}
        released = request_json(client, "POST", "/admin/runs/release", body)
    print_result(released, lambda _: click.echo(f"the run {run} may go on"), as_json=as_json)
