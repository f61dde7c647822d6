"""Usage and single requests, queried in Postgres (`PostgresUsage`) or in memory (mock mode, `MemoryUsage`).

Invariants: nothing is written but audit entries and erasures of payloads; every query has a deadline; an id
finds its partition by the time inside it. Memory keeps the last 10,000 calls.
Raises: `DatabaseUnavailable`, `BadRequest`, `NotFound`.
"""

import json
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, tzinfo
from itertools import groupby, islice, product
from typing import Any, Protocol, cast
from uuid import UUID

import asyncpg

from llm_proxy.identity.audit import Actor, Person, write_audit
from llm_proxy.json_access import Json
from llm_proxy.ledger.key_families import is_in_family
from llm_proxy.ledger.latency_histogram import LatencyHistogram
from llm_proxy.ledger.model_health import ModelHealth, fetch_health
from llm_proxy.ledger.record import COLUMNS, MAX_NAME_CHARS, PARTITION_MARGIN, UsageRecord
from llm_proxy.ledger.rejected_requests import (
    RejectionScope,
    fetch_rejected,
    fetch_rejection_counts,
    minute_around,
)
from llm_proxy.ledger.usage_names import (
    add_key_name,
    key_names,
    resolve_key,
    unknown_name_error,
)
from llm_proxy.ledger.usage_overview import (
    Measure,
    UsageComparison,
    UsageSeries,
    compare_ranges,
    usage_over_time,
)
from llm_proxy.ledger.usage_query import (
    NAME_COLUMNS,
    TimeSpan,
    TimeUnit,
    UsageQuery,
    UsageResult,
    UsageRow,
    group_label,
)
from llm_proxy.ledger.usage_sql import read_snapshot, run_query
from llm_proxy.money import nano_to_usd
from llm_proxy.quantities import Quantities
from llm_proxy.schema.connections import open_command_pool
from llm_proxy.schema.database import db_deadline, sanitize_text
from llm_proxy.telemetry import timestamp_of

_DEADLINE_S = 10.0
_JSON = ("hops", "cost_breakdown", "token_details", "reached")
_CALLS = "SELECT * FROM {} WHERE call_id = $1 ORDER BY started_at"
_LAST_USE = """
SELECT k.key_id, (SELECT max(started_at) FROM requests r WHERE r.key_id = k.key_id) AS at
FROM unnest($1::text[]) AS k(key_id)
"""
_MOVING = "SELECT to_regclass('llm_calls_before') IS NOT NULL"
"""Whether a migration is still moving the log of model calls, the newest first."""


class UsageStore(Protocol):
    """Answers usage queries: Postgres, or memory in mock mode."""

    async def query(self, query: UsageQuery, now: datetime) -> UsageResult:
        """Answers a usage query; raises `BadRequest`, or `NotFound` for an unknown name."""
        ...

    async def request_detail(self, request_id: UUID) -> Json | None:
        """Returns one request; None if unknown."""
        ...

    async def rejected_in_minute(self, request_id: UUID, scope: RejectionScope) -> list[Json]:
        """Returns the counts of rejections in the minute of a request id."""
        ...


class PostgresUsage:
    """Usage, requests and payloads in Postgres; a `UsageStore`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool

    async def query(self, query: UsageQuery, now: datetime) -> UsageResult:
        """Answers a usage query; raises `BadRequest`, or `NotFound` for an unknown name."""
        async with db_deadline(_DEADLINE_S), self.pool.acquire() as connection, read_snapshot(connection):
            return await run_query(connection, query, now)

    async def compare(self, query: UsageQuery, before: TimeSpan, top: int, now: datetime) -> UsageComparison:
        """Compares a query's range with one before; see `compare_ranges`."""
        async with db_deadline(_DEADLINE_S), self.pool.acquire() as connection, read_snapshot(connection):
            return await compare_ranges(connection, query, before, top, now)

    async def over_time(self, query: UsageQuery, measure: Measure, top: int, now: datetime) -> UsageSeries:
        """Returns a query's usage over time; see `usage_over_time`."""
        async with db_deadline(_DEADLINE_S), self.pool.acquire() as connection, read_snapshot(connection):
            return await usage_over_time(connection, query, measure, top, now)

    async def request_detail(self, request_id: UUID) -> Json | None:
        """Returns a request's row and model calls, or its rejection from the sample; None if unknown."""
        moment = timestamp_of(request_id)
        async with db_deadline(_DEADLINE_S), self.pool.acquire() as connection:
            row = await connection.fetchrow(
                "SELECT * FROM requests WHERE request_id = $1 AND started_at BETWEEN $2 AND $3",
                request_id, moment - PARTITION_MARGIN, moment + PARTITION_MARGIN,
            )  # fmt: skip
            if row is None:
                rejected = await fetch_rejected(connection, request_id)
                return None if rejected is None else rejected_as_dict(rejected)
            calls = await connection.fetch(_CALLS.format("llm_calls"), request_id)
            if not calls and await connection.fetchval(_MOVING):
                calls = await connection.fetch(_CALLS.format("llm_calls_before"), request_id)
        return {**row_as_dict(row), "model_calls": [row_as_dict(call) for call in calls]}

    async def rejection_counts(
        self, since: datetime, until: datetime, key: str | None = None, tenant: str | None = None
    ) -> list[Json]:
        """Returns the exact counts of rejections; raises `NotFound` for an unknown key.

        Args:
            since: The beginning of the range.
            until: Its end, exclusive.
            key: Only those of this key, by its name, id or prefix.
            tenant: Only those of this tenant.
        """
        async with db_deadline(_DEADLINE_S), self.pool.acquire() as connection, read_snapshot(connection):
            key_id = None if key is None else await resolve_key(connection, key)
            return await fetch_rejection_counts(connection, since, until, RejectionScope(key_id, tenant))

    async def rejected_in_minute(self, request_id: UUID, scope: RejectionScope) -> list[Json]:
        """Returns the counts of rejections in the minute of a request id."""
        async with db_deadline(_DEADLINE_S), self.pool.acquire() as connection:
            span = minute_around(request_id)
            return await fetch_rejection_counts(connection, *span, scope)

    async def last_use(self, key_ids: list[str]) -> dict[str, datetime]:
        """Returns when the latest admitted call of each key began; keys without a call are left out."""
        async with db_deadline(_DEADLINE_S):
            rows = await self.pool.fetch(_LAST_USE, key_ids)
        return {row["key_id"]: row["at"] for row in rows if row["at"] is not None}

    async def names_of_keys(self, ids: Iterable[str]) -> dict[str, str]:
        """Returns the names of keys by id, without those of keys that are not stored."""
        async with db_deadline(_DEADLINE_S), self.pool.acquire() as connection:
            return await key_names(connection, ids)

    async def model_health(self, now: datetime) -> ModelHealth:
        """Returns how the models have fared up to now."""
        async with db_deadline(_DEADLINE_S), self.pool.acquire() as connection:
            return await fetch_health(connection, now)

    async def get_payload(self, request_id: UUID) -> dict[str, str | None] | None:
        """Returns a call's prompt and answer, redacted; None if they are not stored."""
        moment = timestamp_of(request_id)
        async with db_deadline(_DEADLINE_S):
            row = await self.pool.fetchrow(
                "SELECT prompt, answer FROM payloads WHERE request_id = $1 AND started_at BETWEEN $2 AND $3",
                request_id, moment - PARTITION_MARGIN, moment + PARTITION_MARGIN,
            )  # fmt: skip
        return None if row is None else {"prompt": row["prompt"], "answer": row["answer"]}

    async def audit_payload_read(self, request_id: UUID, actor: Actor) -> None:
        """Records in the audit log that an admin reads a call's payload."""
        async with db_deadline(_DEADLINE_S), self.pool.acquire() as connection, connection.transaction():
            await write_audit(connection, actor, "payloads.read", str(request_id))

    async def erase_payloads(self, tenant: str | None, user: str, actor: Actor) -> int:
        """Deletes a user's payloads, with an audit entry; returns the number of calls.

        Args:
            tenant: None means calls without a tenant.
            user: The name in the calls.
            actor: The author.
        """
        async with db_deadline(_DEADLINE_S), self.pool.acquire() as connection, connection.transaction():
            status = await connection.execute(
                "DELETE FROM payloads WHERE user_id = $1 AND tenant IS NOT DISTINCT FROM $2",
                *(
                    sanitize_text(name)[:MAX_NAME_CHARS] if name is not None else None
                    for name in (user, tenant)
                ),
            )
            erased = int(status.rpartition(" ")[2])
            detail = {"tenant": tenant, "calls": erased}
            await write_audit(connection, actor, "payloads.erase", Person(user, tenant), detail)
        return erased


@asynccontextmanager
async def open_usage(dsn: str, tls: ssl.SSLContext | None = None) -> AsyncGenerator[PostgresUsage]:
    """Opens usage for one command, with its own connections; raises `DatabaseUnavailable`.

    Args:
        dsn: The database's URL.
        tls: None means that the URL says how to connect.
    """
    async with open_command_pool(dsn, tls) as pool:
        async with db_deadline(_DEADLINE_S), pool.acquire():
            pass  # a database that refuses raises before the first query
        yield PostgresUsage(pool)


def row_as_dict(row: asyncpg.Record) -> Json:
    """Returns the row with its JSON columns decoded."""
    values = dict(row)
    return values | {name: json.loads(values[name]) for name in _JSON if values.get(name) is not None}


def rejected_as_dict(row: asyncpg.Record) -> Json:
    """Returns the row of a rejected request as that of a call, with its own outcome."""
    return {**row_as_dict(row), "outcome": "refused"}


MAX_MEMORY_CALLS = 10_000
_FIELDS = {"key": "key_id", "model": "group"}


class MemoryUsage:
    """Usage and requests of this process's last calls, in memory; a `UsageStore` for mock mode."""

    def __init__(self) -> None:
        self._records: deque[UsageRecord] = deque(maxlen=MAX_MEMORY_CALLS)

    def add(self, record: UsageRecord) -> None:
        """Adds a finished call."""
        self._records.append(record)

    async def query(self, query: UsageQuery, now: datetime) -> UsageResult:  # noqa: ARG002 -- the protocol's
        """Answers a usage query; raises `BadRequest`, or `NotFound` for an unknown name."""
        query = self._with_key_id(query)
        span = query.time_span()
        filters = [(name, value) for name, value in query.filters.items() if name in NAME_COLUMNS]
        selected = [
            record
            for record in self._records
            if span is not None
            and record.replay_of is None
            and span[0] <= record.started_at < span[1]
            and all(value in (_names_in_record(record, name) or ("",)) for name, value in filters)
            and (query.only_key is None or _is_of(record, query.only_key))
        ]
        if not selected:
            self._require_known(filters)
        groups: dict[tuple[Any, ...], list[UsageRecord]] = {}
        for record in selected:
            for group in product(*(_groups_of(record, name, query.zone) for name in query.group_by)):
                groups.setdefault(group, []).append(record)
        rows = [
            _usage_row(add_key_name(dict(zip(query.group_by, group, strict=True)), {}), records)
            for group, records in groups.items()
        ]
        rows.sort(key=lambda row: _sort_key(row, query))
        rows = _limit_rows(rows, query)
        return UsageResult(rows, _usage_row({}, selected), has_more=len(rows) >= query.max_rows)

    def _with_key_id(self, query: UsageQuery) -> UsageQuery:
        name, only_key = query.filters.get("key"), query.only_key
        if name is None:
            return query
        keys = (
            record.key_id
            for record in self._records
            if name in {record.key_id, record.key_prefix} and (only_key is None or _is_of(record, only_key))
        )
        key_id = next(keys, None)
        if key_id is None:
            raise unknown_name_error("key", name)
        return replace(query, filters={**query.filters, "key": key_id})

    def _require_known(self, filters: Iterable[tuple[str, str]]) -> None:
        for name, value in filters:
            if value and not any(value in _names_in_record(record, name) for record in self._records):
                raise unknown_name_error(name, value)

    async def request_detail(self, request_id: UUID) -> Json | None:
        """Returns a request as its row in Postgres would be; None if unknown."""
        record = next((record for record in self._records if record.request_id == request_id), None)
        if record is None:
            return None
        row: Json = {COLUMNS.get(name, name): value for name, value in record._asdict().items()}
        nano_usd = record.cost_nano_usd
        cost_usd = None if nano_usd is None else nano_to_usd(nano_usd)
        decoded = {name: json.loads(row[name]) if row[name] else None for name in ("hops", "token_details")}
        lists = {name: row[name].split(",") if row[name] else None for name in ("tags", "key_ancestors")}
        return {**row, **decoded, **lists, "cost_usd": cost_usd, "model_calls": []}

    async def rejected_in_minute(self, request_id: UUID, scope: RejectionScope) -> list[Json]:  # noqa: ARG002 -- the protocol's
        """Returns nothing: mock mode counts no rejections."""
        return []


def _is_of(record: UsageRecord, key_id: str) -> bool:
    """Whether a call is a key's or of a key below it."""
    return is_in_family(key_id, record.key_id, (record.key_ancestors or "").split(","))


def _names_in_record(record: UsageRecord, name: str) -> tuple[str, ...]:
    """Returns a record's values of a dimension that is a name; only tags may be several."""
    if name == "tag":
        return tuple(record.tags.split(",")) if record.tags else ()
    value: str | None = getattr(record, _FIELDS.get(name, name))
    return (value,) if value else ()


def _groups_of(record: UsageRecord, dimension: str, zone: tzinfo) -> tuple[Any, ...]:
    if dimension in NAME_COLUMNS:
        return _names_in_record(record, dimension) or (None,)
    return (group_label(cast("TimeUnit", dimension), record.started_at, zone),)


def _limit_rows(rows: list[UsageRow], query: UsageQuery) -> list[UsageRow]:
    if query.top is None:
        return rows[: query.max_rows]
    limited: list[UsageRow] = []
    for _, rows_of_time in groupby(rows, lambda row: [row.group[unit] for unit in query.time_units]):
        limited.extend(islice(rows_of_time, query.top))
    return limited[: query.max_rows]


def _usage_row(group: Json, records: list[UsageRecord]) -> UsageRow:
    latencies_ms = [one.latency_ms for one in records if one.outcome != "lost"]
    return UsageRow(
        group=group,
        requests=len(records),
        succeeded=sum(one.outcome == "ok" for one in records),
        cache_hits=sum(one.cache == "hit" for one in records),
        prompt_tokens=_sum(one.prompt_tokens for one in records),
        completion_tokens=_sum(one.completion_tokens for one in records),
        cached_tokens=_sum(one.cached_tokens for one in records),
        reasoning_tokens=_sum(one.reasoning_tokens for one in records),
        cost_usd=nano_to_usd(_sum(one.cost_nano_usd for one in records)),
        unpriced_requests=sum(one.is_unpriced for one in records),
        estimated_requests=sum(one.usage_source == "estimated" for one in records),
        avg_latency_ms=round(sum(latencies_ms) / len(latencies_ms), 3) if latencies_ms else None,
        quantities=Quantities(*(_sum(getattr(one, name) for one in records) for name in Quantities._fields)),
        latencies=LatencyHistogram.count(latencies_ms),
        first_token_times=LatencyHistogram.count(one.ttft_ms for one in records if one.ttft_ms is not None),
    )


def _sum(values: Iterable[int | None]) -> int:
    return sum(value or 0 for value in values)


def _sort_key(row: UsageRow, query: UsageQuery) -> tuple[Any, ...]:
    times = [row.group[unit] for unit in query.time_units]
    names = [row.group[name] or "" for name in query.group_by if name in NAME_COLUMNS]
    return (*times, -row.cost_usd, -row.requests, *names)
