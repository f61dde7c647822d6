"""Migrations on a database with rows: once, without a deadline, beside the calls, and resumable."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from usage_records import record, run_ledger, until_written

from llm_proxy import schema
from llm_proxy.ledger import LedgerStore, PostgresUsage
from llm_proxy.ledger.retention import DEFAULT_DAYS
from llm_proxy.schema.steps import OLDEST_SCHEMA
from llm_proxy.telemetry import timestamp_of, uuid7

Pool = asyncpg.Pool
OLDER = 11
"""The last step of a version whose log of model calls was one table."""
ROWS = 30_000
BATCH = 5000
_FILL = """
    INSERT INTO llm_calls (call_id, attempt, started_at, status, cost_usd)
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '70008000'
            || lpad(to_hex(n), 12, '0'))::uuid, 'success:d', at, 'success', 0.001
    FROM (SELECT n, now() - n * interval '10 days' / $1::int AS at FROM generate_series(1, $1::int) AS n) AS c
"""
_BEFORE = "SELECT to_regclass('llm_calls_before') IS NOT NULL"
_PARTITIONS = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'llm_calls'::regclass"


@pytest.fixture
async def pool(empty_database_url: str) -> AsyncIterator["Pool[asyncpg.Record]"]:
    """A pool on a database of the older version."""
    async with asyncpg.create_pool(empty_database_url, min_size=0, max_size=3) as made:
        await made.execute(
            "CREATE TABLE schema_steps (number integer PRIMARY KEY, name text NOT NULL, digest text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT now())"
        )
        for step in schema.all_migrations():
            if step.number <= OLDER:
                await made.execute(step.sql)
                await made.execute(
                    "INSERT INTO schema_steps (number, name, digest) VALUES ($1, $2, $3)",
                    step.number, step.name, step.digest,
                )  # fmt: skip
        yield made


async def reaches(pool: "Pool[asyncpg.Record]", statement: str, value: Any) -> None:
    """Wait until the statement's value is this."""
    async with asyncio.timeout(30):
        while await pool.fetchval(statement) != value:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.05)


async def test_a_large_log_is_moved_beside_the_calls_and_goes_on_after_a_stop(
    pool: "Pool[asyncpg.Record]", empty_database_url: str, tmp_path: Path
) -> None:
    """The newest first, in batches; nothing is lost, doubled or hidden meanwhile; calls are recorded."""
    await pool.execute(_FILL, ROWS)
    oldest = UUID(await pool.fetchval("SELECT call_id::text FROM llm_calls ORDER BY started_at LIMIT 1"))
    async with pool.acquire() as connection:
        await schema.apply(connection)
        done = await schema.run_work_batch(connection)
    assert done is not None
    assert (done.name, done.rows_done, done.finished) == ("move_llm_calls", BATCH, False)
    assert await pool.fetchval("SELECT count(*) FROM llm_calls") == BATCH
    assert await pool.fetchval("SELECT min(a.started_at) FROM llm_calls AS a") >= await pool.fetchval(
        "SELECT max(b.started_at) FROM llm_calls_before AS b"
    )
    async with run_ledger(empty_database_url, tmp_path) as ledger:
        ledger.call_finished(record(request_id=oldest, started_at=timestamp_of(oldest)))
        await reaches(pool, "SELECT count(*) FROM requests", 1)
        for _ in ("while it is moved", "and afterwards"):
            story = await PostgresUsage(pool).request_detail(oldest)
            assert story is not None
            assert [call["call_id"] for call in story["model_calls"]] == [oldest]
            await reaches(pool, _BEFORE, value=False)
    assert await pool.fetchval("SELECT count(*) FROM llm_calls") == ROWS
    assert await pool.fetchval("SELECT count(*) FROM llm_calls_other") == 0
    assert await pool.fetchval("SELECT rows_done FROM schema_work WHERE finished_at IS NOT NULL") == ROWS


async def test_a_locked_table_does_not_prevent_the_start(
    pool: "Pool[asyncpg.Record]", empty_database_url: str, tmp_path: Path
) -> None:
    """Records go to the spool while the migration waits for its lock, then to the tables."""
    one = record()
    async with pool.acquire() as busy:
        transaction = busy.transaction()
        await transaction.start()
        await busy.execute("LOCK TABLE llm_calls IN ACCESS SHARE MODE")
        async with run_ledger(empty_database_url, tmp_path) as ledger:
            assert ledger.state().postgres == "migrating"
            ledger.call_finished(one)
            async with asyncio.timeout(5):
                while not ledger.state().spool_records:  # noqa: ASYNC110 -- nothing tells
                    await asyncio.sleep(0.05)
            await transaction.rollback()
            await reaches(pool, "SELECT count(*) FROM requests", 1)
            assert ledger.state().postgres == "up"
    assert await pool.fetchval("SELECT request_id FROM requests") == one.request_id


async def test_a_migration_that_waits_for_a_table_says_for_whom_and_holds_up_no_writer(
    pool: "Pool[asyncpg.Record]", empty_database_url: str
) -> None:
    """Its lock is asked for a second at a time; a row is written within the deadline of records."""
    lines: list[str] = []
    await pool.execute(_FILL, 10)
    async with pool.acquire() as reader, reader.transaction():
        pid = await reader.fetchval("SELECT pg_backend_pid() FROM (SELECT count(*) FROM llm_calls) AS c")
        migrating = asyncio.create_task(schema.migrate(empty_database_url, report=lines.append))
        while len(lines) < 2:
            async with asyncio.timeout(2):
                await pool.execute(
                    "INSERT INTO llm_calls (call_id, started_at, status)"
                    " VALUES (gen_random_uuid(), now(), 'success')"
                )
            assert not migrating.done()
    assert (await migrating)[-1] == schema.all_migrations()[-1].name
    waited = rf"waiting: a table is in use: pid {pid} \(idle in transaction, transaction \d+ s, query \d+ s\)"
    assert re.fullmatch(rf"{waited} has a lock on llm_calls", lines[0])


async def test_a_version_older_than_the_release_before_is_kept_away(
    empty_database_url: str, tmp_path: Path
) -> None:
    """It neither migrates nor writes; the release before, and a newer one's schema, are no reason."""
    await schema.migrate(empty_database_url)
    newest = schema.all_migrations()[-1].number
    async with asyncpg.create_pool(empty_database_url, min_size=0, max_size=2) as made:
        assert await made.fetchval("SELECT oldest FROM schema_floor") == OLDEST_SCHEMA < newest
        await made.execute("INSERT INTO schema_steps (number, name, digest) VALUES (990, '990_x.sql', 'x')")
        async with run_ledger(empty_database_url, tmp_path) as ledger:
            assert ledger.state().postgres == "up"
        await made.execute("UPDATE schema_floor SET oldest = $1", newest + 1)
        refused = (
            rf"the database has schema 990, on which versions with schema {newest + 1:03} or newer run; this"
            rf" version has schema {newest:03} and is too old"
        )
        with pytest.raises(schema.GatewayTooOld, match=refused):
            await schema.migrate(empty_database_url)
        with pytest.raises(schema.GatewayTooOld, match=refused):
            async with run_ledger(empty_database_url, tmp_path / "b"):
                pass


async def test_many_workers_apply_every_file_once(
    pool: "Pool[asyncpg.Record]", empty_database_url: str, tmp_path: Path
) -> None:
    """Also a file whose number is below one that was applied before."""
    await pool.execute("DELETE FROM schema_steps WHERE number = 9")

    async def worker() -> None:
        async with run_ledger(empty_database_url, tmp_path) as ledger:
            ledger.call_finished(record())
            await until_written(ledger)

    await asyncio.gather(*(worker() for _ in range(4)))
    rows = await pool.fetch("SELECT number, name FROM schema_steps ORDER BY number")
    assert [tuple(row) for row in rows] == [(step.number, step.name) for step in schema.all_migrations()]
    assert await pool.fetchval("SELECT count(*) FROM requests") == 4


async def test_model_calls_are_dropped_by_day(empty_database_url: str, tmp_path: Path) -> None:
    """An expired day is dropped with its table; ids without a time row by row."""
    async with (
        asyncpg.create_pool(empty_database_url, min_size=0) as pool,
        run_ledger(empty_database_url, tmp_path),
    ):
        whole = await pool.fetchval(_PARTITIONS)
        now = datetime.now(UTC)
        await pool.execute("SELECT llm_calls_partition($1)", (now - timedelta(days=40)).date())
        await pool.execute(
            "INSERT INTO llm_calls (call_id, started_at, status)"
            " SELECT id, now() - interval '40 days', 'success'"
            " FROM unnest(ARRAY[gen_random_uuid(), first_id_of(current_date - 40)]) AS id"
        )
        assert await pool.fetchval("SELECT count(*) FROM llm_calls_other") == 1
        store = LedgerStore(pool, DEFAULT_DAYS | {"requests": 30, "llm_calls": 30})
        await store.maintain_partitions()
        assert await pool.fetchval(_PARTITIONS) == whole
        assert await pool.fetchval("SELECT count(*) FROM llm_calls") == 1
        assert await store.delete_expired() == 1
        assert await store.delete_expired() == 0
        assert await pool.fetchval("SELECT count(*) FROM llm_calls") == 0


async def test_a_row_older_than_its_partition_is_moved_into_it(
    empty_database_url: str, tmp_path: Path
) -> None:
    """The sidecar may log before a partition exists."""
    async with (
        asyncpg.create_pool(empty_database_url, min_size=0) as pool,
        run_ledger(empty_database_url, tmp_path),
    ):
        call_id = uuid7()
        await pool.execute("DROP TABLE llm_calls_" + datetime.now(UTC).strftime("%Y%m%d"))
        await pool.execute(
            "INSERT INTO llm_calls (call_id, started_at, status) VALUES ($1, now(), 'success')", call_id
        )
        assert await pool.fetchval("SELECT call_id FROM llm_calls_other") == call_id
        await pool.execute("SELECT llm_calls_partition(day_of_id($1))", call_id)
        assert await pool.fetchval("SELECT count(*) FROM llm_calls_other") == 0
        assert await pool.fetchval("SELECT call_id FROM llm_calls") == call_id
