"""What a budget's owner spent, for counters that were lost.

Invariants: a sum that may miss rows is no sum: while records wait anywhere but in Postgres, nobody knows.
Whole days (UTC) are summed in a roll-up, the part of a day before them in hours and rows, so that a period
may begin at any moment. Units: nano-dollars.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg

from llm_proxy.database import DatabaseUnavailable, deadline
from llm_proxy.ledger.ledger import Ledger

_ONE_BATCH_S = 0.15
_DEADLINE_S = 10.0
_SPENDER: Mapping[str, str | None] = {
    "key": "key_id",
    "agent": "agent",
    "tenant": "tenant",
    "tenant_group": "tenant",
    "user_model": "user_id",
    "provider": "provider",
    "global": None,
}
"""By scope the column that names who spent; None where every call counts."""


class Spent:
    """Answers admission's question from the roll-ups and the rows."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", ledger: Ledger) -> None:
        self._pool = pool
        self._ledger = ledger

    async def spent_nano_usd(
        self, scope: str, spender: str, period_start: datetime, tenant: str | None = None, group: str = "*"
    ) -> int | None:
        """Nano-dollars spent since then; None when nobody knows.

        Args:
            scope: What spent.
            spender: Its id.
            period_start: Since when.
            tenant: Only what it spent in this one (empty for calls without one); None for all.
            group: Only what it spent on this model group; `*` for all.
        """
        if self._ledger.state().queued:
            await asyncio.sleep(_ONE_BATCH_S)
        state = self._ledger.state()
        if state.postgres != "up" or state.spool_records:
            return None
        named = {"tenant": tenant, "model_group": None if group == "*" else group}
        if (column := _SPENDER[scope]) is not None:
            named[column] = spender
        said = {name: value for name, value in named.items() if value is not None}
        try:
            return await spent_nano_usd(self._pool, said, period_start)
        except DatabaseUnavailable:
            return None


async def spent_nano_usd(
    pool: "asyncpg.Pool[asyncpg.Record]", named: Mapping[str, str], since: datetime
) -> int:
    """What calls with these values in their columns cost since then; raises `DatabaseUnavailable`."""
    statement, arguments = spent_sql(named, since)
    async with deadline(_DEADLINE_S):
        spent: Decimal = await pool.fetchval(statement, *arguments)
    return int(spent.scaleb(9))


def spent_sql(named: Mapping[str, str], since: datetime) -> tuple[str, list[Any]]:
    """The statement that sums, and its arguments."""
    since = since.astimezone(UTC)
    arguments: list[Any] = [*named.values()]

    def part(table: str, column: str, begin: Any, end: Any = None) -> str:  # noqa: ANN401 -- a date or a time
        names = [f"coalesce({name}, '')" if table == "requests" else name for name in named]
        conditions = [f"{name} = ${at}" for at, name in enumerate(names, 1)]
        for sign, moment in ((">=", begin), ("<", end)):
            if moment is not None:
                arguments.append(moment)
                conditions.append(f"{column} {sign} ${len(arguments)}")
        return f"SELECT sum(cost_usd) AS usd FROM {table} WHERE {' AND '.join(conditions)}"  # noqa: S608 -- names are this file's own

    day, hour = _ceiling(since, timedelta(days=1)), _ceiling(since, timedelta(hours=1))
    by_user = "user_id" in named
    parts = [part("usage_users" if by_user else "usage_daily", "day", day.date())]
    rows_until = day if by_user else hour
    if hour < day and not by_user:
        parts.append(part("usage_hourly", "hour", hour, day))
    if since < rows_until:
        parts.append(part("requests", "started_at", since, rows_until))
    return f"SELECT coalesce(sum(usd), 0) FROM ({' UNION ALL '.join(parts)}) AS parts", arguments  # noqa: S608 -- the same


def _ceiling(moment: datetime, step: timedelta) -> datetime:
    """The first beginning of such a step that is not before the moment."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + -(-(moment - midnight) // step) * step
