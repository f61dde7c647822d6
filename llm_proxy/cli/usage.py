"""`llm-proxy usage`, `requests`, `reconcile`: sums, single requests, differences to the sidecar's log.

Invariants: figures equal those of `GET /v1/usage`; CSV and JSON print nothing else, what is missing is
named on standard error. No prompt and no answer is shown: records hold none. `reconcile` changes only
estimates and only with `--apply`; it exits 1 when figures stated by the provider differ.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click

from llm_proxy.cli.context import complete_keys, complete_models
from llm_proxy.cli.database import database_url, run_or_fail, tls_for
from llm_proxy.cli.printing import (
    EXIT_FAILED,
    Column,
    as_json_option,
    console,
    fail,
    print_fields,
    print_json,
    print_table,
    to_plain,
    warn,
)
from llm_proxy.ledger.reconcile import Discrepancy, enrich_estimates, find_discrepancies
from llm_proxy.ledger.rejected_requests import (
    MAX_COUNT_ROWS,
    SAMPLE_PER_S,
    RejectionScope,
    not_recorded_message,
    summarize_counts,
)
from llm_proxy.ledger.request_detail import describe_limit, describe_request
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
from llm_proxy.ledger.usage_store import RecentQuery, open_usage

_BARS = "▁▂▃▄▅▆▇█"
_MAX_ROWS = 50
_MAX_LINES = 1_000_000
_UNNAMED = "(unnamed)"
FORMATS = ("table", "json", "csv", "focus")


@dataclass(frozen=True, slots=True)
class UsageColumn:
    """A column of numbers; one that is not for `always` is left out where the total has none."""

    title: str
    format_value: Callable[[UsageRow], str]
    always: bool = True


_USAGE_COLUMNS = (
    UsageColumn("requests", lambda line: f"{line.requests:,}"),
    UsageColumn("ok %", lambda line: f"{line.success_rate * 100:.1f}"),
    UsageColumn(
        "avg ms", lambda line: f"{line.avg_latency_ms:.0f}" if line.avg_latency_ms is not None else "-"
    ),
    UsageColumn("prompt", lambda line: f"{line.prompt_tokens:,}"),
    UsageColumn("completion", lambda line: f"{line.completion_tokens:,}"),
    UsageColumn("cached", lambda line: f"{line.cached_tokens:,}", always=False),
    UsageColumn("cost USD", lambda line: f"{line.cost_usd:.6f}"),
    UsageColumn("unpriced", lambda line: f"{line.unpriced_requests:,}", always=False),
)


@click.command(context_settings={"show_default": True})
@click.option(
    "--since", default="30d", help=f"2026-11-01, 2026-11-01T12:00Z, 24h, 7d, {', '.join(RANGE_WORDS)}."
)
@click.option("--until", help="The same; by default the end of today, or of the period --since names.")
@click.option("--tz", default="UTC", help="Whose days are meant: Europe/Berlin, +05:30.")
@click.option("--by", help=f"Comma-separated, of {', '.join(DIMENSIONS)}.  [default: agent,model]")
@click.option("--where", multiple=True, metavar="NAME=VALUE", help="Only these; repeatable.")
@click.option("--top", type=click.IntRange(1, 10_000), help="The costliest so many, of each time of --by.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", help="How it is printed.")
@click.option("--csv", "form", flag_value="csv", help="The same as --format csv.")
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
def usage(
    *,
    since: str,
    until: str | None,
    tz: str,
    by: str | None,
    where: tuple[str, ...],
    top: int | None,
    form: str,
) -> None:
    """Show what was used, by whom, at what cost.

    Reads DATABASE_URL from the environment, .env or .keys/.
    """
    now = datetime.now(UTC)
    answer, days, question = run_or_fail(
        _query(database_url(), (since, until, tz, by, where, top), form, now)
    )
    if form == "csv":
        click.echo(rows_as_csv(answer.rows, question.group_by), nl=False)
    elif form == "focus":
        click.echo(rows_as_focus_csv(answer.rows, question), nl=False)
    elif form == "json":
        click.echo(json.dumps([row_as_json(line) for line in answer.rows], indent=2))
    else:
        _show_usage(answer, question, tz, days)
    _warn_missing(answer)


UsageOptions = tuple[str, str | None, str, str | None, tuple[str, ...], int | None]


async def _query(
    url: str, asked: UsageOptions, form: str, now: datetime
) -> tuple[UsageResult, Sequence[UsageRow], UsageQuery]:
    since, until, tz, by, where, top = asked
    zone = parse_zone(tz)
    begin, end = parse_range(since, until, now, zone)
    default = "" if form == "focus" else "agent,model"
    names = tuple(name for name in (default if by is None else by).split(",") if name)
    question = UsageQuery(begin, end, names, _filters(where), zone, top, max_rows=_MAX_LINES)
    if form == "focus":
        question = replace(question, group_by=focus_groups(question))
    async with open_usage(url, tls_for(url)) as usage:
        answer = await usage.query(question, now)
        if form != "table":
            return answer, (), question
        days = await usage.query(replace(question, group_by=("day",), top=None), now)
    return answer, days.rows, question


def _filters(where: Sequence[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in where]
    wrong = [name for name, sign, _ in pairs if not sign or name not in DIMENSIONS]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r}: write NAME=VALUE with a name of {', '.join(DIMENSIONS)}")
    found = {name: value for name, _, value in pairs}
    if len(found) < len(pairs):
        raise click.BadParameter("--where names something twice; a call has one value of each")
    return found


def _show_usage(answer: UsageResult, question: UsageQuery, tz: str, days: Sequence[UsageRow]) -> None:
    out = console()
    begin, end = (one.astimezone(question.zone).strftime("%Y-%m-%d %H:%M") for one in _range(question))
    out.print(f"{begin} to {end} {tz}")
    figures = [one for one in _USAGE_COLUMNS if one.always or one.format_value(answer.total).strip("0")]
    columns = [*map(Column, question.group_by), *(Column(one.title, number=True) for one in figures)]
    rows = [
        (
            *(_group_text(name, line) for name in question.group_by),
            *(one.format_value(line) for one in figures),
        )
        for line in answer.rows[:_MAX_ROWS]
    ]
    total = tuple(one.format_value(answer.total) for one in figures)
    rows = [*rows, ("total", *("" for _ in question.group_by[1:]), *total)] if question.group_by else [total]
    print_table(columns, rows)
    if len(answer.rows) > _MAX_ROWS:
        out.print(f"... and {len(answer.rows) - _MAX_ROWS} more; --csv prints them all")
    if "tag" in question.group_by:
        out.print("A call with several tags is in a line for each; the total counts it once.")
    if len(days) > 1:
        out.print(f"requests a day: {sparkline([line.requests for line in days])}")
        out.print(f"cost a day:     {sparkline([float(line.cost_usd) for line in days])}")


def _range(question: UsageQuery) -> tuple[datetime, datetime]:
    return question.time_span() or (question.since, question.until)


def _warn_missing(answer: UsageResult) -> None:
    """What is missing, on standard error."""
    why = "only sums of whole days (UTC) are kept of it"
    for spans, where in ((answer.unknown_spans, "lines"), (answer.total_unknown_spans, "total")):
        for span in spans_as_json(spans):
            warn(f"not in the {where}: {span['since']} to {span['until']}; {why}")
    if answer.has_more:
        warn(f"only the first {len(answer.rows):,} lines; ask for a shorter range")


def sparkline(values: Sequence[float]) -> str:
    """A bar of eight heights for each value; the highest is the largest."""
    top = max(values, default=0)
    if top <= 0:
        return _BARS[0] * len(values)
    return "".join(_BARS[min(7, int(value / top * 7.999))] for value in values)


def _group_text(name: str, line: UsageRow) -> str:
    """What a line is called; one called like the unnamed stands in quotes."""
    value: Any = line.group[name]
    if name == "key":
        value = line.group["key_name"] or value
    if value is None:
        return _UNNAMED
    if isinstance(value, datetime):
        return value.isoformat(" ", "minutes")
    return f'"{value}"' if value == _UNNAMED else str(value)


_REQUEST_COLUMNS: tuple[Column | str, ...] = (
    Column("started", unbroken=True),
    Column("request id", unbroken=True),
    *("agent", "model", "provider"),
    Column("status", number=True),
    "outcome",
    *(Column(title, number=True) for title in ("tokens", "cost USD", "ms")),
)


@click.command(context_settings={"show_default": True})
@click.argument("request_id", type=click.UUID, required=False)
@click.option(
    "--since", default="24h", help=f"2026-11-01, 2026-11-01T12:00Z, 24h, 7d, {', '.join(RANGE_WORDS)}."
)
@click.option("--until", help="The same; by default the end of today, or of the period --since names.")
@click.option("--tz", default="UTC", help="Whose days are meant: Europe/Berlin, +05:30.")
@click.option("--agent", help="Only this agent's.")
@click.option("--key", help="Only this key's, by its name, prefix or id.", shell_complete=complete_keys)
@click.option("--model", help="Only this model group's.", shell_complete=complete_models)
@click.option("--provider", help="Only this provider's.")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--user", help="Only this end user's.")
@click.option("--session", help="Only this session's.")
@click.option("--run", help="Only this run's.")
@click.option("--tag", help="Only those with this tag.")
@click.option(
    "--outcome",
    type=click.Choice(["ok", "error", "client_gone", "cut", "lost", "refused"]),
    help="Only these. `refused`: never admitted, a sample, and the exact counts beside it.",
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, help="At most so many, the latest.")
@as_json_option
def requests(
    *,
    request_id: UUID | None,
    since: str,
    until: str | None,
    tz: str,
    limit: int,
    as_json: bool,
    **filters: str | None,
) -> None:
    """Show single requests.

    Reads DATABASE_URL from the environment, .env or .keys/.
    """
    url = database_url()
    if request_id is not None:
        story = run_or_fail(_fetch_detail(url, request_id))
        if isinstance(story, str):
            fail(story, EXIT_FAILED)
        _print_detail(story, as_json=as_json)
        return
    where = {name: value for name, value in filters.items() if value is not None}
    if where.get("outcome") == "refused":
        refused, counts = run_or_fail(_fetch_rejected(url, (since, until, tz), where, limit))
        if as_json:
            print_json({"requests": refused, "refusal_counts": counts})
        else:
            _print_rejected(refused, counts, limit)
        return
    rows = run_or_fail(_fetch_recent(url, (since, until, tz), where, limit))
    if as_json:
        print_json(rows)
    else:
        _print_rows(rows)


async def _fetch_detail(url: str, request_id: UUID) -> dict[str, Any] | str:
    """One request, or what is known of it where it is not on record."""
    async with open_usage(url, tls_for(url)) as usage:
        found = await usage.request_detail(request_id)
        if found is not None:
            return found
        counted = await usage.rejected_in_minute(request_id, RejectionScope())
        if counted:
            return not_recorded_message(request_id, counted)
        return "no request has this id; a new record may take a second"


async def _fetch_recent(
    url: str, asked: tuple[str, str | None, str], where: dict[str, str], limit: int
) -> list[dict[str, Any]]:
    async with open_usage(url, tls_for(url)) as usage:
        return await usage.recent_requests(_request_query(asked, where, limit))


async def _fetch_rejected(
    url: str, asked: tuple[str, str | None, str], where: dict[str, str], limit: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    async with open_usage(url, tls_for(url)) as usage:
        return await usage.recent_rejected(_request_query(asked, where, limit))


def _request_query(asked: tuple[str, str | None, str], where: dict[str, str], limit: int) -> RecentQuery:
    since, until, tz = asked
    begin, end = parse_range(since, until, datetime.now(UTC), parse_zone(tz))
    return RecentQuery(begin, end, where, limit)


def _print_rejected(rows: list[dict[str, Any]], counts: list[dict[str, Any]], limit: int) -> None:
    """The sample, then how many there were: all together, and the newest lines."""
    columns = (Column("refused", unbroken=True), Column("request id", unbroken=True), "agent", "model", "why")
    print_table(
        columns,
        (
            (
                row["refused_at"].strftime("%m-%d %H:%M:%S"), str(row["request_id"]), row["agent"] or "-",
                row["model_group"] or "-",
                describe_limit(row["reached"]) if row["reached"] else row["code"] or str(row["status"]),
            )
            for row in rows
        ),
    )  # fmt: skip
    of = f" in the newest {MAX_COUNT_ROWS:,} lines" if len(counts) == MAX_COUNT_ROWS else ""
    click.echo(
        f"\nA sample: {SAMPLE_PER_S} a second of each worker."
        f" All that were refused{of}: {summarize_counts(counts)}\n"
    )
    print_table(
        (Column("minute", unbroken=True), "key", "tenant", "limit", "code", Column("times", number=True)),
        (
            (
                row["minute"].strftime("%m-%d %H:%M"), row["key_name"] or row["key_id"] or "-",
                row["tenant"] or "-", f"{row['limit_scope']}:{row['limit_kind']}".strip(":") or "-",
                row["code"], f"{row['times']:,}",
            )
            for row in counts[:limit]
        ),
    )  # fmt: skip


def _print_rows(rows: list[dict[str, Any]]) -> None:
    lines: list[tuple[str, ...]] = []
    for row in rows:
        known = row["prompt_tokens"] is not None
        tokens = str(row["prompt_tokens"] + (row["completion_tokens"] or 0)) if known else "?"
        cost = f"{row['cost_usd']:.6f}" if row["cost_usd"] is not None else "?"
        lines.append((
            row["started_at"].strftime("%m-%d %H:%M:%S"), str(row["request_id"]), row["agent"] or "-",
            row["model_group"], row["provider"] or "-", str(row["status"] or "-"), row["outcome"], tokens,
            cost, f"{row['latency_ms']:.0f}",
        ))  # fmt: skip
    print_table(_REQUEST_COLUMNS, lines)


def _print_detail(story: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json({**story, "story": describe_request(story)})
        return
    for line in describe_request(story):
        click.echo(line)
    click.echo()
    calls = story.pop("model_calls", [])
    print_fields(story)
    for number, call in enumerate(calls, 1):
        told = ", ".join(f"{name}={to_plain(value)}" for name, value in call.items() if value is not None)
        click.echo(f"model call {number}: {told}")


@click.command(context_settings={"show_default": True})
@click.option("--since", default="24h", help="2026-11-01, 2026-11-01T12:00Z, 24h, 7d.")
@click.option("--until", default="1m", help="The same; a call's log may come a few seconds after its record.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, help="At most so many differences.")
@click.option("--apply", "applies", is_flag=True, help="First make estimates exact by the sidecar's log.")
@as_json_option
@click.pass_context
def reconcile(
    context: click.Context, *, since: str, until: str, limit: int, applies: bool, as_json: bool
) -> None:
    """Compare the gateway's records with the sidecar's.

    Reads DATABASE_URL from the environment, .env or .keys/.
    """
    now = datetime.now(UTC)
    found, enriched = run_or_fail(
        _reconcile(
            database_url(),
            parse_time(since, now),
            parse_time(until, now, param="until"),
            limit=limit,
            applies=applies,
        )
    )
    if as_json:
        print_json({"enriched": enriched, "differences": [_difference_document(one) for one in found]})
    else:
        _show_differences(found, enriched)
    context.exit(1 if any(one.usage_source == "provider" for one in found) else 0)


async def _reconcile(
    url: str, since: datetime, until: datetime, *, limit: int, applies: bool
) -> tuple[Sequence[Discrepancy], int]:
    async with open_usage(url, tls_for(url)) as usage:
        enriched = await enrich_estimates(usage.pool, since, until) if applies else 0
        return await find_discrepancies(usage.pool, since, until, limit), enriched


def _show_differences(found: Sequence[Discrepancy], enriched: int) -> None:
    if enriched:
        click.echo(f"{enriched} estimates made exact")
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
    wholes = (Column("started", unbroken=True), Column("request id", unbroken=True))
    numbers = (Column(title, number=True) for title in ("tokens", "logged", "USD", "logged USD"))
    print_table([*wholes, "difference", "source", "outcome", *numbers], rows)
    click.echo(f"{len(found)} differences")


def _difference_document(one: Discrepancy) -> dict[str, Any]:
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
