"""Compares the gateway's records with the sidecar's log of model calls.

Invariants: `find_discrepancies` changes nothing. A request without a model call (a cache hit, a replayed
answer, an error before the sidecar) and a figure that the sidecar does not know are no discrepancies; a cost
that only the sidecar knows is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import asyncpg

from llm_proxy.quantities import Quantities
from llm_proxy.schema.database import DatabaseUnavailable, db_deadline

DiscrepancyKind = Literal["tokens", "quantities", "cost", "missing_here", "missing_there"]
_DEADLINE_S = 60.0
_LOG_DELAY = timedelta(hours=1)
"""A call is logged with the time at which it reached the sidecar, shortly after its request began."""
_ROUNDING_USD = Decimal("0.000000001")
"""The gateway rounds costs up, the log rounds to the nearest."""

_OTHER_QUANTITIES = " OR ".join(f"r.{name} <> t.{name}" for name in Quantities._fields)
_DIFFERENCES = f"""
    SELECT coalesce(r.request_id, t.call_id) AS request_id,
           coalesce(r.started_at, t.started_at) AS started_at,
           r.request_id IS NOT NULL AS recorded, t.call_id IS NOT NULL AS logged, r.usage_source, r.outcome,
           r.prompt_tokens, r.completion_tokens, r.cost_usd,
           t.prompt_tokens::bigint AS logged_prompt_tokens,
           t.completion_tokens::bigint AS logged_completion_tokens,
           t.cost_usd AS logged_cost_usd,
           ({_OTHER_QUANTITIES}) IS TRUE AS other_quantities
    FROM (SELECT * FROM requests
          WHERE started_at >= $1::timestamptz - $4::interval AND started_at < $2::timestamptz + $4) AS r
    FULL JOIN (SELECT * FROM llm_calls_total WHERE started_at >= $1 - $4 AND started_at < $2 + $4) AS t
           ON t.call_id = r.request_id
    WHERE coalesce(r.started_at, t.started_at) >= $1 AND coalesce(r.started_at, t.started_at) < $2
      AND ((t.call_id IS NULL AND r.outcome = 'ok' AND r.cache <> 'hit' AND r.replay_of IS NULL)
        OR (r.request_id IS NULL AND t.succeeded)
        OR r.prompt_tokens <> t.prompt_tokens OR r.completion_tokens <> t.completion_tokens
        OR {_OTHER_QUANTITIES}
        OR abs(r.cost_usd - t.cost_usd) > 0.000000001
        OR (r.cost_usd IS NULL AND t.cost_usd IS NOT NULL))
    ORDER BY 2 LIMIT $3"""  # noqa: S608 -- names are this project's own

_IS_MOVING = "SELECT to_regclass('llm_calls_before') IS NOT NULL"
_NOT_MOVED = "SELECT EXISTS (SELECT 1 FROM llm_calls_before WHERE started_at >= $1 AND started_at < $2)"


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A request on which the gateway's record and the sidecar's log differ."""

    request_id: UUID
    started_at: datetime
    kinds: tuple[DiscrepancyKind, ...]
    usage_source: str | None
    outcome: str | None
    tokens: tuple[int | None, int | None]
    logged_tokens: tuple[int | None, int | None]
    cost_usd: Decimal | None
    logged_cost_usd: Decimal | None


async def find_discrepancies(
    pool: asyncpg.Pool, since: datetime, until: datetime, limit: int
) -> Sequence[Discrepancy]:
    """Returns at most `limit` discrepancies of a range, oldest first; raises `DatabaseUnavailable`.

    While a migration moves the sidecar's log, the part that it has not moved cannot be compared.
    """
    async with db_deadline(_DEADLINE_S):
        if await pool.fetchval(_IS_MOVING) and await pool.fetchval(_NOT_MOVED, since, until):
            raise DatabaseUnavailable("migrating", "the sidecar's log of that time is still being moved")
        rows = await pool.fetch(_DIFFERENCES, since, until, limit, _LOG_DELAY)
    return [_discrepancy_from_row(row) for row in rows]


async def enrich_estimates(pool: asyncpg.Pool, since: datetime, until: datetime) -> int:
    """Replaces the estimates of a range by the sidecar's log; returns the number of changed rows."""
    async with db_deadline(_DEADLINE_S):
        return int(await pool.fetchval("SELECT enrich_requests($1, $2)", since, until) or 0)


def _discrepancy_from_row(row: Any) -> Discrepancy:  # noqa: ANN401 -- a record of asyncpg
    return Discrepancy(
        request_id=row["request_id"],
        started_at=row["started_at"],
        kinds=tuple(_kinds(row)),
        usage_source=row["usage_source"],
        outcome=row["outcome"],
        tokens=(row["prompt_tokens"], row["completion_tokens"]),
        logged_tokens=(row["logged_prompt_tokens"], row["logged_completion_tokens"]),
        cost_usd=row["cost_usd"],
        logged_cost_usd=row["logged_cost_usd"],
    )


def _kinds(row: Any) -> Sequence[DiscrepancyKind]:  # noqa: ANN401 -- the same
    if not row["recorded"]:
        return ["missing_here"]
    if not row["logged"]:
        return ["missing_there"]
    kinds: list[DiscrepancyKind] = []
    recorded = (row["prompt_tokens"], row["completion_tokens"])
    logged = (row["logged_prompt_tokens"], row["logged_completion_tokens"])
    if None not in logged and recorded != logged:
        kinds.append("tokens")
    if row["other_quantities"]:
        kinds.append("quantities")
    if _differ(row["cost_usd"], row["logged_cost_usd"]):
        kinds.append("cost")
    return kinds


def _differ(cost_usd: Decimal | None, logged_usd: Decimal | None) -> bool:
    if cost_usd is None or logged_usd is None:
        return logged_usd is not None
    return abs(cost_usd - logged_usd) > _ROUNDING_USD
