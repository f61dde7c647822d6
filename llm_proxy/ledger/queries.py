"""What was used, asked of Postgres: sums from the roll-ups, single requests from their own rows.

Invariants: nothing is written but an erasure; every question has a deadline; an id finds its partition by
the time inside it; costs stay `Decimal` until somebody prints them. Raises `DatabaseUnavailable` when nobody
can tell now.
"""

import json
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg

from llm_proxy.database import clean_text, deadline
from llm_proxy.identity.audit import Actor, Person, audit
from llm_proxy.ledger.payload import LONGEST_NAME
from llm_proxy.ledger.question import Question, answer_sql
from llm_proxy.telemetry import time_of

_DEADLINE_S = 10.0
_NEAR = timedelta(hours=1)
_JSON = ("hops", "cost_breakdown")
_CALLS = "SELECT * FROM {} WHERE call_id = $1 ORDER BY started_at"
_MOVING = "SELECT to_regclass('llm_calls_before') IS NOT NULL"
"""A migration is still moving the log of model calls, the newest first."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an answer: the group, and its sums.

    Attributes:
        group: Dimension to value; None where the requests have none.
        cost_usd: Of the requests whose cost is known.
        unpriced_requests: Those whose cost is not.
        avg_latency_ms: None when nothing ended.
    """

    group: Mapping[str, Any]
    requests: int
    succeeded: int
    cache_hits: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_usd: Decimal
    unpriced_requests: int
    estimated_requests: int
    avg_latency_ms: float | None

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def success_rate(self) -> float:
        """From 0 to 1; 0 when there was nothing."""
        return self.succeeded / self.requests if self.requests else 0.0


class Usage:
    """Answers about what was used.

    Attributes:
        pool: Where it asks.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool

    async def ask(self, question: Question, now: datetime) -> list[Line]:
        """The lines of an answer, the costliest first, or by time; raises `BadRequest` too."""
        statement, arguments = answer_sql(question, now)
        async with deadline(_DEADLINE_S):
            rows = await self.pool.fetch(statement, *arguments)
        return [_line(row, question.by) for row in rows]

    async def total(self, question: Question, now: datetime) -> Line:
        """The sum of everything the question selects; zeros when that is nothing."""
        whole = Question(question.since, question.until, (), question.where)
        return (await self.ask(whole, now))[0]

    async def story(self, request_id: UUID) -> dict[str, Any] | None:
        """One request: its row, or why it was refused, and the model calls made for it; None if unknown."""
        moment = time_of(request_id)
        async with deadline(_DEADLINE_S), self.pool.acquire() as connection:
            row = await connection.fetchrow(
                "SELECT * FROM requests WHERE request_id = $1 AND started_at BETWEEN $2 AND $3",
                request_id, moment - _NEAR, moment + _NEAR,
            )  # fmt: skip
            if row is None:
                row = await connection.fetchrow(
                    "SELECT * FROM refusals WHERE request_id = $1 AND refused_at BETWEEN $2 AND $3",
                    request_id, moment - _NEAR, moment + _NEAR,
                )  # fmt: skip
            if row is None:
                return None
            calls = await connection.fetch(_CALLS.format("llm_calls"), request_id)
            if not calls and await connection.fetchval(_MOVING):
                calls = await connection.fetch(_CALLS.format("llm_calls_before"), request_id)
        return {**_plain(row), "model_calls": [_plain(call) for call in calls]}

    async def recent(self, since: datetime, *, where: Mapping[str, str], limit: int) -> list[dict[str, Any]]:
        """The latest requests since then, newest first.

        Args:
            since: Not before this.
            where: Column of `requests` (`agent`, `key_id`, `outcome`, `model_group`, `tenant`) to value.
            limit: At most so many.
        """
        known = {"agent", "key_id", "outcome", "model_group", "tenant", "provider", "user_id"}
        conditions = ["started_at >= $1"]
        arguments: list[Any] = [since, limit]
        for column, value in where.items():
            if column not in known:
                raise KeyError(column)
            arguments.append(value)
            conditions.append(f"{column} = ${len(arguments)}")
        statement = (
            f"SELECT * FROM requests WHERE {' AND '.join(conditions)} ORDER BY started_at DESC LIMIT $2"  # noqa: S608 -- names are checked above
        )
        async with deadline(_DEADLINE_S):
            return [_plain(row) for row in await self.pool.fetch(statement, *arguments)]

    async def payload(self, request_id: UUID) -> dict[str, str | None] | None:
        """What was said in a call, redacted; None when it was not kept, or is no longer."""
        moment = time_of(request_id)
        async with deadline(_DEADLINE_S):
            row = await self.pool.fetchrow(
                "SELECT prompt, answer FROM payloads WHERE request_id = $1 AND started_at BETWEEN $2 AND $3",
                request_id, moment - _NEAR, moment + _NEAR,
            )  # fmt: skip
        return None if row is None else {"prompt": row["prompt"], "answer": row["answer"]}

    async def erase_payloads(self, tenant: str | None, user: str, actor: Actor) -> int:
        """Delete what this user said and was answered, and put that on record; returns how many calls.

        Args:
            tenant: None: calls without a tenant.
            user: As the calls named it.
            actor: Who asks.
        """
        async with deadline(_DEADLINE_S), self.pool.acquire() as connection, connection.transaction():
            done = await connection.execute(
                "DELETE FROM payloads WHERE user_id = $1 AND tenant IS NOT DISTINCT FROM $2",
                *(clean_text(name)[:LONGEST_NAME] if name is not None else None for name in (user, tenant)),
            )
            erased = int(done.rpartition(" ")[2])
            detail = {"tenant": tenant, "calls": erased}
            await audit(connection, actor, "payloads.erase", Person(user, tenant), detail)
        return erased


@asynccontextmanager
async def connected(dsn: str, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Usage]:
    """Usage over a connection of its own, for the command line; raises `DatabaseUnavailable`.

    Args:
        dsn: The database's address.
        tls: Whom to trust there; without it what the address says.
    """
    async with deadline(_DEADLINE_S):
        pool = await asyncpg.create_pool(dsn, min_size=1, max_size=2, ssl=tls)
    try:
        yield Usage(pool)
    finally:
        await pool.close()


def _plain(row: asyncpg.Record) -> dict[str, Any]:
    """The row, its JSON columns read."""
    found = dict(row)
    return found | {name: json.loads(found[name]) for name in _JSON if found.get(name) is not None}


def _line(row: asyncpg.Record, by: tuple[str, ...]) -> Line:
    average = row["avg_latency_ms"]
    return Line(
        group={name: row[name] if row[name] != "" else None for name in by},
        requests=row["requests"] or 0,
        succeeded=row["succeeded"] or 0,
        cache_hits=row["cache_hits"] or 0,
        prompt_tokens=row["prompt_tokens"] or 0,
        completion_tokens=row["completion_tokens"] or 0,
        cached_tokens=row["cached_tokens"] or 0,
        reasoning_tokens=row["reasoning_tokens"] or 0,
        cost_usd=row["cost_usd"] or Decimal(0),
        unpriced_requests=row["unpriced"] or 0,
        estimated_requests=row["estimated"] or 0,
        avg_latency_ms=round(float(average), 3) if average is not None else None,
    )
