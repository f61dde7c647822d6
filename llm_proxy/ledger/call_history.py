"""Recorded calls as admission takes them, in the order they began, for simulating other limits.

Invariants: only admitted calls are returned, rejected ones are counted; a call belongs to its key as the key
is now; every query has a deadline.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import asyncpg

from llm_proxy.admission.limiter import LimitCheck
from llm_proxy.admission.replay import PastCall
from llm_proxy.dialects import BYTES_PER_TOKEN, Call
from llm_proxy.identity import Caller, KeySpec
from llm_proxy.identity.authenticator import INTERNAL_KEY_ID_PREFIX
from llm_proxy.ledger.budget_spend import quantities_from_row, spender_columns, sum_spent
from llm_proxy.quantities import NOTHING
from llm_proxy.schema.database import db_deadline

_DEADLINE_S = 30.0
_CALLS = """
    SELECT request_id, started_at, key_id, key_prefix, tenant, agent, user_id, door, dialect, model,
           coalesce(group_asked, model_group) AS model_group, provider, outcome, cache, prompt_tokens,
           completion_tokens, cost_usd, latency_ms, prompt_bytes, max_tokens, choices,
           images, audio_ms, characters, search_units, run_name
    FROM requests WHERE started_at >= $1 AND started_at < $2 AND replay_of IS NULL
    ORDER BY started_at, request_id LIMIT $3"""
_COUNT_REJECTED = "SELECT count(*) FROM refusals WHERE refused_at >= $1 AND refused_at < $2"


@dataclass(frozen=True, slots=True)
class CallHistory:
    """The recorded calls of a range.

    Attributes:
        calls: Can be iterated once; each call is decoded when it is read.
        first_at: The beginning of the first call; None without calls.
        complete: Whether these are all calls of the range.
        estimated: The number of calls that were recorded without the basis of their reservation.
        rejected_sampled: The number of rejected requests of the range in the stored sample.
    """

    calls: Iterator[PastCall]
    first_at: datetime | None
    complete: bool
    estimated: int
    rejected_sampled: int


class CallHistoryReader:
    """Reads recorded calls, and the spend before them."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    async def calls(
        self, since: datetime, until: datetime, keys: Mapping[str, KeySpec], max_calls: int
    ) -> CallHistory:
        """Returns the first `max_calls` calls of a range; raises `DatabaseUnavailable`.

        Args:
            since: Inclusive.
            until: Exclusive.
            keys: The keys' present specifications, by key id.
            max_calls: The maximum of returned calls.
        """
        async with db_deadline(_DEADLINE_S):
            rows = await self._pool.fetch(_CALLS, since, until, max_calls + 1)
            rejected: int = await self._pool.fetchval(_COUNT_REJECTED, since, until)
        recorded = rows[:max_calls]
        return CallHistory(
            (_past_call(row, keys.get(row["key_id"])) for row in recorded),
            recorded[0]["started_at"] if recorded else None,
            len(rows) <= max_calls,
            sum(row["prompt_bytes"] is None for row in recorded),
            rejected,
        )

    async def spent_before(self, check: LimitCheck, until: datetime) -> int:
        """Returns the spend of a budget's period before a time; raises `DatabaseUnavailable`."""
        if check.period_start is None or check.period_start >= until:
            return 0
        columns = spender_columns(check.scope, check.spender_id, check.spender_tenant, check.spender_group)
        total = await sum_spent(self._pool, columns, check.period_start, check.unit)
        return total - await sum_spent(self._pool, columns, until, check.unit)


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
        NOTHING if hit else None if lost else quantities_from_row(row),
    )


def _caller(row: asyncpg.Record, spec: KeySpec | None) -> Caller:
    internal = row["key_id"].startswith(INTERNAL_KEY_ID_PREFIX)
    attribution: dict[str, Any] = {
        "tenant": row["tenant"],
        "agent": row["agent"],
        "user": row["user_id"],
        "run_id": row["run_name"],
    }
    caller = Caller(
        row["key_id"], "internal" if internal else "virtual", key_prefix=row["key_prefix"], **attribution
    )
    if spec is None:
        return caller
    return replace(caller, models=spec.models, limits=spec.limits, budgets=spec.budgets)


def _call(row: asyncpg.Record, prompt: int, completion: int) -> Call:
    """Returns the call as admission needs it; one without recorded request figures reserves its use."""
    has_request = row["prompt_bytes"] is not None
    return Call(
        row["door"],
        row["dialect"],
        row["model"],
        row["model_group"],
        {},
        max_tokens=row["max_tokens"] if has_request else completion,
        prompt_bytes=row["prompt_bytes"] if has_request else prompt * BYTES_PER_TOKEN,
        choices=(row["choices"] or 1) if has_request else 1,
        quantities=quantities_from_row(row),
    )
