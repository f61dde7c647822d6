"""`llm-proxy usage`, `reconcile`: sums, and differences to the sidecar's log.

Invariants: figures equal those of `GET /v1/usage`; CSV and JSON print nothing else, what is missing is
named on standard error. `reconcile` changes only estimates and only with `--apply`; it exits 1 when figures
stated by the provider differ.
"""

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import click

from llm_proxy.cli.database import database_url, run_or_fail, tls_for
from llm_proxy.cli.printing import (
    Column,
    as_json_option,
    console,
    print_json,
    print_table,
    warn,
)
from llm_proxy.json_access import Json
from llm_proxy.ledger.reconcile import Discrepancy, enrich_estimates, find_discrepancies
from llm_proxy.ledger.usage_query import (
    DIMENSIONS,
    RANGE_WORDS,
    UsageQuery,
    UsageResult,
    UsageRow,
    parse_range,
    parse_time,
    parse_zone,
)
from llm_proxy.ledger.usage_report import (
    focus_groups,
    row_as_json,
    rows_as_csv,
    rows_as_focus_csv,
    spans_as_json,
)
from llm_proxy.ledger.usage_store import PostgresUsage, open_usage

_BARS = "▁▂▃▄▅▆▇█"
_MAX_ROWS = 50
_MAX_LINES = 1_000_000
_UNNAMED = "(unnamed)"
FORMATS = ("table", "json", "csv", "focus")


@dataclass(frozen=True, slots=True)
class UsageColumn:
    """A column of numbers; without `always`, it is left out when its total is zero."""

    title: str
    format_value: Callable[[UsageRow], str]
    always: bool = True


def _ms_text(ms: float | None) -> str:
    return "" if ms is None else f"{ms:.0f}"


_USAGE_COLUMNS = (
    UsageColumn("requests", lambda row: f"{row.requests:,}"),
    UsageColumn("ok %", lambda row: f"{row.success_rate * 100:.1f}"),
    UsageColumn("avg ms", lambda row: _ms_text(row.avg_latency_ms)),
    UsageColumn("p50 ms", lambda row: _ms_text(row.p50_latency_ms)),
    UsageColumn("p95 ms", lambda row: _ms_text(row.p95_latency_ms)),
    UsageColumn("p95 ttft ms", lambda row: _ms_text(row.p95_ttft_ms), always=False),
    UsageColumn("prompt", lambda row: f"{row.prompt_tokens:,}"),
    UsageColumn("completion", lambda row: f"{row.completion_tokens:,}"),
    UsageColumn("cached", lambda row: f"{row.cached_tokens:,}", always=False),
    UsageColumn("images", lambda row: f"{row.images:,}", always=False),
    UsageColumn("audio s", lambda row: f"{row.audio_seconds:,g}", always=False),
    UsageColumn("characters", lambda row: f"{row.characters:,}", always=False),
    UsageColumn("searches", lambda row: f"{row.search_units:,}", always=False),
    UsageColumn("cost USD", lambda row: f"{row.cost_usd:.6f}"),
    UsageColumn("unpriced", lambda row: f"{row.unpriced_requests:,}", always=False),
)


@click.command(context_settings={"show_default": True})
@click.option(
    "--since", default="30d", help=f"2026-11-01, 2026-11-01T12:00Z, 24h, 7d, {', '.join(RANGE_WORDS)}."
)
@click.option(
    "--until",
    help="The end of the range, in the same form; by default the end of today, or of the period of --since.",
)
@click.option("--tz", default="UTC", help="The time zone of days: Europe/Berlin, +05:30.")
@click.option(
    "--by",
    multiple=True,
    help=f"What to group by, commas between, or repeated: {', '.join(DIMENSIONS)}.  [default: agent,model]",
)
@click.option("--where", multiple=True, metavar="NAME=VALUE", help="Only calls with this value; repeatable.")
@click.option(
    "--top",
    type=click.IntRange(1, 10_000),
    help="Only this many groups, the most expensive; with an hour, day, week or month in --by, for each.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", help="Output format.")
@click.option("--csv", "form", flag_value="csv", help="The same as --format csv.")
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
def usage(
    *,
    since: str,
    until: str | None,
    tz: str,
    by: tuple[str, ...],
    where: tuple[str, ...],
    top: int | None,
    form: str,
) -> None:
    """Show usage and cost.

    Reads DATABASE_URL from the environment, .env or .keys/.
    """
    now = datetime.now(UTC)
    result, days, query = run_or_fail(_query((since, until, tz, by, where, top), form, now))
    if form == "csv":
        click.echo(rows_as_csv(result.rows, query.group_by), nl=False)
    elif form == "focus":
        click.echo(rows_as_focus_csv(result.rows, query), nl=False)
    elif form == "json":
        click.echo(json.dumps([row_as_json(row) for row in result.rows], indent=2))
    else:
        _show_usage(result, query, tz, days)
    _warn_missing(result)


@asynccontextmanager
async def usage_store() -> AsyncGenerator[PostgresUsage]:
    """Opens the usage of the database that the command is to read."""
    url = database_url()
    async with open_usage(url, tls_for(url)) as store:
        yield store


UsageOptions = tuple[str, str | None, str, tuple[str, ...], tuple[str, ...], int | None]
"""Values of --since, --until, --tz, --by, --where and --top."""

RangeOptions = tuple[str, str | None, str]
"""Values of --since, --until and --tz."""


async def _query(
    options: UsageOptions, form: str, now: datetime
) -> tuple[UsageResult, Sequence[UsageRow], UsageQuery]:
    since, until, tz, by, where, top = options
    zone = parse_zone(tz)
    begin, end = parse_range(since, until, now, zone)
    default = "" if form == "focus" else "agent,model"
    names = tuple(name for name in (",".join(by) if by else default).split(",") if name)
    query = UsageQuery(begin, end, names, _filters(where), zone, top, max_rows=_MAX_LINES)
    if form == "focus":
        query = replace(query, group_by=focus_groups(query))
    async with usage_store() as store:
        result = await store.query(query, now)
        if form != "table":
            return result, (), query
        days = await store.query(replace(query, group_by=("day",), top=None), now)
    return result, days.rows, query


def _filters(where: Sequence[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in where]
    wrong = [name for name, sign, _ in pairs if not sign or name not in DIMENSIONS]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r}: write NAME=VALUE with a name of {', '.join(DIMENSIONS)}")
    found = {name: value for name, _, value in pairs}
    if len(found) < len(pairs):
        raise click.BadParameter("--where has a name twice; a call has one value of each")
    return found


def _show_usage(result: UsageResult, query: UsageQuery, tz: str, days: Sequence[UsageRow]) -> None:
    out = console()
    begin, end = (one.astimezone(query.zone).strftime("%Y-%m-%d %H:%M") for one in _range(query))
    out.print(f"{begin} to {end} {tz}")
    figures = [one for one in _USAGE_COLUMNS if one.always or one.format_value(result.total).strip("0")]
    columns = [*map(Column, query.group_by), *(Column(one.title, number=True) for one in figures)]
    rows = [
        (
            *(_group_text(name, row) for name in query.group_by),
            *(one.format_value(row) for one in figures),
        )
        for row in result.rows[:_MAX_ROWS]
    ]
    total = tuple(one.format_value(result.total) for one in figures)
    rows = [*rows, ("total", *("" for _ in query.group_by[1:]), *total)] if query.group_by else [total]
    print_table(columns, rows)
    if len(result.rows) > _MAX_ROWS:
        out.print(f"... and {len(result.rows) - _MAX_ROWS} more; --csv prints them all")
    if "tag" in query.group_by:
        out.print("A call with several tags appears under each of them; the total counts it once.")
    if len(days) > 1:
        out.print(f"requests a day: {sparkline([row.requests for row in days])}")
        out.print(f"cost a day:     {sparkline([float(row.cost_usd) for row in days])}")


def _range(query: UsageQuery) -> tuple[datetime, datetime]:
    return query.time_span() or (query.since, query.until)


def _warn_missing(result: UsageResult) -> None:
    """Names what the result leaves out on standard error."""
    reason = "only sums of whole days (UTC) are stored"
    for spans, where in ((result.unknown_spans, "lines"), (result.total_unknown_spans, "total")):
        for span in spans_as_json(spans):
            warn(f"not in the {where}: {span['since']} to {span['until']}; {reason}")
    if result.has_more:
        warn(f"only the first {len(result.rows):,} lines; choose a shorter range")


def sparkline(values: Sequence[float]) -> str:
    """One bar of eight heights for each value, scaled to the largest."""
    top = max(values, default=0)
    if top <= 0:
        return _BARS[0] * len(values)
    return "".join(_BARS[min(7, int(value / top * 7.999))] for value in values)


def _group_text(name: str, row: UsageRow) -> str:
    """Returns the value of a row's dimension as text; a value `(unnamed)` is quoted."""
    value: Any = row.group[name]
    if name == "key":
        value = row.group["key_name"] or value
    if value is None:
        return _UNNAMED
    if isinstance(value, datetime):
        return value.isoformat(" ", "minutes")
    return f'"{value}"' if value == _UNNAMED else str(value)


@click.command(context_settings={"show_default": True})
@click.option("--since", default="24h", help="2026-11-01, 2026-11-01T12:00Z, 24h, 7d.")
@click.option(
    "--until", default="1m", help="The same; a call's log can be a few seconds later than its record."
)
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, help="At most this many differences.")
@click.option(
    "--apply", "applies", is_flag=True, help="First replace estimates by the figures of the sidecar's log."
)
@as_json_option
@click.pass_context
def reconcile(
    context: click.Context, *, since: str, until: str, limit: int, applies: bool, as_json: bool
) -> None:
    """Compare the gateway's records with the sidecar's.

    Reads DATABASE_URL from the environment, .env or .keys/.
    """
    found, enriched = run_or_fail(_reconcile(since, until, limit=limit, applies=applies))
    if as_json:
        print_json({"enriched": enriched, "differences": [_difference_document(one) for one in found]})
    else:
        _show_differences(found, enriched)
    context.exit(1 if any(one.usage_source == "provider" for one in found) else 0)


async def _reconcile(
    since: str, until: str, *, limit: int, applies: bool
) -> tuple[Sequence[Discrepancy], int]:
    now = datetime.now(UTC)
    start, end = parse_time(since, now), parse_time(until, now, param="until")
    async with usage_store() as store:
        enriched = await enrich_estimates(store.pool, start, end) if applies else 0
        return await find_discrepancies(store.pool, start, end, limit), enriched


def _show_differences(found: Sequence[Discrepancy], enriched: int) -> None:
    if enriched:
        click.echo(f"{enriched} estimates replaced")
    if not found:
        click.echo("no differences")
        return
    rows = [
        (
            one.started_at.strftime("%m-%d %H:%M:%S"), str(one.request_id), ", ".join(one.kinds),
            one.usage_source or "-", one.outcome or "-",
            _token_pair(one.tokens), _token_pair(one.logged_tokens),
            _usd_text(one.cost_usd), _usd_text(one.logged_cost_usd),
        )
        for one in found
    ]  # fmt: skip
    unbroken = (Column("started (UTC)", unbroken=True), Column("request id", unbroken=True))
    numbers = (Column(title, number=True) for title in ("tokens", "logged", "USD", "logged USD"))
    print_table([*unbroken, "difference", "source", "outcome", *numbers], rows)
    click.echo(f"{len(found)} differences")


def _difference_document(one: Discrepancy) -> Json:
    return {
        "request_id": str(one.request_id),
        "started_at": one.started_at.isoformat(),
        "kinds": list(one.kinds),
        "usage_source": one.usage_source,
        "outcome": one.outcome,
        "tokens": list(one.tokens),
        "logged_tokens": list(one.logged_tokens),
        "cost_usd": None if one.cost_usd is None else f"{one.cost_usd:f}",
        "logged_cost_usd": None if one.logged_cost_usd is None else f"{one.logged_cost_usd:f}",
    }


def _token_pair(tokens: tuple[int | None, int | None]) -> str:
    return "+".join("?" if one is None else str(one) for one in tokens)


def _usd_text(cost: Any) -> str:  # noqa: ANN401 -- a Decimal or nothing
    return "?" if cost is None else f"{cost:f}"
