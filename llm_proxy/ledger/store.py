"""Writes the ledger's rows to Postgres and maintains their partitions.

Invariants: writing a row twice stores it once; every call has a deadline.
Raises: only `DatabaseUnavailable` (unreachable, slow, not migrated, statement rejected) and `RowsRejected`
(a row that Postgres will never accept).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg

from llm_proxy import schema
from llm_proxy.ledger.migration_runner import MigrationRunner
from llm_proxy.ledger.record import COLUMNS, FIELDS, MAX_NAME_CHARS, EncodedRow, row_started_at
from llm_proxy.ledger.retention import BATCH_ROWS, delete_expired, delete_seldom
from llm_proxy.quantities import Quantities
from llm_proxy.schema.database import db_deadline, is_missing_partition

_DEADLINE_S = 2.0
_LONG_DEADLINE_S = 30.0
_DAYS_AHEAD = 7
_ENRICH_OFTEN = timedelta(minutes=15)
_ENRICH_SELDOM = timedelta(days=2)
_ENRICH_UNTIL = timedelta(seconds=30)
_MAX_CHARS_BY_FIELD = {"provider_message": 600, "would_refuse": 500}

_TYPES = {
    "request_id": "uuid", "started_at": "timestamptz", "streamed": "bool", "status": "int2",
    "prompt_tokens": "int8", "completion_tokens": "int8", "cached_tokens": "int8", "reasoning_tokens": "int8",
    "cost_nano_usd": "int8", "attempts": "int4", "latency_ms": "float8", "ttft_ms": "float8",
    "hops": "jsonb", "cache_write_tokens": "int8", "token_details": "jsonb",
    "prompt_bytes": "int8", "max_tokens": "int8", "choices": "int4",
    **dict.fromkeys(Quantities._fields, "int8"), "queue_ms": "float4", "replay_of": "uuid",
    "guard_times": "int4",
}  # fmt: skip


def _insert() -> str:
    columns = ", ".join(COLUMNS.get(name, name) for name in FIELDS)
    values = ", ".join(_value(at, name) for at, name in enumerate(FIELDS))
    given = "jsonb_array_elements($1::jsonb) AS given (row)"
    return (
        f"INSERT INTO requests ({columns}) SELECT {values} FROM {given}"  # noqa: S608
        " ON CONFLICT (started_at, request_id) DO NOTHING"
    )  # names and types are this file's own


def _value(at: int, name: str) -> str:
    text = f"row ->> {at}"
    if name == "cost_nano_usd":
        return f"({text})::int8 * 0.000000001"
    if name in {"tags", "key_ancestors"}:
        return f"string_to_array({text}, ',')"
    if name in _TYPES:
        return f"({text})::{_TYPES[name]}"
    return f"left({text}, {_MAX_CHARS_BY_FIELD.get(name, MAX_NAME_CHARS)})"


_INSERT = _insert()
_INSERT_REFUSALS = """
    INSERT INTO refusals (request_id, refused_at, status, code, refused_by, door, key_id, key_prefix, tenant,
                          agent, model_group, user_id, reached, run_name, model)
    SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::int2[], $4::text[], $5::text[], $6::text[],
                         $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[],
                         $13::jsonb[], $14::text[], $15::text[])
    ON CONFLICT DO NOTHING"""
_INSERT_REFUSAL_COUNTS = """
    INSERT INTO refusal_counts AS kept (minute, key_id, tenant, code, limit_scope, limit_kind, worker, times)
    SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
                         $7::text[], $8::int8[]) ORDER BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (minute, key_id, tenant, code, limit_scope, limit_kind, worker)
        DO UPDATE SET times = greatest(kept.times, EXCLUDED.times)"""
_INSERT_PAYLOADS = """
    INSERT INTO payloads (request_id, started_at, tenant, agent, user_id, prompt, answer)
    SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[],
                         $7::text[])
    ON CONFLICT DO NOTHING"""


class LedgerStore:
    """The ledger's tables.

    Attributes:
        migration: Migrates the schema; nothing is written before it is done.
    """

    def __init__(self, pool: asyncpg.Pool, kept: Mapping[str, int]) -> None:
        """`kept` has the days for which each table's rows are kept, as `retention.days_kept` returns them."""
        self._pool = pool
        self._kept = kept
        self._days: set[date] = set()
        self._ahead = timedelta(0)  # of the database's clock before ours
        self.migration = MigrationRunner(pool)

    @property
    def migrated(self) -> bool:
        """Whether the schema is known to be of this version."""
        return self.migration.done

    async def insert_records(self, rows: Sequence[EncodedRow]) -> None:
        """Inserts rows into `requests`; rows that are there already stay as they are."""
        # One parameter, of lines that are there: the driver takes each value of many apart.
        document = (b"[" + b",".join([line for _, line in rows]) + b"]").decode()
        days = {row_started_at(row).date() for row, _ in rows}
        async with db_deadline(_DEADLINE_S), self._pool.acquire(timeout=_DEADLINE_S) as connection:
            await self._make_partitions(connection, days - self._days)
            try:
                await connection.execute(_INSERT, document)
            except asyncpg.CheckViolationError as fault:
                if not is_missing_partition(fault):
                    raise
                self._days -= days  # a partition that existed was dropped
                await self._make_partitions(connection, days)
                await connection.execute(_INSERT, document)

    async def _make_partitions(self, connection: schema.PgConnection, days: set[date]) -> None:
        for day in days:
            await connection.execute("SELECT requests_partition($1)", day)
            self._days.add(day)

    async def insert_rejected(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Inserts a sample of rejected requests; raises `DatabaseUnavailable` or `RowsRejected`."""
        async with db_deadline(_DEADLINE_S):
            await self._pool.execute(_INSERT_REFUSALS, *zip(*rows, strict=True))

    async def insert_rejection_counts(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Inserts or raises counts of rejected requests; raises `DatabaseUnavailable` or `RowsRejected`."""
        async with db_deadline(_DEADLINE_S):
            await self._pool.execute(_INSERT_REFUSAL_COUNTS, *zip(*rows, strict=True))

    async def insert_payloads(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Inserts payloads; raises `DatabaseUnavailable` or `RowsRejected`."""
        async with db_deadline(_LONG_DEADLINE_S):
            await self._pool.execute(_INSERT_PAYLOADS, *zip(*rows, strict=True))

    async def enrich(self, now: datetime, *, late: bool = False) -> int:
        """Replaces recent estimates by the sidecar's log; returns the number of changed rows.

        Args:
            now: The time by this process's clock.
            late: Look two days back instead of 15 minutes, for logs that came late.
        """
        now += self._ahead
        async with db_deadline(_LONG_DEADLINE_S):
            since = now - (_ENRICH_SELDOM if late else _ENRICH_OFTEN)
            until = now - _ENRICH_UNTIL
            return int(await self._pool.fetchval("SELECT enrich_requests($1, $2)", since, until) or 0)

    def within_retention(self, rows: Sequence[EncodedRow], now: datetime) -> list[EncodedRow]:
        """Returns the rows that are not past their retention: others would be dropped at once."""
        oldest = now + self._ahead - timedelta(days=self._kept["requests"])
        return [one for one in rows if row_started_at(one[0]) >= oldest]

    async def maintain_partitions(self) -> None:
        """Makes the next days' partitions and drops expired ones; raises `DatabaseUnavailable`.

        By the database's clock: a replica whose own is wrong drops nothing that others still need.
        """
        async with db_deadline(_LONG_DEADLINE_S), self._pool.acquire(timeout=_DEADLINE_S) as connection:
            now: datetime = await connection.fetchval("SELECT clock_timestamp()")
            self._ahead = now - datetime.now(UTC)
            today = now.astimezone(UTC).date()
            oldest = {name: today - timedelta(days=self._kept[name]) for name in ("requests", "llm_calls")}
            for ahead in range(_DAYS_AHEAD + 1):
                day = today + timedelta(days=ahead)
                await connection.execute("SELECT requests_partition($1), llm_calls_partition($1)", day)
            self._days = {day for day in self._days if day >= oldest["requests"]}
            await connection.execute("SELECT requests_retire($1)", oldest["requests"])
            await connection.execute("SELECT llm_calls_retire($1)", oldest["llm_calls"])
            await delete_seldom(connection, self._kept)

    async def delete_expired(self) -> int:
        """Deletes a batch of expired rows of tables that grow with calls; returns the number of rows."""
        async with db_deadline(_LONG_DEADLINE_S), self._pool.acquire(timeout=_DEADLINE_S) as connection:
            return await delete_expired(connection, self._kept)

    async def sum_past_day(self) -> bool:
        """Sums one day that is over by name, the newest that is not summed; returns False if none is left."""
        async with db_deadline(_LONG_DEADLINE_S):
            return bool(await self._pool.fetchval("SELECT sum_usage_days($1)", BATCH_ROWS))
