"""Runs a usage query on Postgres: whole days and hours from the roll-ups, the rest from rows.

Invariants: an answer is one snapshot, of the parts of `usage_parts`. Answers replayed for an idempotency key
are no requests. Only constants of this package reach the SQL text, values travel as arguments.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import asyncpg

from llm_proxy.identity.postgres_store import Connection
from llm_proxy.ledger.key_families import of_family
from llm_proxy.ledger.latency_histogram import LatencyHistogram
from llm_proxy.ledger.usage_names import add_key_name, key_names, require_known_names, resolve_key_filter
from llm_proxy.ledger.usage_parts import ROLLED_UP, AvailableData, QueryParts, split_by_day, split_query
from llm_proxy.ledger.usage_query import (
    EMPTY_ROW,
    NAME_COLUMNS,
    TimeSpan,
    TimeUnit,
    UsageQuery,
    UsageResult,
    UsageRow,
    group_label,
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
_DAY = timedelta(days=1)


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


def used_source(
    query: UsageQuery, parts: QueryParts, arguments: list[Any], sums: Collection[str] = SUMS
) -> str | None:
    """Returns the SELECT of a query's parts with `at`, its names and these sums; None without parts.

    Args:
        query: The query.
        parts: Its parts; days that are summed by name have histograms of all calls only.
        arguments: Gets the statement's arguments.
        sums: Names of `SUMS`.
    """
    sources: list[str] = []
    if parts.days:
        users = "user" in query.names
        days = [(since.date(), until.date()) for since, until in parts.days]
        at = "day::timestamp AT TIME ZONE 'UTC'"
        table = _users_source(query) if users else "usage_daily"
        sources.append(_rollup_source(query, (table, "day", at, "date"), days, arguments, sums))
    if parts.hours:
        hours = ("usage_hourly", "hour", "hour", "timestamptz")
        sources.append(_rollup_source(query, hours, parts.hours, arguments, sums))
    if parts.rows:
        sources.append(_rows_source(query, parts.rows, arguments, sums))
    sources += sums_by_name(query, parts, arguments, sums)
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
    rollup: tuple[str, str, str, str],
    spans: Sequence[tuple[Any, Any]],
    arguments: list[Any],
    sums: Collection[str],
) -> str:
    """Returns the SELECT of a roll-up: its table, its time column, that column as a time, and its type."""
    table, column, at, kind = rollup
    shown = [f'{NAME_COLUMNS[name]} AS "{name}"' for name in query.group_by if name in NAME_COLUMNS]
    source, conditions = _table_within(table, column, kind, spans, arguments)
    for name, value in query.filters.items():
        if name in NAME_COLUMNS:
            arguments.append(value)
            conditions.append(f"{NAME_COLUMNS[name]} = ${len(arguments)}")
    conditions += _of_only_key(query, arguments)
    columns = ", ".join([f"{at} AS at", *shown, *sums])
    return f"SELECT {columns} FROM {source} WHERE {' AND '.join(conditions)}"  # noqa: S608 -- names are this file's own


def sums_by_name(
    query: UsageQuery,
    parts: QueryParts,
    arguments: list[Any],
    sums: Collection[str],
    kinds: Sequence[str] | None = None,
) -> list[str]:
    """Returns the SELECTs of a query's days and hours that are summed by name; as `used_source`.

    Args:
        query: The query.
        parts: Its parts.
        arguments: Gets the statements' arguments.
        sums: Names of `SUMS`.
        kinds: Instead of the query's own name, all names of these kinds: columns `kind` and `name`.
    """
    own = next(iter(query.names), "")
    shown = ["kind", "name"] if kinds is not None else [f'name AS "{own}"'] if own in query.group_by else []
    days = [(since.date(), until.date()) for since, until in parts.summed_days]
    sources: list[str] = []
    for table, column, at, kind, spans in (
        ("usage_name_days", "day", "day::timestamp AT TIME ZONE 'UTC'", "date", days),
        ("usage_name_hours", "hour", "hour", "timestamptz", parts.summed_hours),
    ):
        if not spans:
            continue
        arguments.append([own] if kinds is None else list(kinds))
        named = f"kind = ANY(${len(arguments)})"
        if own in query.filters:
            arguments.append(query.filters[own])
            named += f" AND name = ${len(arguments)}"
        source, conditions = _table_within(table, column, kind, spans, arguments, named)
        columns = ", ".join([f"{at} AS at", *shown, *sums])
        sources.append(f"SELECT {columns} FROM {source} WHERE {' AND '.join(conditions)}")  # noqa: S608 -- names are this file's own
    return sources


def _rows_source(
    query: UsageQuery, spans: Sequence[TimeSpan], arguments: list[Any], wanted: Collection[str]
) -> str:
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
    sums = (f"{SUMS[name]} AS {name}" for name in wanted)
    columns = ", ".join(["started_at AS at", *shown, *sums])
    return f"SELECT {columns} FROM {source} WHERE {' AND '.join(conditions)}"  # noqa: S608 -- names are this file's own


def _of_only_key(query: UsageQuery, arguments: list[Any]) -> list[str]:
    """Returns the condition that limits a query to a key and those below it; none if it may see all."""
    if query.only_key is None:
        return []
    arguments.append(query.only_key)
    return [of_family("key_id", f"${len(arguments)}")]


def _table_within(
    table: str,
    column: str,
    kind: str,
    spans: Sequence[tuple[Any, Any]],
    arguments: list[Any],
    also: str = "TRUE",
) -> tuple[str, list[str]]:
    """Returns the FROM item and the conditions that limit a table to these spans, and to a condition."""
    if len(spans) == 1:
        arguments.extend(spans[0])
        return table, [also, f"{column} >= ${len(arguments) - 1}", f"{column} < ${len(arguments)}"]
    arguments.extend([[since for since, _ in spans], [until for _, until in spans]])
    places = f"${len(arguments) - 1}::{kind}[], ${len(arguments)}::{kind}[]"
    inside = f"{also} AND {column} >= begins AND {column} < ends"
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
    for name in ROLLED_UP.intersection(query.filters):
        arguments.append(query.filters[name])
        conditions.append(f"{NAME_COLUMNS[name]} = ${len(arguments)}")
    conditions += _of_only_key(query, arguments)
    where = " AND ".join(conditions)
    text = f"SELECT day FROM {source} WHERE {where} GROUP BY day HAVING sum(requests) > 0"  # noqa: S608 -- names are this file's own
    return SqlStatement(text, arguments)


_STATEMENT_S = 9
_STORED = """
    SELECT (SELECT min(day) FROM usage_daily), (SELECT max(day) FROM usage_daily),
           ARRAY(SELECT day FROM usage_summed_days),
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
    assert row is not None  # noqa: S101 -- of subqueries alone
    first, last, summed, oldest = row
    rows_since = datetime.strptime(oldest, "%Y%m%d").replace(tzinfo=UTC) if oldest else now
    return AvailableData(
        (first, last) if first and last else None,
        midnight(now.date(), UTC) - HOURS_RETENTION,
        rows_since,
        frozenset(summed),
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
        _, unknown = split_by_day(parts.unknown, days)
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
