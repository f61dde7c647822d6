"""Sums what a budget's owner has spent, to rebuild counters that the limits store lost.

Invariants: an incomplete sum is None: the sum is unknown while records wait outside Postgres. Money spent
before an import is added. Whole days (UTC) are summed from a roll-up, the part of a day before them from
hours and rows, so that a period may begin at any moment. Tokens include those of answers from the cache.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from llm_proxy.admission.lease import SettledUsage
from llm_proxy.identity.caller import BudgetUnit
from llm_proxy.identity.postgres_store import Pool
from llm_proxy.ledger.key_families import of_family
from llm_proxy.ledger.ledger import Ledger
from llm_proxy.ledger.record import PARTITION_MARGIN
from llm_proxy.money import NANO_PER_USD
from llm_proxy.quantities import QUANTITY_OF_UNIT, Quantities
from llm_proxy.schema.database import DatabaseUnavailable, db_deadline
from llm_proxy.telemetry import timestamp_of

if TYPE_CHECKING:
    from decimal import Decimal

_WRITE_TIMEOUT_S = 1.0
"""The time to wait until the records of finished calls are written."""
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
"""The column of a scope's spender; None if every call counts."""
_SUMMED_COLUMNS: Mapping[str, str] = {
    "usd": "cost_usd",
    "requests": "requests",
    "tokens": "coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0)",
    **QUANTITY_OF_UNIT,
}


_KNOWN = """
    SELECT request_id, prompt_tokens + completion_tokens AS tokens, cost_usd, provider,
           images, audio_ms, characters, search_units, usage_source = 'sidecar' AS exact
    FROM requests WHERE request_id = ANY($1) AND started_at BETWEEN $2 AND $3
    AND (usage_source = 'sidecar' OR provider IS NOT NULL)"""


_LATEST_ANSWERS = """
    SELECT coalesce(group_asked, model_group) AS asked, completion_tokens FROM requests
    WHERE started_at > now() - interval '1 day' AND outcome = 'ok' AND cache <> 'hit' AND door <> 'embeddings'
    AND completion_tokens IS NOT NULL AND replay_of IS NULL ORDER BY started_at DESC LIMIT 20000"""


_OPENING_SPEND = """
    SELECT coalesce(sum(cost_usd), 0)::numeric FROM opening_spend
    WHERE scope = $1 AND subject = $2 AND tenant IN ($3, '*') AND model_group IN ($4, '*')
    AND period_start >= $5"""
"""What was spent before the first call here, where a budget was imported."""


class LedgerSpend:
    """Sums spend and use from the roll-ups and rows; admission's `SpendSource`."""

    def __init__(self, pool: Pool, ledger: Ledger) -> None:
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
        """Returns the spend since a time, money in nano-dollars; None if unknown; see `SpendSource`."""
        if not await self._ledger.wait_written(_WRITE_TIMEOUT_S):
            return None
        state = self._ledger.state()
        if state.postgres != "up" or state.spool_records:
            return None
        try:
            spent = await sum_spent(self._pool, spender_columns(scope, spender, tenant, group), since, unit)
            if unit != "usd":
                return spent
            async with db_deadline(_DEADLINE_S):
                opening: Decimal = await self._pool.fetchval(
                    _OPENING_SPEND, scope, spender, tenant or "", group, since
                )
            return spent + int(opening * NANO_PER_USD)
        except DatabaseUnavailable:
            return None

    async def recent_answers(self) -> Sequence[tuple[str, int]] | None:
        """Returns requested group and completion tokens of the latest answers, newest first, or None."""
        try:
            async with db_deadline(_DEADLINE_S):
                rows = await self._pool.fetch(_LATEST_ANSWERS)
        except DatabaseUnavailable:
            return None
        return [(row["asked"], row["completion_tokens"]) for row in rows]

    async def exact_usage(self, requests: Sequence[UUID]) -> Mapping[UUID, tuple[SettledUsage, bool]] | None:
        """Returns the use of those calls that the sidecar's log contains; None while it is unknown.

        The flag of each says whether its figures are exact; if not, only its provider is known.
        """
        times = [timestamp_of(one) for one in requests]
        try:
            async with db_deadline(_DEADLINE_S):
                rows = await self._pool.fetch(
                    _KNOWN, requests, min(times) - PARTITION_MARGIN, max(times) + PARTITION_MARGIN
                )
        except DatabaseUnavailable:
            return None
        return {row["request_id"]: (_used_from_row(row), row["exact"]) for row in rows}


def _used_from_row(row: asyncpg.Record) -> SettledUsage:
    cost_usd = row["cost_usd"]
    return SettledUsage(
        row["tokens"],
        None if cost_usd is None else int(cost_usd * NANO_PER_USD),
        row["provider"],
        quantities_from_row(row),
    )


def quantities_from_row(row: asyncpg.Record) -> Quantities:
    """Returns what a row of `requests` counts beside tokens."""
    return Quantities(*(row[name] or 0 for name in Quantities._fields))


def spender_columns(scope: str, spender: str, tenant: str | None, group: str) -> dict[str, str]:
    """Returns the columns and values that select a spender's calls; see `SpendSource.fetch_spend`."""
    columns = {"tenant": tenant, "model_group": None if group == "*" else group}
    if (column := _SPENDER_COLUMNS[scope]) is not None:
        columns[column] = spender
    return {name: value for name, value in columns.items() if value is not None}


async def sum_spent(
    pool: Pool,
    columns: Mapping[str, str],
    since: datetime,
    unit: BudgetUnit = "usd",
) -> int:
    """Returns the spend of calls with these column values since a time; raises `DatabaseUnavailable`."""
    statement, arguments = sum_spent_statement(columns, since, unit)
    async with db_deadline(_DEADLINE_S):
        found: Decimal = await pool.fetchval(statement, *arguments)
    return int(found * NANO_PER_USD if unit == "usd" else found)


def sum_spent_statement(
    columns: Mapping[str, str], since: datetime, unit: BudgetUnit
) -> tuple[str, list[Any]]:
    """Builds the statement that sums, and its arguments."""
    since = since.astimezone(UTC)
    arguments: list[Any] = [*columns.values()]

    def part(table: str, column: str, begin: Any, end: Any = None) -> str:  # noqa: ANN401 -- a date or a time
        rows = table == "requests"
        names = [f"coalesce({name}, '')" if rows else name for name in columns]
        conditions = [
            of_family(name, f"${at}") if "key_id" in name else f"{name} = ${at}"
            for at, name in enumerate(names, 1)
        ]
        for sign, moment in ((">=", begin), ("<", end)):
            if moment is not None:
                arguments.append(moment)
                conditions.append(f"{column} {sign} ${len(arguments)}")
        summed = "count(*)" if rows and unit == "requests" else f"sum({_SUMMED_COLUMNS[unit]})"
        if rows:
            conditions.append("replay_of IS NULL")
        return f"SELECT {summed} AS spent FROM {table} WHERE {' AND '.join(conditions)}"  # noqa: S608 -- names are this file's own

    day, hour = _next_step(since, timedelta(days=1)), _next_step(since, timedelta(hours=1))
    by_user = "user_id" in columns
    parts = [part("usage_users" if by_user else "usage_daily", "day", day.date())]
    rows_until = day if by_user else hour
    if not by_user:  # of people nothing is known of the calls that a restore has lost
        parts.append(part("lost_usage", "day", since.date()))
    if hour < day and not by_user:
        parts.append(part("usage_hourly", "hour", hour, day))
    if since < rows_until:
        parts.append(part("requests", "started_at", since, rows_until))
    return f"SELECT coalesce(sum(spent), 0)::numeric FROM ({' UNION ALL '.join(parts)}) AS parts", arguments  # noqa: S608 -- the same


def _next_step(moment: datetime, step: timedelta) -> datetime:
    """Returns the first multiple of `step` since midnight that is not before `moment`."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + -(-(moment - midnight) // step) * step
