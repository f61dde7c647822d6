"""Days that are over are summed by name, beside the calls; what changes a day takes its sums out at once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import asyncpg
import pytest
from usage_records import random_record, run_ledger, write_records

from llm_proxy.ledger import PostgresUsage
from llm_proxy.ledger.usage_query import UsageQuery, UsageRow, midnight

Pool = asyncpg.Pool
TODAY = midnight(datetime.now(UTC).date(), UTC)
NOW = TODAY + timedelta(hours=11)
_SUMMED = "SELECT array_agg(day ORDER BY day) FROM usage_summed_days"
_DAYS = "SELECT array_agg(DISTINCT day ORDER BY day) FROM usage_daily WHERE day < $1"
_NEXT = "SELECT sum_usage_days(1)"
_COST = """
    UPDATE requests SET cost_usd = cost_usd + 1
    WHERE started_at >= $1 AND started_at < $1 + interval '1 day'"""
_KINDS = ("key", "agent", "tenant", "model", "provider")


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator["Pool[asyncpg.Record]"]:
    """Calls of today and of three days before."""
    dice = Random(5)  # noqa: S311 -- repeatable
    async with asyncpg.create_pool(database_url, min_size=0, max_size=4) as made:
        await write_records(made, [random_record(dice, NOW) for _ in range(200)])
        yield made


async def from_rows(pool: "Pool[asyncpg.Record]", since: datetime, until: datetime) -> UsageRow:
    """The sums of the rows themselves: no roll-up knows sessions, and these calls have none."""
    [row] = (await PostgresUsage(pool).query(UsageQuery(since, until, ("session",)), NOW)).rows
    return replace(row, group={})


async def require_equal(pool: "Pool[asyncpg.Record]") -> None:
    """Asserts that a comparison equals the rows: of all, and of each kind of name."""
    since, until = TODAY - timedelta(days=2), TODAY + timedelta(days=1)
    before = TODAY - timedelta(days=5), since
    found = await PostgresUsage(pool).compare(UsageQuery(since, until, _KINDS), before, 100, NOW)
    assert found.total == await from_rows(pool, since, until)
    assert found.before == await from_rows(pool, *before)
    for names in found.lists.values():
        for whole, parts in (
            (found.total, [one.now for one in names]),
            (found.before, [one.before for one in names]),
        ):
            assert sum(one.requests for one in parts) == whole.requests
            assert sum(one.cost_usd for one in parts) == whole.cost_usd


async def sum_all(pool: "Pool[asyncpg.Record]") -> Sequence[object]:
    """Sums what is left; returns the days that are summed then."""
    while await pool.fetchval(_NEXT):
        pass
    found: Sequence[object] = await pool.fetchval(_SUMMED) or []
    return found


async def test_a_correction_a_late_call_and_a_removal_are_seen_at_once(pool: "Pool[asyncpg.Record]") -> None:
    """Each takes its day alone out of the sums, until it is summed again; today is never summed."""
    days = await pool.fetchval(_DAYS, TODAY.date())
    assert len(days) == 3
    await require_equal(pool)
    assert await sum_all(pool) == days
    await require_equal(pool)
    await pool.execute(_COST, TODAY - timedelta(days=2))
    assert await pool.fetchval(_SUMMED) == [days[0], days[2]]
    await require_equal(pool)
    late = random_record(Random(9))._replace(started_at=TODAY - timedelta(minutes=5))  # noqa: S311 -- repeatable
    await write_records(pool, [late])
    assert await pool.fetchval(_SUMMED) == [days[0]]
    await require_equal(pool)
    assert await sum_all(pool) == days
    await require_equal(pool)
    await write_records(pool, [late._replace(request_id=late.request_id, started_at=NOW)])
    assert await pool.fetchval(_SUMMED) == days

    await pool.execute("DELETE FROM usage_daily WHERE day = $1", days[0])
    assert await pool.fetchval("SELECT count(*) FROM usage_name_days WHERE day = $1", days[0]) == 0
    assert await sum_all(pool) == days[1:]


async def test_a_day_that_is_being_changed_is_not_summed_and_a_change_waits_for_a_sum(
    pool: "Pool[asyncpg.Record]",
) -> None:
    """So that neither misses the other."""
    days = await pool.fetchval(_DAYS, TODAY.date())
    yesterday = TODAY - timedelta(days=1)
    async with pool.acquire() as writer:
        change = writer.transaction()
        await change.start()
        await writer.execute(_COST, yesterday)
        assert await sum_all(pool) == days[:2]
        await change.commit()
    await require_equal(pool)
    async with pool.acquire() as summing:
        making = summing.transaction()
        await making.start()
        assert await summing.fetchval(_NEXT)
        changed = asyncio.create_task(pool.execute(_COST, yesterday))
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        async with asyncio.timeout(20):
            while not await pool.fetchval(waiting):  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.02)
        await making.commit()
    await changed
    assert await pool.fetchval(_SUMMED) == days[:2]
    await require_equal(pool)


async def test_a_gateway_sums_past_days_beside_the_calls(
    pool: "Pool[asyncpg.Record]", database_url: str, tmp_path: Path
) -> None:
    """Also those of before its version: the migration leaves them as work."""
    days = await pool.fetchval(_DAYS, TODAY.date())
    async with run_ledger(database_url, tmp_path), asyncio.timeout(20):
        while await pool.fetchval(_SUMMED) != days:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.05)
    await require_equal(pool)
