"""Fills a database with usage as a busy installation leaves it, then times the named questions, warm.

    python bench/generate_rows.py postgresql://... --rows 10000000

200 agents of 50 tenants, each with a key and 15 users, call 12 models of 6 providers over 90 days; rows go in
day by day, through the same triggers as the gateway's own.
"""

import argparse
import asyncio
import statistics
import time
from datetime import UTC, datetime, timedelta

import asyncpg

from llm_proxy import schema
from llm_proxy.ledger.budget_spend import sum_spent
from llm_proxy.ledger.usage_query import UsageQuery, midnight
from llm_proxy.ledger.usage_store import PostgresUsage

DAYS = 90
TARGET_MS = 200
REPEATS = 5

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
    began = time.perf_counter()
    each = rows // DAYS
    for day in range(DAYS):
        start = today - timedelta(days=DAYS - 1 - day)
        await connection.execute("SELECT requests_partition($1)", start.date())
        await connection.execute(ROWS_OF_A_DAY, start, each, day * each, timeout=600)
    print(f"{DAYS * each:,} rows in {time.perf_counter() - began:.0f} s", flush=True)
    await connection.execute(
        "VACUUM ANALYZE usage_daily, usage_hourly, usage_users, usage_user_days", timeout=600
    )


async def measure(usage: PostgresUsage, now: datetime) -> bool:
    """Asks each named question a few times; True when every median is under the target."""
    today, tomorrow = midnight(now.date(), UTC), midnight(now.date(), UTC) + timedelta(days=1)
    quarter, week = today - timedelta(days=DAYS), today - timedelta(days=7)
    questions = {
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
    fast = True
    for name, question in questions.items():
        median_ms, lines = await timed(usage, question, now)
        fast = fast and median_ms < TARGET_MS
        print(f"{name:32} {median_ms:8.1f} ms  {lines} lines")
    began = time.perf_counter()
    await sum_spent(usage.pool, {"tenant": "tenant-3"}, today.replace(day=1))
    print(f"{'spent by a tenant this month':32} {(time.perf_counter() - began) * 1000:8.1f} ms")
    return fast


async def timed(usage: PostgresUsage, question: UsageQuery, now: datetime) -> tuple[float, int]:
    """Median of the warm repeats, and the number of lines."""
    times: list[float] = []
    lines = 0
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        lines = len((await usage.query(question, now)).rows)
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times[1:]), lines


async def main() -> None:
    """Migrate, fill, measure."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("dsn")
    arguments.add_argument("--rows", type=int, default=1_000_000, help="0: only ask, of what is there")
    given = arguments.parse_args()
    await schema.migrate(given.dsn)
    now = datetime.now(UTC)
    pool = await asyncpg.create_pool(given.dsn, min_size=1, max_size=1)
    if given.rows:
        async with pool.acquire() as connection:
            await fill(connection, given.rows, midnight(now.date(), UTC))
    print(
        "every question under" if await measure(PostgresUsage(pool), now) else "some question over",
        f"{TARGET_MS} ms",
    )
    for table in ("requests", "usage_daily", "usage_hourly", "usage_users", "usage_user_days"):
        print(f"{table:14} {await pool.fetchval(f'SELECT count(*) FROM {table}'):>12,} rows")  # noqa: S608 -- the names above
    await pool.close()


if __name__ == "__main__":
    asyncio.run(main())
