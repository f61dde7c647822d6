"""Fills a database with usage as a busy installation leaves it, then times the named queries, warm.

    .venv/bin/python -m bench.usage_queries postgresql://... --rows 10000000

200 agents of 50 tenants, each with a key and 15 users, call 12 models of 6 providers over 90 days. Rows go in
by the day, through the same triggers as the gateway's own. Exits with 1 when a query takes over 200 ms.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import asyncpg

from llm_proxy import schema
from llm_proxy.ledger.budget_spend import sum_spent
from llm_proxy.ledger.usage_query import UsageQuery, midnight
from llm_proxy.ledger.usage_store import PostgresUsage

DAYS, REPEATS, TARGET_MS = 90, 5, 200
ROWS_OF_A_DAY = """
    INSERT INTO requests
    SELECT gen_random_uuid(), $1::timestamptz + (i * 86400.0 / $2::int) * interval '1 second',
           'key-' || (a * 3 / 2), 'sk-demo', 'tenant-' || (a % 50), 'agent-' || a,
           'user-' || (a * 15 + h % 15), NULL, NULL, NULL, 'chat.completions', 'openai', 'model-' || m,
           'model-' || m, 'physical-' || m, 'provider-' || (m % 6), 'deployment-' || m, h % 5 < 2,
           CASE WHEN h % 50 = 0 THEN 502 ELSE 200 END, CASE WHEN h % 50 = 0 THEN 'error' ELSE 'ok' END, NULL,
           h % 4000, h % 800, h % 100, h % 50, (h % 100000) * 0.000000131, 'provider',
           CASE WHEN h % 10 = 0 THEN 'hit' ELSE 'miss' END, 1, h % 9000, h % 900
    FROM (SELECT i, h, floor(200 * power((h % 1000) / 1000.0, 2))::int AS a,
                 floor(12 * power((h / 1000 % 1000) / 1000.0, 2))::int AS m
          FROM (SELECT i, abs(hashint4(i + $3::int)) AS h
                FROM generate_series(0, $2::int - 1) AS i) AS hashed) AS x"""


async def fill(connection: schema.PgConnection, rows: int, today: datetime) -> None:
    """Writes the rows of every day."""
    each = rows // DAYS
    for day in range(DAYS):
        start = today - timedelta(days=DAYS - 1 - day)
        await connection.execute("SELECT requests_partition($1)", start.date())
        await connection.execute(ROWS_OF_A_DAY, start, each, day * each, timeout=600)
    while await connection.fetchval("SELECT sum_usage_days(1)", timeout=600):
        pass  # as a gateway does beside the calls
    tables = "usage_daily, usage_hourly, usage_users, usage_user_days, usage_name_days, usage_name_hours"
    await connection.execute(f"VACUUM ANALYZE {tables}", timeout=600)


def queries(now: datetime) -> dict[str, UsageQuery]:
    """The named queries."""
    today = midnight(now.date(), UTC)
    tomorrow, quarter, week = (today + timedelta(days=days) for days in (1, -DAYS, -7))
    return {
        "an agent's totals": UsageQuery(quarter, tomorrow, (), {"agent": "agent-7"}),
        "90 days by agent": UsageQuery(quarter, tomorrow, ("agent",)),
        "90 days by tenant": UsageQuery(quarter, tomorrow, ("tenant",)),
        "90 days by key": UsageQuery(quarter, tomorrow, ("key",)),
        "90 days by model and provider": UsageQuery(quarter, tomorrow, ("model", "provider")),
        "90 days by day": UsageQuery(quarter, tomorrow, ("day",)),
        "90 days by day, one tenant": UsageQuery(quarter, tomorrow, ("day",), {"tenant": "tenant-3"}),
        "7 days by user": UsageQuery(week, tomorrow, ("user",)),
        "90 days by model, one user": UsageQuery(quarter, tomorrow, ("model",), {"user": "user-42"}),
        "48 hours by hour": UsageQuery(now - timedelta(hours=48), now, ("hour",)),
        "7 days by hour, one agent": UsageQuery(week, now, ("hour",), {"agent": "agent-7"}),
    }


async def timed_ms(query: Callable[[], Awaitable[object]]) -> float:
    """The median of the warm repeats."""
    times: list[float] = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        await query()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times[1:])


async def main(dsn: str, rows: int) -> int:
    """Migrates, fills, measures."""
    await schema.migrate(dsn)
    now = datetime.now(UTC)
    month, slow = midnight(now.date(), UTC).replace(day=1), 0
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        if rows:
            async with pool.acquire() as connection:
                await fill(connection, rows, midnight(now.date(), UTC))
        usage = PostgresUsage(pool)
        for name, query in queries(now).items():
            ms = await timed_ms(partial(usage.query, query, now))
            slow += ms > TARGET_MS
            print(f"{name:32} {ms:8.1f} ms", flush=True)
        ms = await timed_ms(lambda: sum_spent(pool, {"tenant": "tenant-3"}, month))
        print(f"{'spent by a tenant this month':32} {ms:8.1f} ms; {slow} queries took over {TARGET_MS} ms")
    return 1 if slow else 0


if __name__ == "__main__":
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    flags.add_argument("dsn")
    flags.add_argument("--rows", type=int, default=1_000_000, help="0: only query what is there")
    given = flags.parse_args()
    sys.exit(asyncio.run(main(given.dsn, given.rows)))
