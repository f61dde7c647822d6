"""Sums what a budget's owner has spent, to rebuild counters that the limits store lost.

Invariants: an incomplete sum is None: the sum is unknown while records wait outside Postgres. Whole days
(UTC) are summed from a roll-up, the part of a day before them from hours and rows, so that a period may begin
at any moment. Tokens include those of answers from the cache.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from llm_proxy.admission import SettledUsage
from llm_proxy.identity.caller import BudgetUnit
from llm_proxy.ledger.ledger import Ledger
from llm_proxy.schema.database import DatabaseUnavailable, db_deadline
from llm_proxy.telemetry import timestamp_of

if TYPE_CHECKING:
    from decimal import Decimal

_WRITTEN_S = 1.0
"""So long records of calls that have ended are waited for."""
_DEADLINE_S = 10.0
_SPENDER_COLUMNS: Mapping[str, str | None] = {
    "key": "key_id",
    "agent": "agent",
    "tenant": "tenant",
    "tenant_group": "tenant",
    "user_model": "user_id",
    "provider": "provider",
    "global": None,
}
"""By scope the column that names who spent; None where every call counts."""
_SUMMED_COLUMNS: Mapping[BudgetUnit, str] = {
    "usd": "cost_usd",
    "requests": "requests",
    "tokens": "coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0)",
}


_NEAR = timedelta(hours=1)
_KNOWN = """
    SELECT request_id, prompt_tokens + completion_tokens AS tokens, cost_usd, provider,
           usage_source = 'sidecar' AS exact
    FROM requests WHERE request_id = ANY($1) AND started_at BETWEEN $2 AND $3
    AND (usage_source = 'sidecar' OR provider IS NOT NULL)"""


_LATEST_ANSWERS = """
    SELECT coalesce(group_asked, model_group) AS asked, completion_tokens FROM requests
    WHERE started_at > now() - interval '1 day' AND outcome = 'ok' AND cache <> 'hit' AND door <> 'embeddings'
    AND completion_tokens IS NOT NULL ORDER BY started_at DESC LIMIT 20000"""


class LedgerSpend:
    """Answers admission's question from the roll-ups and the rows."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", ledger: Ledger) -> None:
        self._pool = pool
        self._ledger = ledger

    async def fetch_spend(
        self,
        scope: str,
        spender: str,
        since: datetime,
        tenant: str | None = None,
        group: str = "*",
        unit: BudgetUnit = "usd",
    ) -> int | None:
        """What was spent since then, money in nano-dollars; None when nobody knows.

        Args:
            scope: What spent.
            spender: Its id.
            since: When the period began.
            tenant: Only what it spent in this one (empty for calls without one); None for all.
            group: Only what it spent on this model group; `*` for all.
            unit: What is counted.
        """
        if not await self._ledger.wait_written(_WRITTEN_S):
            return None
        state = self._ledger.state()
        if state.postgres != "up" or state.spool_records:
            return None
        try:
            return await sum_spent(self._pool, spender_columns(scope, spender, tenant, group), since, unit)
        except DatabaseUnavailable:
            return None

    async def recent_answers(self) -> Sequence[tuple[str, int]] | None:
        """The completion tokens of the latest answers, by group asked, the latest first; None if unknown."""
        try:
            async with db_deadline(_DEADLINE_S):
                rows = await self._pool.fetch(_LATEST_ANSWERS)
        except DatabaseUnavailable:
            return None
        return [(row["asked"], row["completion_tokens"]) for row in rows]

    async def exact_usage(self, requests: Sequence[UUID]) -> Mapping[UUID, tuple[SettledUsage, bool]] | None:
        """What those of these calls used that the sidecar's log told of; None while nobody can tell.

        With each, whether its figures are exact, or only who served it is known.
        """
        times = [timestamp_of(one) for one in requests]
        try:
            async with db_deadline(_DEADLINE_S):
                rows = await self._pool.fetch(_KNOWN, requests, min(times) - _NEAR, max(times) + _NEAR)
        except DatabaseUnavailable:
            return None
        return {row["request_id"]: (_used_from_row(row), row["exact"]) for row in rows}


def _used_from_row(row: asyncpg.Record) -> SettledUsage:
    cost_usd = row["cost_usd"]
    return SettledUsage(row["tokens"], None if cost_usd is None else int(cost_usd.scaleb(9)), row["provider"])


def spender_columns(scope: str, spender: str, tenant: str | None, group: str) -> dict[str, str]:
    """The columns of a spender's calls, and what they hold; as `LedgerSpend.spent` takes them."""
    named = {"tenant": tenant, "model_group": None if group == "*" else group}
    if (column := _SPENDER_COLUMNS[scope]) is not None:
        named[column] = spender
    return {name: value for name, value in named.items() if value is not None}


async def sum_spent(
    pool: "asyncpg.Pool[asyncpg.Record]", named: Mapping[str, str], since: datetime, unit: BudgetUnit = "usd"
) -> int:
    """What calls with these values in their columns spent since then; raises `DatabaseUnavailable`."""
    statement, arguments = sum_spent_statement(named, since, unit)
    async with db_deadline(_DEADLINE_S):
        found: Decimal = await pool.fetchval(statement, *arguments)
    return int(found.scaleb(9) if unit == "usd" else found)


def sum_spent_statement(named: Mapping[str, str], since: datetime, unit: BudgetUnit) -> tuple[str, list[Any]]:
    """The statement that sums, and its arguments."""
    since = since.astimezone(UTC)
    arguments: list[Any] = [*named.values()]

    def part(table: str, column: str, begin: Any, end: Any = None) -> str:  # noqa: ANN401 -- a date or a time
        rows = table == "requests"
        names = [f"coalesce({name}, '')" if rows else name for name in named]
        conditions = [f"{name} = ${at}" for at, name in enumerate(names, 1)]
        for sign, moment in ((">=", begin), ("<", end)):
            if moment is not None:
                arguments.append(moment)
                conditions.append(f"{column} {sign} ${len(arguments)}")
        summed = "count(*)" if rows and unit == "requests" else f"sum({_SUMMED_COLUMNS[unit]})"
        return f"SELECT {summed} AS spent FROM {table} WHERE {' AND '.join(conditions)}"  # noqa: S608 -- names are this file's own

    day, hour = _next_step(since, timedelta(days=1)), _next_step(since, timedelta(hours=1))
    by_user = "user_id" in named
    parts = [part("usage_users" if by_user else "usage_daily", "day", day.date())]
    rows_until = day if by_user else hour
    if hour < day and not by_user:
        parts.append(part("usage_hourly", "hour", hour, day))
    if since < rows_until:
        parts.append(part("requests", "started_at", since, rows_until))
    return f"SELECT coalesce(sum(spent), 0)::numeric FROM ({' UNION ALL '.join(parts)}) AS parts", arguments  # noqa: S608 -- the same


def _next_step(moment: datetime, step: timedelta) -> datetime:
    """The first beginning of such a step that is not before the moment."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + -(-(moment - midnight) // step) * step
