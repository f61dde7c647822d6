"""Runs a usage query on Postgres: whole days and hours from the roll-ups, the rest from rows.

Invariants: an answer is one snapshot. Its parts are disjoint and cover the range, except for what is reported
as unknown; a day or an hour of a roll-up counts only if it lies in the range and in one group as a whole.
Only constants of this package reach the SQL text, values travel as arguments.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, cast

import asyncpg

from llm_proxy.errors import BadRequest
from llm_proxy.identity.postgres_store import Connection
from llm_proxy.ledger.usage_names import add_key_name, key_names, require_known_names, resolve_key_filter
from llm_proxy.ledger.usage_query import (
    EMPTY_ROW,
    MAX_ROWS,
    NAME_COLUMNS,
    TimeSpan,
    TimeUnit,
    UsageQuery,
    UsageResult,
    UsageRow,
    consecutive_spans,
    group_label,
    group_starts,
    merge_spans,
    midnight,
)

SUMS = {
    "requests": "1",
    "succeeded": "(outcome = 'ok')::int",
    "cache_hits": "(cache = 'hit')::int",
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
    "cached_tokens": "cached_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "cost_usd": "cost_usd",
    "unpriced": "(cost_usd IS NULL AND (outcome = 'ok'"
    " OR coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0) > 0))::int",
    "estimated": "(usage_source = 'estimated')::int",
    "timed": "(outcome <> 'lost')::int",
    "latency_us": "CASE WHEN outcome <> 'lost' THEN round(latency_ms * 1000)::bigint END",
}
"""What is added up: a column of the roll-ups, and what it is of a row."""
HOURS_RETENTION = timedelta(days=34)
"""A day less than the hours' roll-up keeps, whatever the database's clock."""
_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ROLLED_UP = frozenset({"agent", "tenant", "key", "model", "provider"})
_OF_USERS = _ROLLED_UP - {"provider"} | {"user"}


@dataclass(frozen=True, slots=True)
class AvailableData:
    """What the database holds: the days of the roll-up, and since when there are hours and rows."""

    days: tuple[date, date] | None
    hours_since: datetime
    rows_since: datetime

    @property
    def span(self) -> TimeSpan | None:
        """From the first day to the end of the last; None when there is none."""
        if self.days is None:
            return None
        first, last = (datetime.combine(day, time(), UTC) for day in self.days)
        return first, last + _DAY


@dataclass(frozen=True, slots=True)
class QueryParts:
    """A range, told by these parts.

    Attributes:
        groups: When its groups of time begin, in order; one where it has none.
        unknown: What no table tells exactly.
    """

    groups: list[datetime]
    days: list[TimeSpan]
    hours: list[TimeSpan]
    rows: list[TimeSpan]
    unknown: list[TimeSpan]


def split_query(question: UsageQuery, kept: AvailableData) -> QueryParts | None:
    """How the question is answered; None where nothing is on record.

    Raises `BadRequest` when it has more groups of time than an answer has lines.
    """
    span = _overlap(question.time_span(), kept.span)
    if span is None:
        return None
    groups = _groups(question, span)
    parts = QueryParts(groups, [], [], [], [])
    by_day, by_hour = question.names <= _ROLLED_UP | _OF_USERS, question.names <= _ROLLED_UP
    by_day = by_day and not {"user", "provider"} <= question.names
    for piece in consecutive_spans([*groups, span[1]]):
        left = _take_whole(piece, _DAY, parts.days) if by_day else [piece]
        for one in left:
            rest = [one]
            if by_hour and one[1] > kept.hours_since:
                early = [(one[0], kept.hours_since)] if one[0] < kept.hours_since else []
                rest = [*early, *_take_whole((max(one[0], kept.hours_since), one[1]), _HOUR, parts.hours)]
            for since, until in rest:
                middle = min(max(since, kept.rows_since), until)
                parts.unknown.extend([(since, middle)] if since < middle else [])
                parts.rows.extend([(middle, until)] if middle < until else [])
    return QueryParts(
        groups,
        *(merge_spans(sorted(spans)) for spans in (parts.days, parts.hours, parts.rows, parts.unknown)),
    )


def _groups(question: UsageQuery, span: TimeSpan) -> list[datetime]:
    found: set[datetime] = {span[0]}
    for unit in question.time_units:
        for moment in group_starts(unit, span, question.zone):
            found.add(moment)
            if len(found) > MAX_ROWS:
                why = f"The range has more than {MAX_ROWS:,} of these times; ask for a shorter one."
                raise BadRequest(why, param="group_by")
    return sorted(found)


def _overlap(one: TimeSpan | None, other: TimeSpan | None) -> TimeSpan | None:
    if one is None or other is None:
        return None
    since, until = max(one[0], other[0]), min(one[1], other[1])
    return (since, until) if since < until else None


def _take_whole(piece: TimeSpan, length: timedelta, taken: list[TimeSpan]) -> list[TimeSpan]:
    """Take the whole days or hours (UTC) of a piece; returns what is left of it."""
    since, until = -(-(piece[0] - _EPOCH) // length) * length, (piece[1] - _EPOCH) // length * length
    if since >= until:
        return [piece]
    whole = (_EPOCH + since, _EPOCH + until)
    taken.append(whole)
    rest = ((piece[0], whole[0]), (whole[1], piece[1]))
    return [(begin, end) for begin, end in rest if begin < end]


@dataclass(frozen=True, slots=True)
class SqlStatement:
    """SQL and its arguments."""

    text: str
    arguments: list[Any]


def build_statement(question: UsageQuery, parts: QueryParts) -> SqlStatement | None:
    """The statement that answers, a row a group: its number in `parts.groups`, names, sums. None: no part."""
    arguments: list[Any] = []
    sources: list[str] = []
    if parts.days:
        users = "user" in question.names
        days = [(since.date(), until.date()) for since, until in parts.days]
        at = "day::timestamp AT TIME ZONE 'UTC'"
        table = _users_source(question) if users else "usage_daily"
        sources.append(_rollup_source(question, table, ("day", at, "date"), days, arguments))
    if parts.hours:
        hours = ("hour", "hour", "timestamptz")
        sources.append(_rollup_source(question, "usage_hourly", hours, parts.hours, arguments))
    if parts.rows:
        sources.append(_rows_source(question, parts.rows, arguments))
    if not sources:
        return None
    return SqlStatement(_sum_sources(question, parts, " UNION ALL ".join(sources), arguments), arguments)


def _sum_sources(question: UsageQuery, parts: QueryParts, used: str, arguments: list[Any]) -> str:
    names = [f'"{name}"' for name in question.group_by if name in NAME_COLUMNS]
    group = "1"
    if question.time_units:
        arguments.append(parts.groups)
        group = f"width_bucket(at, ${len(arguments)}::timestamptz[])"
    sums = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in SUMS)
    keys = ", ".join(['"group"', *names])
    shown = ", ".join([f'{group} AS "group"', *names])
    place = f'"group", cost_usd DESC, requests DESC{"".join(f", {name}" for name in names)}'
    # S608: names are this file's own
    summed = (
        f"SELECT {keys}, {sums} FROM (SELECT {shown}, {', '.join(SUMS)} FROM ({used}) AS used) AS grouped"  # noqa: S608
    )
    summed += f" GROUP BY {keys} HAVING sum(requests) > 0"
    if question.top is None:
        return f"SELECT * FROM ({summed}) AS summed ORDER BY {place} LIMIT {question.max_rows}"  # noqa: S608
    arguments.append(question.top)
    numbered = (
        f'SELECT *, row_number() OVER (PARTITION BY "group" ORDER BY {place}) AS place FROM ({summed}) AS s'  # noqa: S608
    )
    return (
        f"SELECT * FROM ({numbered}) AS numbered WHERE place <= ${len(arguments)}"  # noqa: S608
        f" ORDER BY {place} LIMIT {question.max_rows}"
    )


def _rollup_source(
    question: UsageQuery,
    table: str,
    moment: tuple[str, str, str],
    spans: Sequence[tuple[Any, Any]],
    arguments: list[Any],
) -> str:
    """The part that a roll-up tells; `moment` is its column, the same as a moment, and its type."""
    column, at, kind = moment
    shown = [f'{NAME_COLUMNS[name]} AS "{name}"' for name in question.group_by if name in NAME_COLUMNS]
    source, conditions = _table_within(table, column, kind, spans, arguments)
    for name, value in question.filters.items():
        if name in NAME_COLUMNS:
            arguments.append(value)
            conditions.append(f"{NAME_COLUMNS[name]} = ${len(arguments)}")
    columns = ", ".join([f"{at} AS at", *shown, *SUMS])
    return f"SELECT {columns} FROM {source} WHERE {' AND '.join(conditions)}"  # noqa: S608 -- names are this file's own


def _rows_source(question: UsageQuery, spans: Sequence[TimeSpan], arguments: list[Any]) -> str:
    source, conditions = _table_within("requests", "started_at", "timestamptz", spans, arguments)
    shown: list[str] = []
    for name in question.group_by:
        if name == "tag":
            source += " CROSS JOIN LATERAL unnest(coalesce(tags, ARRAY[NULL::text])) AS tagged (tag)"
            shown.append("coalesce(tag, '') AS \"tag\"")
        elif name in NAME_COLUMNS:
            shown.append(f"coalesce({NAME_COLUMNS[name]}, '') AS \"{name}\"")
    for name, value in question.filters.items():
        if name not in NAME_COLUMNS:
            continue
        if not value:
            conditions.append(f"{NAME_COLUMNS[name]} IS NULL")
            continue
        arguments.append([value] if name == "tag" else value)
        sign = "@>" if name == "tag" else "="
        conditions.append(f"{NAME_COLUMNS[name]} {sign} ${len(arguments)}")
    sums = (f"{of_a_row} AS {name}" for name, of_a_row in SUMS.items())
    columns = ", ".join(["started_at AS at", *shown, *sums])
    return f"SELECT {columns} FROM {source} WHERE {' AND '.join(conditions)}"  # noqa: S608 -- names are this file's own


def _table_within(
    table: str, column: str, kind: str, spans: Sequence[tuple[Any, Any]], arguments: list[Any]
) -> tuple[str, list[str]]:
    """A table, and what keeps it within these spans."""
    if len(spans) == 1:
        arguments.extend(spans[0])
        return table, [f"{column} >= ${len(arguments) - 1}", f"{column} < ${len(arguments)}"]
    arguments.extend([[since for since, _ in spans], [until for _, until in spans]])
    places = f"${len(arguments) - 1}::{kind}[], ${len(arguments)}::{kind}[]"
    inside = f"{column} >= begins AND {column} < ends"
    # OFFSET keeps the planner from reading the whole table once: it looks each span up.
    part = f"(SELECT * FROM {table} WHERE {inside} OFFSET 0) AS part"  # noqa: S608 -- names are this file's own
    return f"unnest({places}) AS span (begins, ends) CROSS JOIN LATERAL {part}", ["TRUE"]


def _users_source(question: UsageQuery) -> str:
    """The users' roll-up by day; who is unnamed is all but the named, which no roll-up keeps."""
    named = "usage_users" if "model" in question.names else "usage_user_days"
    keys = [
        "day",
        *(NAME_COLUMNS[name] for name in ("key", "tenant", "agent", "model") if name in question.names),
    ]
    rows = f"SELECT {', '.join([*keys, 'user_id', *SUMS])} FROM {named}"  # noqa: S608 -- names are this file's own
    if question.filters.get("user"):
        return f"({rows}) AS users"
    nobody, taken_off = ", ".join(keys) + ", ''", ", ".join(f"-{name}" for name in SUMS)
    every = f"SELECT {nobody}, {', '.join(SUMS)} FROM usage_daily"  # noqa: S608 -- the same
    less = f"SELECT {nobody}, {taken_off} FROM {named}"  # noqa: S608 -- the same
    return f"({rows} UNION ALL {every} UNION ALL {less}) AS users"


def used_days_statement(question: UsageQuery, spans: Sequence[TimeSpan]) -> SqlStatement:
    """The statement that tells on which days of these spans anything was used."""
    days = [(since.date(), (until - timedelta(microseconds=1)).date() + _DAY) for since, until in spans]
    arguments: list[Any] = []
    source, conditions = _table_within("usage_daily", "day", "date", days, arguments)
    for name in _ROLLED_UP.intersection(question.filters):
        arguments.append(question.filters[name])
        conditions.append(f"{NAME_COLUMNS[name]} = ${len(arguments)}")
    where = " AND ".join(conditions)
    text = f"SELECT day FROM {source} WHERE {where} GROUP BY day HAVING sum(requests) > 0"  # noqa: S608 -- names are this file's own
    return SqlStatement(text, arguments)


def clip_to_days(spans: Sequence[TimeSpan], days: Collection[date]) -> list[TimeSpan]:
    """What of the spans lies in these days (UTC)."""
    found: list[TimeSpan] = []
    for since, until in spans:
        begin = since
        while begin < until:
            end = min(datetime.combine(begin.date() + _DAY, time(), UTC), until)
            if begin.date() in days:
                found.append((begin, end))
            begin = end
    return merge_spans(found)


_STATEMENT_S = 9
_STORED = """
    SELECT (SELECT min(day) FROM usage_daily), (SELECT max(day) FROM usage_daily),
           (SELECT min(right(c.relname, 8)) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'requests'::regclass AND c.relname ~ '^requests_[0-9]{8}$')"""


@asynccontextmanager
async def read_snapshot(connection: Connection) -> AsyncGenerator[None]:
    """Reading of one moment; a statement that takes too long is ended by the server, too."""
    transaction = connection.transaction(isolation="repeatable_read", readonly=True)
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL statement_timeout = '{_STATEMENT_S}s'")
        yield
    except asyncio.CancelledError:
        connection.terminate()  # a silent server would keep us waiting for its rollback
        raise
    except BaseException:
        await transaction.rollback()
        raise
    else:
        await transaction.commit()


async def run_query(connection: Connection, question: UsageQuery, now: datetime) -> UsageResult:
    """The answer; raises `BadRequest`, and `NotFound` for a name that nobody knows."""
    question = await resolve_key_filter(connection, question)
    kept = await _fetch_available(connection, now)
    lines, untold = await _fetch_rows(connection, question, kept)
    total, total_untold = lines, untold
    if question.group_by:
        total, total_untold = await _fetch_rows(connection, replace(question, group_by=(), top=None), kept)
    if not total:
        await require_known_names(connection, question.filters, question.only_key, question.only_tenant)
    return UsageResult(
        rows=await _with_key_names(connection, lines) if "key" in question.group_by else lines,
        total=total[0] if total else EMPTY_ROW,
        unknown_spans=untold,
        total_unknown_spans=total_untold,
        has_more=len(lines) >= question.max_rows,
    )


async def _fetch_available(connection: Connection, now: datetime) -> AvailableData:
    found = await connection.fetchrow(_STORED)
    first, last, oldest = found if found is not None else (None, None, None)
    rows_since = datetime.strptime(oldest, "%Y%m%d").replace(tzinfo=UTC) if oldest else now
    return AvailableData(
        (first, last) if first and last else None, midnight(now.date(), UTC) - HOURS_RETENTION, rows_since
    )


async def _fetch_rows(
    connection: Connection, question: UsageQuery, kept: AvailableData
) -> tuple[list[UsageRow], list[TimeSpan]]:
    parts = split_query(question, kept)
    if parts is None:
        return [], []
    statement = build_statement(question, parts)
    rows = await connection.fetch(statement.text, *statement.arguments) if statement is not None else []
    untold: list[TimeSpan] = []
    if parts.unknown:
        used = used_days_statement(question, parts.unknown)
        days = {row["day"] for row in await connection.fetch(used.text, *used.arguments)}
        untold = clip_to_days(parts.unknown, days)
    return [_usage_row(row, question, parts.groups) for row in rows], untold


def _usage_row(row: asyncpg.Record, question: UsageQuery, groups: Sequence[datetime]) -> UsageRow:
    begin = groups[int(row["group"]) - 1]
    timed = int(row["timed"])
    return UsageRow(
        group={
            name: (row[name] or None)
            if name in NAME_COLUMNS
            else group_label(cast("TimeUnit", name), begin, question.zone)
            for name in question.group_by
        },
        requests=int(row["requests"]),
        succeeded=int(row["succeeded"]),
        cache_hits=int(row["cache_hits"]),
        prompt_tokens=int(row["prompt_tokens"]),
        completion_tokens=int(row["completion_tokens"]),
        cached_tokens=int(row["cached_tokens"]),
        reasoning_tokens=int(row["reasoning_tokens"]),
        cost_usd=row["cost_usd"],
        unpriced_requests=int(row["unpriced"]),
        estimated_requests=int(row["estimated"]),
        avg_latency_ms=round(float(row["latency_us"] / timed / 1000), 3) if timed else None,
    )


async def _with_key_names(connection: Connection, lines: Sequence[UsageRow]) -> list[UsageRow]:
    found = await key_names(connection, {line.group["key"] for line in lines})
    return [replace(line, group=add_key_name(line.group, found)) for line in lines]
