"""`llm-proxy requests`: single requests, searched as `GET /v1/requests` does, or one of them in full.

Invariants: filters and CSV are those of the API; CSV and JSON print nothing else. No prompt and no answer is
shown: records hold none.
"""

from collections.abc import Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import click

from llm_proxy.cli.context import complete_models, show_in_console
from llm_proxy.cli.database import complete_keys, run_or_fail
from llm_proxy.cli.printing import (
    Column,
    as_json_option,
    fail,
    print_fields,
    print_json,
    print_result,
    print_table,
    time_text,
)
from llm_proxy.cli.usage import RangeOptions, usage_store
from llm_proxy.json_access import Json
from llm_proxy.ledger.rejected_requests import (
    MAX_COUNT_ROWS,
    SAMPLE_PER_S,
    RejectionScope,
    not_recorded_message,
    summarize_counts,
)
from llm_proxy.ledger.request_detail import (
    CostPart,
    cause_of,
    cost_parts_of,
    describe_limit,
    describe_request,
    model_of,
)
from llm_proxy.ledger.request_filters import FILTER_HELP, OUTCOMES, parse_filters
from llm_proxy.ledger.request_rows import csv_header, csv_lines
from llm_proxy.ledger.request_search import RequestSearch, RequestSearcher
from llm_proxy.ledger.usage_query import RANGE_WORDS, parse_range, parse_zone
from llm_proxy.ledger.usage_store import PostgresUsage
from llm_proxy.quantities import QUANTITY_OF_UNIT, shown_amount, unit_text

_REQUEST_COLUMNS: tuple[Column | str, ...] = (
    Column("started (UTC)", unbroken=True),
    Column("request id", unbroken=True),
    *("agent", "model", "provider"),
    Column("status", number=True),
    "outcome",
    "cause",
    *(Column(title, number=True) for title in ("tokens", "cost USD", "ms")),
)


_COMPLETIONS = {"key": complete_keys, "model": complete_models}


def _filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds an option for each filter of `GET /v1/requests`."""
    for name, text in reversed([*FILTER_HELP.items()]):
        flag = "--" + name.replace("_", "-")
        kind = click.Choice(OUTCOMES) if name == "outcome" else None
        complete = _COMPLETIONS.get(name)
        command = click.option(flag, name, type=kind, help=text, shell_complete=complete)(command)
    return command


@click.command(context_settings={"show_default": True})
@click.argument("request_id", type=click.UUID, required=False)
@click.option(
    "--since", default="24h", help=f"2026-11-01, 2026-11-01T12:00Z, 24h, 7d, {', '.join(RANGE_WORDS)}."
)
@click.option(
    "--until",
    help="The end of the range, in the same form; by default the end of today, or of the period of --since.",
)
@click.option("--tz", default="UTC", help="The time zone of days: Europe/Berlin, +05:30.")
@_filter_options
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, help="How many are shown, the latest.")
@click.option("--csv", "as_csv", is_flag=True, help="All matches as CSV.")
@as_json_option
def requests(
    *,
    request_id: UUID | None,
    since: str,
    until: str | None,
    tz: str,
    limit: int,
    as_csv: bool,
    as_json: bool,
    **filters: str | None,
) -> None:
    """Show single requests, or the one of REQUEST_ID in full: what happened to it, and why it failed.

    Reads DATABASE_URL from the environment, .env or .keys/.
    """
    if request_id is not None:
        detail = run_or_fail(_fetch_detail(request_id))
        if isinstance(detail, str):
            fail(detail)
        _print_detail(detail, as_json=as_json)
        return
    if as_csv:
        run_or_fail(_write_csv((since, until, tz), filters))
        return
    rows, counts = run_or_fail(_fetch_rows((since, until, tz), filters, limit))
    if counts is None:
        print_result(rows, _print_rows, as_json=as_json)
    elif as_json:
        print_json({"requests": rows, "refusal_counts": counts})
    else:
        _print_rejected(rows, counts, limit)


async def _fetch_detail(request_id: UUID) -> Json | str:
    """One request, or a message if it has no record."""
    async with usage_store() as store:
        found = await store.request_detail(request_id)
        if found is not None:
            return found
        counts = await store.rejected_in_minute(request_id, RejectionScope())
        if counts:
            return not_recorded_message(request_id, counts)
        return "no request has this id; a new record can take a second"


def _search_of(times: RangeOptions, filters: Mapping[str, str | None]) -> RequestSearch:
    since, until, tz = times
    begin, end = parse_range(since, until, datetime.now(UTC), parse_zone(tz))
    given = parse_filters((name, value) for name, value in filters.items() if value is not None)
    if given.outcome == "refused":
        given.require_rejections()
    return RequestSearch(begin, end, given)


async def _fetch_rows(
    times: RangeOptions, filters: Mapping[str, str | None], limit: int
) -> tuple[list[Json], list[Json] | None]:
    """Returns the latest matches, at most so many; and, where they are rejections, the counts of all."""
    search = _search_of(times, filters)
    rows: list[Json] = []
    async with usage_store() as store:
        async with aclosing(RequestSearcher(store.pool).find_all(search)) as pages:
            async for page in pages:
                rows += page
                if len(rows) >= limit:
                    break
        return rows[:limit], await _fetch_counts(store, search)


async def _fetch_counts(store: PostgresUsage, search: RequestSearch) -> list[Json] | None:
    if search.filters.outcome != "refused":
        return None
    values = search.filters.values
    return await store.rejection_counts(search.since, search.until, values.get("key"), values.get("tenant"))


async def _write_csv(times: RangeOptions, filters: Mapping[str, str | None]) -> None:
    """Writes all matches to standard output as they are read."""
    search = _search_of(times, filters)
    async with usage_store() as store, aclosing(RequestSearcher(store.pool).find_all(search)) as pages:
        first = await anext(pages, list[Json]())
        click.echo(csv_header() + csv_lines(first), nl=False)
        async for page in pages:
            click.echo(csv_lines(page), nl=False)


def _print_rejected(rows: list[Json], counts: list[Json], limit: int) -> None:
    """Prints the sampled requests, then the counts: their sum, and the newest rows."""
    columns = (
        Column("rejected (UTC)", unbroken=True),
        Column("request id", unbroken=True),
        "agent",
        "model",
        "why",
    )
    print_table(
        columns,
        (
            (
                row["refused_at"].strftime("%m-%d %H:%M:%S"), str(row["request_id"]), row["agent"] or "-",
                model_of(row) or "-",
                describe_limit(row["reached"], row) if row["reached"] else row["code"] or str(row["status"]),
            )
            for row in rows
        ),
    )  # fmt: skip
    of = f" in the newest {MAX_COUNT_ROWS:,} lines" if len(counts) == MAX_COUNT_ROWS else ""
    click.echo(
        f"\nA sample: {SAMPLE_PER_S} a second of each worker."
        f" Rejected requests in total{of}: {summarize_counts(counts)}\n"
    )
    print_table(
        (
            Column("minute (UTC)", unbroken=True),
            *("key", "tenant", "limit", "code"),
            Column("times", number=True),
        ),
        (
            (
                row["minute"].strftime("%m-%d %H:%M"), row["key_name"] or row["key_id"] or "-",
                row["tenant"] or "-", f"{row['limit_scope']}:{row['limit_kind']}".strip(":") or "-",
                row["code"], f"{row['times']:,}",
            )
            for row in counts[:limit]
        ),
    )  # fmt: skip


def _print_rows(rows: list[Json]) -> None:
    lines: list[tuple[str, ...]] = []
    for row in rows:
        if row["outcome"] == "refused":
            lines.append((
                row["refused_at"].strftime("%m-%d %H:%M:%S"), str(row["request_id"]), row["agent"] or "-",
                model_of(row) or "-", "-", str(row["status"] or "-"), "rejected",
                cause_of(row) or "-", "-", "-", "-",
            ))  # fmt: skip
            continue
        known = row["prompt_tokens"] is not None
        tokens = str(row["prompt_tokens"] + (row["completion_tokens"] or 0)) if known else "?"
        if not row["completion_tokens"]:
            tokens = _quantities_text(row) or tokens
        cost = f"{row['cost_usd']:.6f}" if row["cost_usd"] is not None else "?"
        lines.append((
            row["started_at"].strftime("%m-%d %H:%M:%S"), str(row["request_id"]), row["agent"] or "-",
            row["model_group"], row["provider"] or "-", str(row["status"] or "-"), row["outcome"],
            cause_of(row) or "-", tokens, cost, f"{row['latency_ms']:.0f}",
        ))  # fmt: skip
    print_table(_REQUEST_COLUMNS, lines)


def _quantities_text(row: Json) -> str:
    """Returns what a request used beside tokens; empty for nothing."""
    used = ((unit, row[name]) for unit, name in QUANTITY_OF_UNIT.items())
    return ", ".join(unit_text(shown_amount(amount, unit), unit) for unit, amount in used if amount)


def _print_detail(detail: Json, *, as_json: bool) -> None:
    if as_json:
        print_json({**detail, "story": describe_request(detail)})
        return
    for line in describe_request(detail):
        click.echo(line)
    click.echo()
    parts = list(cost_parts_of(detail))
    calls = detail.pop("model_calls", [])
    print_fields(_shown_fields(detail))
    if parts:
        click.echo()
        print_table(_COST_COLUMNS, [_cost_row(one) for one in parts])
    for number, call in enumerate(calls, 1):
        click.echo(f"\nmodel call {number}")
        print_fields({name: value for name, value in _shown_fields(call).items() if name != "call_id"})
    show_in_console(f"/requests/{detail['request_id']}")


_SHOWN_APART = ("hops", "reached", "cost_breakdown")
"""Fields that other lines show for people."""
_COST_COLUMNS: tuple[Column | str, ...] = (
    "part of the cost",
    *(Column(title, number=True) for title in ("tokens", "USD", "USD per million tokens")),
)


def _shown_fields(row: Json) -> Json:
    """Returns a row's fields with times and money as text."""
    return {name: _field_text(value) for name, value in row.items() if name not in _SHOWN_APART}


def _field_text(value: object) -> object:
    if isinstance(value, datetime):
        return time_text(value)
    return _money_text(value) if isinstance(value, Decimal) else value


def _cost_row(part: CostPart) -> tuple[str, ...]:
    tokens = "-" if part.tokens is None else f"{part.tokens:,}"
    rate = "-" if part.usd_per_million is None else _money_text(part.usd_per_million)
    return part.name, tokens, _money_text(part.cost_usd), rate


def _money_text(amount: Decimal) -> str:
    """Returns dollars without zeros at the end, but for cents."""
    whole, _, rest = f"{amount:f}".partition(".")
    return f"{whole}.{rest.rstrip('0').ljust(2, '0')}"
