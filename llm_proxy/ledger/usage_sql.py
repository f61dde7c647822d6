"""Runs a usage query on Postgres: whole days and hours from the roll-ups, the rest from rows.

Invariants: an answer is one snapshot. Its parts are disjoint and cover the range, except for what is reported
as unknown; a day or an hour of a roll-up counts only if it lies in the range and in one group as a whole.
Answers replayed for an idempotency key are no requests. Only constants of this package reach the SQL text,
values travel as arguments.
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
from llm_proxy.ledger.key_families import of_family
from llm_proxy.ledger.latency_histogram import LatencyHistogram
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
from llm_proxy.quantities import Quantities

_USED = ("prompt_tokens", "completion_tokens", *Quantities._fields)
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
    f" OR {' + '.join(f'coalesce({name}, 0)' for name in _USED)} > 0))::int",
    "estimated": "(usage_source = 'estimated')::int",
    "timed": "(outcome <> 'lost')::int",
    "latency_us": "CASE WHEN outcome <> 'lost' THEN round(latency_ms * 1000)::bigint END",
    **{name: name for name in Quantities._fields},
    "latency_buckets": "latency_bucket(CASE WHEN outcome <> 'lost' THEN latency_ms END)",
    "ttft_buckets": "latency_bucket(ttft_ms)",
}
"""The sums of a usage row: the roll-ups' column, and the expression for one row of `requests`."""
HOURS_RETENTION = timedelta(days=34)
"""One day less than the hourly roll-up is kept, because the database's clock may differ."""
_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ROLLED_UP = frozenset({"agent", "tenant", "key", "root_key", "model", "provider"})
_OF_USERS = _ROLLED_UP - {"provider"} | {"user"}


@dataclass(frozen=True, slots=True)
class AvailableData:
    """The data in the database: the roll-up's first and last day, the beginnings of hours and of rows."""

    days: tuple[date, date] | None
    hours_since: datetime
    rows_since: datetime

    @property
    def span(self) -> TimeSpan | None:
        """The time from the first day to the end of the last; None without any day."""
        if self.days is None:
            return None
        first, last = (datetime.combine(day, time(), UTC) for day in self.days)
        return first, last + _DAY


@dataclass(frozen=True, slots=True)
class QueryParts:
    """The parts of a query's range, by the table that answers them.

    Attributes:
        groups: The beginnings of the groups of time, in order; one if the query has none.
        unknown: The spans that no table answers exactly.
    """

    groups: list[datetime]
    days: list[TimeSpan]
    hours: list[TimeSpan]
    rows: list[TimeSpan]
    unknown: list[TimeSpan]


def split_query(query: UsageQuery, available: AvailableData) -> QueryParts | None:
    """Splits a query's range; returns None if no data lies in it.

    Raises:
        BadRequest: The range has more groups of time than an answer has rows.
    """
    span = _overlap(query.time_span(), available.span)
    if span is None:
        return None
    groups = _groups(query, span)
    parts = QueryParts(groups, [], [], [], [])
    by_day, by_hour = query.names <= _ROLLED_UP | _OF_USERS, query.names <= _ROLLED_UP
    by_day = by_day and not {"user", "provider"} <= query.names
    for piece in consecutive_spans([*groups, span[1]]):
        for since, until in _take_whole(piece, _DAY, parts.days) if by_day else [piece]:
            rest = [(since, until)]
            if by_hour and until > available.hours_since:
                with_hours = max(since, available.hours_since)
                early = [(since, with_hours)] if since < with_hours else []
                rest = [*early, *_take_whole((with_hours, until), _HOUR, parts.hours)]
            for begin, end in rest:
                middle = min(max(begin, available.rows_since), end)
                parts.unknown.extend([(begin, middle)] if begin < middle else [])
                parts.rows.extend([(middle, end)] if middle < end else [])
    return QueryParts(
        groups,
        *(merge_spans(sorted(spans)) for spans in (parts.days, parts.hours, parts.rows, parts.unknown)),
    )


def _groups(query: UsageQuery, span: TimeSpan) -> list[datetime]:
    times: set[datetime] = {span[0]}
    for unit in query.time_units:
        for moment in group_starts(unit, span, query.zone):
            times.add(moment)
            if len(times) > MAX_ROWS:
                message = f"The range has more than {MAX_ROWS:,} of these times; ask for a shorter one."
                raise BadRequest(message, param="group_by")
    return sorted(times)


def _overlap(one: TimeSpan | None, other: TimeSpan | None) -> TimeSpan | None:
    if one is None or other is None:
        return None
    since, until = max(one[0], other[0]), min(one[1], other[1])
    return (since, until) if since < until else None


def _take_whole(piece: TimeSpan, length: timedelta, taken: list[TimeSpan]) -> list[TimeSpan]:
    """Moves the whole days or hours (UTC) of a span to `taken`; returns the rest of the span."""
    since, until = -(-(piece[0] - _EPOCH) // length) * length, (piece[1] - _EPOCH) // length * length
    if since >= until:
        return [piece]
    whole = (_EPOCH + since, _EPOCH + until)
    taken.append(whole)
    rest = ((piece[0], whole[0]), (whole[1], piece[1]))
    return [(begin, end) for begin, end in rest if begin < end]


@dataclass(frozen=True, slots=True)
class SqlStatement:
    """SQL text and its arguments."""

    text: str
    arguments: list[Any]


def build_statement(query: UsageQuery, parts: QueryParts) -> SqlStatement | None:
    """Builds the statement that answers; returns None without any part.

    It returns a row for each group: the group's number in `parts.groups`, its names and its sums.
    """
    arguments: list[Any] = []
    used = used_source(query, parts, arguments)
    return None if used is None else SqlStatement(_sum_sources(query, parts, used, arguments), arguments)


def used_source(query: UsageQuery, parts: QueryParts, arguments: list[Any]) -> str | None:
    """Returns the SELECT of a query's parts with `at`, its names and `SUMS`, or None; adds its arguments."""
    sources: list[str] = []
    if parts.days:
        users = "user" in query.names
        days = [(since.date(), until.date()) for since, until in parts.days]
        at = "day::timestamp AT TIME ZONE 'UTC'"
        table = _users_source(query) if users else "usage_daily"
        sources.append(_rollup_source(query, table, ("day", at, "date"), days, arguments))
    if parts.hours:
        hours = ("hour", "hour", "timestamptz")
        sources.append(_rollup_source(query, "usage_hourly", hours, parts.hours, arguments))
    if parts.rows:
        sources.append(_rows_source(query, parts.rows, arguments))
    return " UNION ALL ".join(sources) or None


def _sum_sources(query: UsageQuery, parts: QueryParts, used: str, arguments: list[Any]) -> str:
    names = [f'"{name}"' for name in query.group_by if name in NAME_COLUMNS]
    group = "1"
    if query.time_units:
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
    if query.top is None:
        return f"SELECT * FROM ({summed}) AS summed ORDER BY {place} LIMIT {query.max_rows}"  # noqa: S608
    arguments.append(query.top)
    numbered = (
        f'SELECT *, row_number() OVER (PARTITION BY "group" ORDER BY {place}) AS place FROM ({summed}) AS s'  # noqa: S608
    )
    return (
        f"SELECT * FROM ({numbered}) AS numbered WHERE place <= ${len(arguments)}"  # noqa: S608
        f" ORDER BY {place} LIMIT {query.max_rows}"
    )


def _rollup_source(
    query: UsageQuery,
    table: str,
    moment: tuple[str, str, str],
    spans: Sequence[tuple[Any, Any]],
    arguments: list[Any],
) -> str:
    """Returns the SELECT of a roll-up; `moment` is its time column, that column as a time, and its type."""
    column, at, kind = moment
    shown = [f'{NAME_COLUMNS[name]} AS "{name}"' for name in query.group_by if name in NAME_COLUMNS]
    source, conditions = _table_within(table, column, kind, spans, arguments)
    for name, value in query.filters.items():
        if name in NAME_COLUMNS:
            arguments.append(value)
            conditions.append(f"{NAME_COLUMNS[name]} = ${len(arguments)}")
    conditions += _of_only_key(query, arguments)
    columns = ", ".join([f"{at} AS at", *shown, *SUMS])
    return f"SELECT {columns} FROM {source} WHERE {' AND '.join(conditions)}"  # noqa: S608 -- names are this file's own


def _rows_source(query: UsageQuery, spans: Sequence[TimeSpan], arguments: list[Any]) -> str:
    source, conditions = _table_within("requests", "started_at", "timestamptz", spans, arguments)
    conditions.append("replay_of IS NULL")
    shown: list[str] = []
    for name in query.group_by:
        if name == "tag":
            source += " CROSS JOIN LATERAL unnest(coalesce(tags, ARRAY[NULL::text])) AS tagged (tag)"
            shown.append("coalesce(tag, '') AS \"tag\"")
        elif name in NAME_COLUMNS:
            shown.append(f"coalesce({NAME_COLUMNS[name]}, '') AS \"{name}\"")
    for name, value in query.filters.items():
        if name not in NAME_COLUMNS:
            continue
        if not value:
            conditions.append(f"{NAME_COLUMNS[name]} IS NULL")
            continue
        arguments.append([value] if name == "tag" else value)
        sign = "@>" if name == "tag" else "="
        conditions.append(f"{NAME_COLUMNS[name]} {sign} ${len(arguments)}")
    conditions += _of_only_key(query, arguments)
    sums = (f"{of_a_row} AS {name}" for name, of_a_row in SUMS.items())
    columns = ", ".join(["started_at AS at", *shown, *sums])
    return f"SELECT {columns} FROM {source} WHERE {' AND '.join(conditions)}"  # noqa: S608 -- names are this file's own


def _of_only_key(query: UsageQuery, arguments: list[Any]) -> list[str]:
    """Returns the condition that limits a query to a key and those below it; none if it may see all."""
    if query.only_key is None:
        return []
    arguments.append(query.only_key)
    return [of_family("key_id", f"${len(arguments)}")]


def _table_within(
    table: str, column: str, kind: str, spans: Sequence[tuple[Any, Any]], arguments: list[Any]
) -> tuple[str, list[str]]:
    """Returns the FROM item and the conditions that limit a table to these spans."""
    if len(spans) == 1:
        arguments.extend(spans[0])
        return table, [f"{column} >= ${len(arguments) - 1}", f"{column} < ${len(arguments)}"]
    arguments.extend([[since for since, _ in spans], [until for _, until in spans]])
    places = f"${len(arguments) - 1}::{kind}[], ${len(arguments)}::{kind}[]"
    inside = f"{column} >= begins AND {column} < ends"
    # OFFSET makes the planner look each span up instead of reading the whole table once.
    part = f"(SELECT * FROM {table} WHERE {inside} OFFSET 0) AS part"  # noqa: S608 -- names are this file's own
    return f"unnest({places}) AS span (begins, ends) CROSS JOIN LATERAL {part}", ["TRUE"]


def _users_source(query: UsageQuery) -> str:
    """Returns the FROM item of the users' roll-up by day.

    No roll-up has the requests without a user: they are all requests minus those with one.
    """
    named = "usage_users" if "model" in query.names else "usage_user_days"
    keys = [
        "day",
        *(["key_id"] if {"key", "root_key"} & query.names or query.only_key else []),
        *(NAME_COLUMNS[name] for name in ("tenant", "agent", "model") if name in query.names),
    ]
    rows = f"SELECT {', '.join([*keys, 'user_id', *SUMS])} FROM {named}"  # noqa: S608 -- names are this file's own
    if query.filters.get("user"):
        return f"({rows}) AS users"
    no_user, negated = ", ".join(keys) + ", ''", ", ".join(f"-{name}" for name in SUMS)
    all_users = f"SELECT {no_user}, {', '.join(SUMS)} FROM usage_daily"  # noqa: S608 -- the same
    known_users = f"SELECT {no_user}, {negated} FROM {named}"  # noqa: S608 -- the same
    return f"({rows} UNION ALL {all_users} UNION ALL {known_users}) AS users"


def used_days_statement(query: UsageQuery, spans: Sequence[TimeSpan]) -> SqlStatement:
    """Builds the statement that returns the days of these spans on which anything was used."""
    days = [(since.date(), (until - timedelta(microseconds=1)).date() + _DAY) for since, until in spans]
    arguments: list[Any] = []
    source, conditions = _table_within("usage_daily", "day", "date", days, arguments)
    for name in _ROLLED_UP.intersection(query.filters):
        arguments.append(query.filters[name])
        conditions.append(f"{NAME_COLUMNS[name]} = ${len(arguments)}")
    conditions += _of_only_key(query, arguments)
    where = " AND ".join(conditions)
    text = f"SELECT day FROM {source} WHERE {where} GROUP BY day HAVING sum(requests) > 0"  # noqa: S608 -- names are this file's own
    return SqlStatement(text, arguments)


def clip_to_days(spans: Sequence[TimeSpan], days: Collection[date]) -> list[TimeSpan]:
    """Returns the parts of the spans that lie in these days (UTC)."""
    clipped: list[TimeSpan] = []
    for since, until in spans:
        begin = since
        while begin < until:
            end = min(datetime.combine(begin.date() + _DAY, time(), UTC), until)
            if begin.date() in days:
                clipped.append((begin, end))
            begin = end
    return merge_spans(clipped)


_STATEMENT_S = 9
_STORED = """
    SELECT (SELECT min(day) FROM usage_daily), (SELECT max(day) FROM usage_daily),
           (SELECT min(right(c.relname, 8)) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'requests'::regclass AND c.relname ~ '^requests_[0-9]{8}$')"""


@asynccontextmanager
async def read_snapshot(connection: Connection) -> AsyncGenerator[None]:
    """Opens a read-only transaction on one snapshot; the server ends a statement after 9 seconds."""
    transaction = connection.transaction(isolation="repeatable_read", readonly=True)
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL statement_timeout = '{_STATEMENT_S}s'")
        yield
    except asyncio.CancelledError:
        connection.terminate()  # a rollback would wait for a silent server
        raise
    except BaseException:
        await transaction.rollback()
        raise
    else:
        await transaction.commit()


async def run_query(connection: Connection, query: UsageQuery, now: datetime) -> UsageResult:
    """Answers a query; raises `BadRequest`, or `NotFound` for an unknown name."""
    query = await resolve_key_filter(connection, query)
    available = await fetch_available(connection, now)
    usage_rows, unknown = await _fetch_rows(connection, query, available)
    total, total_unknown = usage_rows, unknown
    if query.group_by:
        total, total_unknown = await _fetch_rows(connection, replace(query, group_by=(), top=None), available)
    if not total:
        await require_known_names(connection, query.filters, query.only_key, query.only_tenant)
    return UsageResult(
        rows=await _with_key_names(connection, usage_rows) if "key" in query.group_by else usage_rows,
        total=total[0] if total else EMPTY_ROW,
        unknown_spans=unknown,
        total_unknown_spans=total_unknown,
        has_more=len(usage_rows) >= query.max_rows,
    )


async def fetch_available(connection: Connection, now: datetime) -> AvailableData:
    """Returns what data there is."""
    row = await connection.fetchrow(_STORED)
    first, last, oldest = row if row is not None else (None, None, None)
    rows_since = datetime.strptime(oldest, "%Y%m%d").replace(tzinfo=UTC) if oldest else now
    return AvailableData(
        (first, last) if first and last else None, midnight(now.date(), UTC) - HOURS_RETENTION, rows_since
    )


async def _fetch_rows(
    connection: Connection, query: UsageQuery, available: AvailableData
) -> tuple[list[UsageRow], list[TimeSpan]]:
    parts = split_query(query, available)
    if parts is None:
        return [], []
    statement = build_statement(query, parts)
    rows = await connection.fetch(statement.text, *statement.arguments) if statement is not None else []
    unknown: list[TimeSpan] = []
    if parts.unknown:
        used = used_days_statement(query, parts.unknown)
        days = {row["day"] for row in await connection.fetch(used.text, *used.arguments)}
        unknown = clip_to_days(parts.unknown, days)
    return [usage_row(row, _group_of(row, query, parts.groups)) for row in rows], unknown


def _group_of(row: asyncpg.Record, query: UsageQuery, groups: Sequence[datetime]) -> dict[str, Any]:
    begin = groups[int(row["group"]) - 1]
    return {
        name: (row[name] or None)
        if name in NAME_COLUMNS
        else group_label(cast("TimeUnit", name), begin, query.zone)
        for name in query.group_by
    }


def usage_row(row: asyncpg.Record, group: dict[str, Any]) -> UsageRow:
    """Returns the sums of a row that has all of `SUMS`."""
    timed = int(row["timed"])
    return UsageRow(
        group=group,
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
        quantities=Quantities(*(int(row[name]) for name in Quantities._fields)),
        latencies=LatencyHistogram.unpack(int(row["latency_buckets"])),
        first_token_times=LatencyHistogram.unpack(int(row["ttft_buckets"])),
    )


async def _with_key_names(connection: Connection, usage_rows: Sequence[UsageRow]) -> list[UsageRow]:
    names = await key_names(connection, {row.group["key"] for row in usage_rows})
    return [replace(row, group=add_key_name(row.group, names)) for row in usage_rows]
