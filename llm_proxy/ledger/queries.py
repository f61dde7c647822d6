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
from typing import Any
from uuid import UUID

import asyncpg

from llm_proxy.database import clean_text, deadline
from llm_proxy.errors import BadRequest
from llm_proxy.identity.audit import Actor, Person, audit
from llm_proxy.ledger.answer import answer, snapshot
from llm_proxy.ledger.known import check_known, known_key
from llm_proxy.ledger.payload import LONGEST_NAME
from llm_proxy.ledger.question import NAMES, Answer, Question
from llm_proxy.ledger.refusals_kept import (
    Whose,
    counted_by,
    fetch_latest_rejected,
    fetch_rejected,
    fetch_rejection_counts,
    minute_around,
)
from llm_proxy.telemetry import time_of

_DEADLINE_S = 10.0
_NEAR = timedelta(hours=1)
_JSON = ("hops", "cost_breakdown", "token_details", "reached")
_CALLS = "SELECT * FROM {} WHERE call_id = $1 ORDER BY started_at"
_MOVING = "SELECT to_regclass('llm_calls_before') IS NOT NULL"
"""A migration is still moving the log of model calls, the newest first."""


@dataclass(frozen=True, slots=True)
class Recent:
    """Which requests are wanted: the latest of a range.

    Attributes:
        where: Names of `NAMES`, or `outcome`, to values.
    """

    since: datetime
    until: datetime
    where: Mapping[str, str]
    limit: int

    def __post_init__(self) -> None:
        unknown = [name for name in self.where if name not in NAMES and name != "outcome"]
        if unknown:
            raise BadRequest(f"There is no '{unknown[0][:40]}' to filter by.", param=unknown[0][:40])


class Usage:
    """Answers about what was used.

    Attributes:
        pool: Where it asks.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool

    async def ask(self, question: Question, now: datetime) -> Answer:
        """The answer; raises `BadRequest`, and `NotFound` for a name that nobody knows."""
        async with deadline(_DEADLINE_S), self.pool.acquire() as connection, snapshot(connection):
            return await answer(connection, question, now)

    async def story(self, request_id: UUID) -> dict[str, Any] | None:
        """One request: its row, or why it was refused, and the model calls made for it; None if unknown."""
        moment = time_of(request_id)
        async with deadline(_DEADLINE_S), self.pool.acquire() as connection:
            row = await connection.fetchrow(
                "SELECT * FROM requests WHERE request_id = $1 AND started_at BETWEEN $2 AND $3",
                request_id, moment - _NEAR, moment + _NEAR,
            )  # fmt: skip
            if row is None:
                refused = await fetch_rejected(connection, request_id)
                return None if refused is None else _refused(refused)
            calls = await connection.fetch(_CALLS.format("llm_calls"), request_id)
            if not calls and await connection.fetchval(_MOVING):
                calls = await connection.fetch(_CALLS.format("llm_calls_before"), request_id)
        return {**_plain(row), "model_calls": [_plain(call) for call in calls]}

    async def recent(self, asked: Recent) -> list[dict[str, Any]]:
        """The latest of these requests, newest first; raises `NotFound` for a name that nobody knows."""
        async with deadline(_DEADLINE_S), self.pool.acquire() as connection, snapshot(connection):
            where = dict(asked.where)
            if "key" in where:
                where["key"] = await known_key(connection, where["key"])
            conditions = ["started_at >= $1", "started_at < $2"]
            arguments: list[Any] = [asked.since, asked.until, asked.limit]
            for name, value in where.items():
                arguments.append([value] if name == "tag" else value)
                column = NAMES.get(name, name)
                conditions.append(f"{column} {'@>' if name == 'tag' else '='} ${len(arguments)}")
            statement = (
                f"SELECT * FROM requests WHERE {' AND '.join(conditions)} ORDER BY started_at DESC LIMIT $3"  # noqa: S608 -- names are the question's own
            )
            rows = await connection.fetch(statement, *arguments)
            if not rows:
                await check_known(connection, where)
        return [_plain(row) for row in rows]

    async def refused(self, asked: Recent) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The latest refusals of the sample, and the exact counts; of all agents, users and models.

        Raises `BadRequest` for a filter that no refusal is kept by, `NotFound` for a name that nobody knows.
        """
        async with deadline(_DEADLINE_S), self.pool.acquire() as connection, snapshot(connection):
            where = {name: value for name, value in asked.where.items() if name != "outcome"}
            if "key" in where:
                where["key"] = await known_key(connection, where["key"])
            span = asked.since, asked.until
            rows = await fetch_latest_rejected(connection, *span, where, asked.limit)
            whose = counted_by(where)
            counted = await fetch_rejection_counts(connection, *span, whose)
            if not rows and not counted:
                await check_known(connection, where)
        return [_refused(row) for row in rows], counted

    async def refused_beside(self, request_id: UUID, whose: Whose) -> list[dict[str, Any]]:
        """How many were refused in the minute of this request, whatever became of it."""
        async with deadline(_DEADLINE_S), self.pool.acquire() as connection:
            span = minute_around(request_id)
            return await fetch_rejection_counts(connection, *span, whose)

    async def payload(self, request_id: UUID) -> dict[str, str | None] | None:
        """What was said in a call, redacted; None when it was not kept, or is no longer."""
        moment = time_of(request_id)
        async with deadline(_DEADLINE_S):
            row = await self.pool.fetchrow(
                "SELECT prompt, answer FROM payloads WHERE request_id = $1 AND started_at BETWEEN $2 AND $3",
                request_id, moment - _NEAR, moment + _NEAR,
            )  # fmt: skip
        return None if row is None else {"prompt": row["prompt"], "answer": row["answer"]}

    async def note_payload_read(self, request_id: UUID, actor: Actor) -> None:
        """Record in the audit log that an admin reads what was said in a call."""
        async with deadline(_DEADLINE_S), self.pool.acquire() as connection, connection.transaction():
            await audit(connection, actor, "payloads.read", str(request_id))

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


def _refused(row: asyncpg.Record) -> dict[str, Any]:
    return {**_plain(row), "outcome": "refused"}
