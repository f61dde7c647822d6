"""Usage and single requests, queried in Postgres (`PostgresUsage`) or in memory (mock mode, `MemoryUsage`).

Invariants: nothing is written but audit entries and erasures of payloads; every query has a deadline; an id
finds its partition by the time inside it. Memory keeps the last 10,000 calls.
Raises: `DatabaseUnavailable`, `BadRequest`, `NotFound`.
"""

import json
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal
from itertools import groupby, islice, product
from typing import Any, cast
from uuid import UUID

import asyncpg

from llm_proxy.errors import BadRequest
from llm_proxy.identity.audit import Actor, Person, write_audit
from llm_proxy.ledger.observers import MAX_NAME_CHARS
from llm_proxy.ledger.record import COLUMNS, UsageRecord
from llm_proxy.ledger.rejected_requests import (
    RejectionScope,
    fetch_latest_rejected,
    fetch_rejected,
    fetch_rejection_counts,
    minute_around,
    scope_from_filters,
)
from llm_proxy.ledger.usage_names import add_key_name, require_known_names, resolve_key, unknown_name_error
from llm_proxy.ledger.usage_query import (
    NAME_COLUMNS,
    TimeUnit,
    UsageQuery,
    UsageResult,
    UsageRow,
    group_label,
)
from llm_proxy.ledger.usage_sql import read_snapshot, run_query
from llm_proxy.schema.database import db_deadline, sanitize_text
from llm_proxy.telemetry import timestamp_of

_DEADLINE_S = 10.0
_NEAR = timedelta(hours=1)
_JSON = ("hops", "cost_breakdown", "token_details", "reached")
_CALLS = "SELECT * FROM {} WHERE call_id = $1 ORDER BY started_at"
_MOVING = "SELECT to_regclass('llm_calls_before') IS NOT NULL"
"""A migration is still moving the log of model calls, the newest first."""


@dataclass(frozen=True, slots=True)
class RecentQuery:
    """Which requests are wanted: the latest of a range.

    Attributes:
        filters: Names of `NAME_COLUMNS`, or `outcome`, to values.
    """

    since: datetime
    until: datetime
    filters: Mapping[str, str]
    limit: int

    def __post_init__(self) -> None:
        unknown = [name for name in self.filters if name not in NAME_COLUMNS and name != "outcome"]
        if unknown:
            raise BadRequest(f"There is no '{unknown[0][:40]}' to filter by.", param=unknown[0][:40])


class PostgresUsage:
    """Answers about what was used.

    Attributes:
        pool: Where it asks.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool

    async def query(self, question: UsageQuery, now: datetime) -> UsageResult:
        """The answer; raises `BadRequest`, and `NotFound` for a name that nobody knows."""
        async with db_deadline(_DEADLINE_S), self.pool.acquire() as connection, read_snapshot(connection):
            return await run_query(connection, question, now)

    async def request_detail(self, request_id: UUID) -> dict[str, Any] | None:
        """One request: its row, or why it was refused, and the model calls made for it; None if unknown."""
        moment = timestamp_of(request_id)
        async with db_deadline(_DEADLINE_S), self.pool.acquire() as connection:
            row = await connection.fetchrow(
                "SELECT * FROM requests WHERE request_id = $1 AND started_at BETWEEN $2 AND $3",
                request_id, moment - _NEAR, moment + _NEAR,
            )  # fmt: skip
            if row is None:
                refused = await fetch_rejected(connection, request_id)
                return None if refused is None else _rejected_as_dict(refused)
            calls = await connection.fetch(_CALLS.format("llm_calls"), request_id)
            if not calls and await connection.fetchval(_MOVING):
                calls = await connection.fetch(_CALLS.format("llm_calls_before"), request_id)
        return {**_row_as_dict(row), "model_calls": [_row_as_dict(call) for call in calls]}

    async def recent_requests(self, asked: RecentQuery) -> list[dict[str, Any]]:
        """The latest of these requests, newest first; raises `NotFound` for a name that nobody knows."""
        async with db_deadline(_DEADLINE_S), self.pool.acquire() as connection, read_snapshot(connection):
            where = dict(asked.filters)
            if "key" in where:
                where["key"] = await resolve_key(connection, where["key"])
            conditions = ["started_at >= $1", "started_at < $2"]
            arguments: list[Any] = [asked.since, asked.until, asked.limit]
            for name, value in where.items():
                arguments.append([value] if name == "tag" else value)
                column = NAME_COLUMNS.get(name, name)
                conditions.append(f"{column} {'@>' if name == 'tag' else '='} ${len(arguments)}")
            statement = (
                f"SELECT * FROM requests WHERE {' AND '.join(conditions)} ORDER BY started_at DESC LIMIT $3"  # noqa: S608 -- names are the question's own
            )
            rows = await connection.fetch(statement, *arguments)
            if not rows:
                await require_known_names(connection, where)
        return [_row_as_dict(row) for row in rows]

    async def recent_rejected(self, asked: RecentQuery) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The latest refusals of the sample, and the exact counts; of all agents, users and models.

        Raises `BadRequest` for a filter that no refusal is kept by, `NotFound` for a name that nobody knows.
        """
        async with db_deadline(_DEADLINE_S), self.pool.acquire() as connection, read_snapshot(connection):
            where = {name: value for name, value in asked.filters.items() if name != "outcome"}
            if "key" in where:
                where["key"] = await resolve_key(connection, where["key"])
            span = asked.since, asked.until
            rows = await fetch_latest_rejected(connection, *span, where, asked.limit)
            whose = scope_from_filters(where)
            counted = await fetch_rejection_counts(connection, *span, whose)
            if not rows and not counted:
                await require_known_names(connection, where)
        return [_rejected_as_dict(row) for row in rows], counted

    async def rejected_in_minute(self, request_id: UUID, whose: RejectionScope) -> list[dict[str, Any]]:
        """How many were refused in the minute of this request, whatever became of it."""
        async with db_deadline(_DEADLINE_S), self.pool.acquire() as connection:
            span = minute_around(request_id)
            return await fetch_rejection_counts(connection, *span, whose)

    async def get_payload(self, request_id: UUID) -> dict[str, str | None] | None:
        """What was said in a call, redacted; None when it was not kept, or is no longer."""
        moment = timestamp_of(request_id)
        async with db_deadline(_DEADLINE_S):
            row = await self.pool.fetchrow(
                "SELECT prompt, answer FROM payloads WHERE request_id = $1 AND started_at BETWEEN $2 AND $3",
                request_id, moment - _NEAR, moment + _NEAR,
            )  # fmt: skip
        return None if row is None else {"prompt": row["prompt"], "answer": row["answer"]}

    async def audit_payload_read(self, request_id: UUID, actor: Actor) -> None:
        """Record in the audit log that an admin reads what was said in a call."""
        async with db_deadline(_DEADLINE_S), self.pool.acquire() as connection, connection.transaction():
            await write_audit(connection, actor, "payloads.read", str(request_id))

    async def erase_payloads(self, tenant: str | None, user: str, actor: Actor) -> int:
        """Delete what this user said and was answered, and put that on record; returns how many calls.

        Args:
            tenant: None: calls without a tenant.
            user: As the calls named it.
            actor: Who asks.
        """
        async with db_deadline(_DEADLINE_S), self.pool.acquire() as connection, connection.transaction():
            done = await connection.execute(
                "DELETE FROM payloads WHERE user_id = $1 AND tenant IS NOT DISTINCT FROM $2",
                *(
                    sanitize_text(name)[:MAX_NAME_CHARS] if name is not None else None
                    for name in (user, tenant)
                ),
            )
            erased = int(done.rpartition(" ")[2])
            detail = {"tenant": tenant, "calls": erased}
            await write_audit(connection, actor, "payloads.erase", Person(user, tenant), detail)
        return erased


@asynccontextmanager
async def open_usage(dsn: str, tls: ssl.SSLContext | None = None) -> AsyncGenerator[PostgresUsage]:
    """Usage over a connection of its own, for the command line; raises `DatabaseUnavailable`.

    Args:
        dsn: The database's address.
        tls: Whom to trust there; without it what the address says.
    """
    async with db_deadline(_DEADLINE_S):
        pool = await asyncpg.create_pool(dsn, min_size=1, max_size=2, ssl=tls)
    try:
        yield PostgresUsage(pool)
    finally:
        await pool.close()


def _row_as_dict(row: asyncpg.Record) -> dict[str, Any]:
    """The row, its JSON columns read."""
    found = dict(row)
    return found | {name: json.loads(found[name]) for name in _JSON if found.get(name) is not None}


def _rejected_as_dict(row: asyncpg.Record) -> dict[str, Any]:
    return {**_row_as_dict(row), "outcome": "refused"}


MAX_MEMORY_CALLS = 10_000
_FIELDS = {"key": "key_id", "model": "group"}


class MemoryUsage:
    """Keeps the last calls of this process, and answers about them."""

    def __init__(self) -> None:
        self._records: deque[UsageRecord] = deque(maxlen=MAX_MEMORY_CALLS)

    def add(self, record: UsageRecord) -> None:
        """A call ended."""
        self._records.append(record)

    async def query(self, question: UsageQuery, now: datetime) -> UsageResult:  # noqa: ARG002 -- as Postgres is asked
        """The answer; raises `BadRequest`, and `NotFound` for a name that nobody knows."""
        question = self._with_key_id(question)
        span = question.time_span()
        where = [(name, value) for name, value in question.filters.items() if name in NAME_COLUMNS]
        found = [
            record
            for record in self._records
            if span is not None
            and span[0] <= record.started_at < span[1]
            and all(value in (_names_in_record(record, name) or ("",)) for name, value in where)
        ]
        if not found:
            self._check_known(where)
        groups: dict[tuple[Any, ...], list[UsageRecord]] = {}
        for record in found:
            for group in product(*(_groups_of(record, name, question.zone) for name in question.group_by)):
                groups.setdefault(group, []).append(record)
        lines = [
            _usage_row(add_key_name(dict(zip(question.group_by, group, strict=True)), {}), of)
            for group, of in groups.items()
        ]
        lines.sort(key=lambda line: _sort_key(line, question))
        shown = _limit_rows(lines, question)
        return UsageResult(shown, _usage_row({}, found), has_more=len(shown) >= question.max_rows)

    def _with_key_id(self, question: UsageQuery) -> UsageQuery:
        given, owner = question.filters.get("key"), question.only_key
        if given is None and owner is None:
            return question
        keys = (one.key_id for one in self._records if given in {one.key_id, one.key_prefix})
        found = owner if given is None else next(keys, None)
        if found is None or (owner is not None and found != owner):
            raise unknown_name_error("key", given or "")
        return replace(question, filters={**question.filters, "key": found})

    def _check_known(self, where: Iterable[tuple[str, str]]) -> None:
        for name, value in where:
            if value and not any(value in _names_in_record(record, name) for record in self._records):
                raise unknown_name_error(name, value)

    async def request_detail(self, request_id: UUID) -> dict[str, Any] | None:
        """One request, as its row would be; None if unknown."""
        record = next((one for one in self._records if one.request_id == request_id), None)
        if record is None:
            return None
        row: dict[str, Any] = {COLUMNS.get(name, name): value for name, value in record._asdict().items()}
        nano_usd = record.cost_nano_usd
        cost_usd = None if nano_usd is None else Decimal(nano_usd).scaleb(-9)
        read = {name: json.loads(row[name]) if row[name] else None for name in ("hops", "token_details")}
        tags = record.tags.split(",") if record.tags else None
        return {**row, **read, "cost_usd": cost_usd, "tags": tags, "model_calls": []}

    async def rejected_in_minute(self, request_id: UUID, whose: RejectionScope) -> list[dict[str, Any]]:  # noqa: ARG002 -- as Postgres is asked
        """A mock counts no refusals."""
        return []


def _names_in_record(record: UsageRecord, name: str) -> tuple[str, ...]:
    """What a record says of a dimension that is a name; tags may be several."""
    if name == "tag":
        return tuple(record.tags.split(",")) if record.tags else ()
    value: str | None = getattr(record, _FIELDS.get(name, name))
    return (value,) if value else ()


def _groups_of(record: UsageRecord, dimension: str, zone: tzinfo) -> tuple[Any, ...]:
    if dimension in NAME_COLUMNS:
        return _names_in_record(record, dimension) or (None,)
    return (group_label(cast("TimeUnit", dimension), record.started_at, zone),)


def _limit_rows(lines: list[UsageRow], question: UsageQuery) -> list[UsageRow]:
    if question.top is None:
        return lines[: question.max_rows]
    kept: list[UsageRow] = []
    for _, of_a_time in groupby(lines, lambda line: [line.group[unit] for unit in question.time_units]):
        kept.extend(islice(of_a_time, question.top))
    return kept[: question.max_rows]


def _usage_row(group: dict[str, Any], records: list[UsageRecord]) -> UsageRow:
    timed = [one.latency_ms for one in records if one.outcome != "lost"]
    return UsageRow(
        group=group,
        requests=len(records),
        succeeded=sum(one.outcome == "ok" for one in records),
        cache_hits=sum(one.cache == "hit" for one in records),
        prompt_tokens=_sum(one.prompt_tokens for one in records),
        completion_tokens=_sum(one.completion_tokens for one in records),
        cached_tokens=_sum(one.cached_tokens for one in records),
        reasoning_tokens=_sum(one.reasoning_tokens for one in records),
        cost_usd=Decimal(_sum(one.cost_nano_usd for one in records)).scaleb(-9),
        unpriced_requests=sum(
            one.cost_nano_usd is None
            and (one.outcome == "ok" or bool(one.prompt_tokens or one.completion_tokens))
            for one in records
        ),
        estimated_requests=sum(one.usage_source == "estimated" for one in records),
        avg_latency_ms=round(sum(timed) / len(timed), 3) if timed else None,
    )


def _sum(values: Iterable[int | None]) -> int:
    return sum(value or 0 for value in values)


def _sort_key(line: UsageRow, question: UsageQuery) -> tuple[Any, ...]:
    times = [line.group[unit] for unit in question.time_units]
    names = [line.group[name] or "" for name in question.group_by if name in NAME_COLUMNS]
    return (*times, -line.cost_usd, -line.requests, *names)
