"""Recorded calls as admission takes them, in the order they began, for simulating other limits.

Invariants: only admitted calls are returned, rejected ones are counted; a call belongs to its key as the key
is now; every query has a deadline.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import asyncpg

from llm_proxy.admission import PastCall
from llm_proxy.admission.limiter import LimitCheck
from llm_proxy.dialects import Call
from llm_proxy.identity import Caller, KeySpec
from llm_proxy.ledger.budget_spend import spender_columns, sum_spent
from llm_proxy.ledger.exchange import BYTES_PER_TOKEN
from llm_proxy.schema.database import db_deadline

_DEADLINE_S = 30.0
_INTERNAL = "internal:"
_CALLS = """
    SELECT request_id, started_at, key_id, key_prefix, tenant, agent, user_id, door, dialect, model,
           coalesce(group_asked, model_group) AS model_group, provider, outcome, cache, prompt_tokens,
           completion_tokens, cost_usd, latency_ms, prompt_bytes, max_tokens, choices
    FROM requests WHERE started_at >= $1 AND started_at < $2 ORDER BY started_at, request_id LIMIT $3"""
_REFUSED = "SELECT count(*) FROM refusals WHERE refused_at >= $1 AND refused_at < $2"


@dataclass(frozen=True, slots=True)
class CallHistory:
    """What was recorded of a time.

    Attributes:
        calls: Once; each is read when it is asked for, so that many hold up nobody.
        first_at: When the first of them began; None without any.
        complete: There were no more calls than these.
        estimated: Calls recorded before a version that keeps what a reservation was made of.
        rejected_sampled: Refusals of that time in the sample that is kept.
    """

    calls: Iterator[PastCall]
    first_at: datetime | None
    complete: bool
    estimated: int
    rejected_sampled: int


class CallHistoryReader:
    """Asks for recorded calls, and for what was spent before them."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    async def calls(
        self, since: datetime, until: datetime, keys: Mapping[str, KeySpec], most: int
    ) -> CallHistory:
        """The calls of a time, the first so many; raises `DatabaseUnavailable`.

        Args:
            since: The first that may be.
            until: Before this.
            keys: What is said of each key, by its id.
            most: So many calls at most.
        """
        async with db_deadline(_DEADLINE_S):
            rows = await self._pool.fetch(_CALLS, since, until, most + 1)
            refused: int = await self._pool.fetchval(_REFUSED, since, until)
        kept = rows[:most]
        return CallHistory(
            (_past_call(row, keys.get(row["key_id"])) for row in kept),
            kept[0]["started_at"] if kept else None,
            len(rows) <= most,
            sum(row["prompt_bytes"] is None for row in kept),
            refused,
        )

    async def spent_before(self, check: LimitCheck, until: datetime) -> int:
        """What a budget's owner spent of its period before then; raises `DatabaseUnavailable`."""
        if check.period_start is None or check.period_start >= until:
            return 0
        named = spender_columns(check.scope, check.spender_id, check.spender_tenant, check.spender_group)
        whole = await sum_spent(self._pool, named, check.period_start, check.unit)
        return whole - await sum_spent(self._pool, named, until, check.unit)


def _past_call(row: asyncpg.Record, spec: KeySpec | None) -> PastCall:
    started_ms = int(row["started_at"].timestamp() * 1000)
    known, hit = row["prompt_tokens"] is not None, row["cache"] == "hit"
    prompt, completion = row["prompt_tokens"] or 0, row["completion_tokens"] or 0
    lost = row["outcome"] == "lost"
    cost_usd = row["cost_usd"]
    return PastCall(
        str(row["request_id"]),
        _caller(row, spec),
        _call(row, prompt, completion),
        started_ms,
        started_ms + int(row["latency_ms"]),
        0 if hit else prompt + completion if known else None if lost else 0,
        0 if hit else int(cost_usd.scaleb(9)) if cost_usd is not None else None if known or lost else 0,
        prompt,
        completion,
        row["provider"],
        row["outcome"] == "ok" and known and not hit,
    )


def _caller(row: asyncpg.Record, spec: KeySpec | None) -> Caller:
    internal = row["key_id"].startswith(_INTERNAL)
    whose: dict[str, Any] = {"tenant": row["tenant"], "agent": row["agent"], "user": row["user_id"]}
    caller = Caller(
        row["key_id"], "internal" if internal else "virtual", key_prefix=row["key_prefix"], **whose
    )
    if spec is None:
        return caller
    return replace(caller, models=spec.models, limits=spec.limits, budgets=spec.budgets)


def _call(row: asyncpg.Record, prompt: int, completion: int) -> Call:
    """The call, as far as admission asks; one without its own facts reserves what it used."""
    told = row["prompt_bytes"] is not None
    return Call(
        row["door"],
        row["dialect"],
        row["model"],
        row["model_group"],
        {},
        max_tokens=row["max_tokens"] if told else completion,
        prompt_bytes=row["prompt_bytes"] if told else prompt * BYTES_PER_TOKEN,
        choices=(row["choices"] or 1) if told else 1,
    )
