"""Steps outside a transaction: indexes made beside the calls, by one process, whatever ended the last one."""

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest
from pgbouncer import run_pgbouncer
from usage_records import run_ledger

from llm_proxy import schema
from llm_proxy.ledger.migration_runner import MigrationRunner
from llm_proxy.schema import Migration, SchemaBusy
from llm_proxy.schema.connections import connect

if TYPE_CHECKING:
    from llm_proxy.schema.connections import PooledConnection

Pool = asyncpg.Pool
INDEX = "payloads_by_tenant"
SQL = f"""-- outside a transaction
-- One tenant's payloads; it is only faster.
CREATE INDEX CONCURRENTLY {INDEX} ON payloads (tenant, started_at);
DROP INDEX CONCURRENTLY IF EXISTS payloads_of_before;
"""
STEP = Migration(900, "900_payloads_by_tenant.sql", SQL)
UNIQUE = Migration(
    901,
    "901_unique.sql",
    "-- outside a transaction\nCREATE UNIQUE INDEX CONCURRENTLY one ON payloads (tenant);\n",
)
READY = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{INDEX}')"  # noqa: S608 -- ours
UNDERWAY = READY.replace("indisvalid", "NOT indisvalid")
WRITE = "INSERT INTO payloads (request_id, started_at, tenant, prompt) VALUES ($1, now(), 'acme', 'x')"
BUILDERS = "FROM pg_stat_progress_create_index WHERE datname = current_database()"
RECORDED = "SELECT count(*) FROM schema_steps WHERE number >= 900"
_MIGRATOR = """
import asyncio, sys
from llm_proxy import schema
from llm_proxy.schema.connections import connect

async def main():
    steps = [*schema.all_migrations(), schema.Migration(900, "900_payloads_by_tenant.sql", sys.argv[2])]
    lock, worker, watcher = [await connect(sys.argv[1], None) for _ in range(3)]
    print(await schema.apply_outside(lock, worker, watcher.fetchrow, print, steps), flush=True)

asyncio.run(main())
"""


@asynccontextmanager
async def connections(url: str) -> AsyncGenerator[list["PooledConnection"]]:
    """One that holds the lock, one that works, one that watches."""
    made = [await connect(url, None, "auto") for _ in range(3)]
    try:
        yield made
    finally:
        for one in made:
            await one.close()


async def apply_step(
    url: str, step: Migration = STEP, lines: list[str] | None = None
) -> tuple[list[str], list[str]]:
    """Applies a step; returns the names of what was applied and the lines that were reported."""
    lines = [] if lines is None else lines
    async with connections(url) as (lock, worker, watcher):
        steps = [*schema.all_migrations(), step]
        applied = await schema.apply_outside(lock, worker, watcher.fetchrow, lines.append, steps)
    return applied, lines


@asynccontextmanager
async def old_snapshot(url: str) -> AsyncGenerator[int]:
    """A transaction for which an index that is made has to wait, as a report or a dump is; yields its pid."""
    reader = await asyncpg.connect(url)
    try:
        async with reader.transaction(isolation="repeatable_read"):
            yield await reader.fetchval("SELECT pg_backend_pid() FROM (SELECT count(*) FROM payloads) AS p")
    finally:
        await reader.close()


async def until(pool: "Pool[asyncpg.Record]", sql: str) -> None:
    """Waits until the statement's value is true."""
    async with asyncio.timeout(30):
        while await pool.fetchval(sql) is not True:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.05)


async def kill_while_it_makes(pool: "Pool[asyncpg.Record]", url: str) -> None:
    """Starts a migrator and sends it SIGKILL in the middle of its index."""
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", _MIGRATOR, url, SQL)
    await until(pool, UNDERWAY)
    killed.send_signal(signal.SIGKILL)
    await killed.wait()


@pytest.fixture
async def filled(pool: "Pool[asyncpg.Record]") -> "Pool[asyncpg.Record]":
    """A database with rows and an index that a step drops."""
    await pool.execute("CREATE INDEX payloads_of_before ON payloads (started_at)")
    for _ in range(2):
        await pool.execute(WRITE, uuid4())
    return pool


async def test_an_index_is_made_beside_writers_and_says_for_whom_it_waits(
    filled: "Pool[asyncpg.Record]", database_url: str
) -> None:
    """A long transaction delays the index, and no row that is written."""
    lines: list[str] = []
    async with old_snapshot(database_url) as pid:
        making = asyncio.create_task(apply_step(database_url, lines=lines))
        await until(filled, UNDERWAY)
        async with asyncio.timeout(1):
            await filled.execute(WRITE, uuid4())
        async with connections(database_url) as (lock, worker, watcher):
            steps = [*schema.all_migrations(), STEP]
            with pytest.raises(SchemaBusy, match=r"^another process migrates: pid \d+ \("):
                await schema.apply_outside(lock, worker, watcher.fetchrow, print, steps)
        async with asyncio.timeout(30):
            while not lines:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.05)
        assert not making.done()
    assert (await making)[0] == [STEP.name]
    assert re.fullmatch(
        rf"CREATE INDEX CONCURRENTLY {INDEX} ON: waits for pid {pid}"
        r" \(idle in transaction, transaction \d+ s, query \d+ s\)",
        lines[0],
    )
    assert await filled.fetchval(READY) is True
    assert await filled.fetchval("SELECT to_regclass('payloads_of_before')") is None
    assert await apply_step(database_url) == ([], [])


async def test_a_killed_migration_goes_on_where_it_was(
    filled: "Pool[asyncpg.Record]", database_url: str
) -> None:
    """The server may still make the index; if that ended too, the invalid one is made anew."""
    async with old_snapshot(database_url):
        await kill_while_it_makes(filled, database_url)
        with pytest.raises(SchemaBusy, match=rf"^pid \d+ still makes the index {INDEX}$"):
            await apply_step(database_url)
        assert await filled.fetchval(f"SELECT pg_terminate_backend(pid) {BUILDERS}") is True
        await until(filled, f"SELECT count(*) = 0 {BUILDERS}")
    assert await filled.fetchval(READY) is False
    assert await filled.fetchval(RECORDED) == 0
    assert (await apply_step(database_url))[0] == [STEP.name]
    assert await filled.fetchval(READY) is True


async def test_an_index_that_the_server_finished_alone_is_taken(
    filled: "Pool[asyncpg.Record]", database_url: str
) -> None:
    """The migrator was killed while Postgres worked for it."""
    async with old_snapshot(database_url):
        await kill_while_it_makes(filled, database_url)
    await until(filled, READY)
    made = await filled.fetchval("SELECT to_regclass($1)::oid", INDEX)
    assert await filled.fetchval(RECORDED) == 0
    assert (await apply_step(database_url))[0] == [STEP.name]
    assert await filled.fetchval("SELECT to_regclass($1)::oid", INDEX) == made


async def test_two_migrators_make_one_index(filled: "Pool[asyncpg.Record]", database_url: str) -> None:
    """The second waits for the first, then finds nothing to do."""

    async def migrator() -> list[str]:
        while True:
            with contextlib.suppress(SchemaBusy):
                return (await apply_step(database_url))[0]

    applied = await asyncio.gather(*(migrator() for _ in range(3)))
    assert sorted(applied) == [[], [], [STEP.name]]
    assert await filled.fetchval(READY) is True


async def test_an_index_is_made_behind_a_pooler_in_transaction_mode(
    filled: "Pool[asyncpg.Record]", database_url: str, service_folder: Path
) -> None:
    """Nothing is left in a session of the server."""
    folder = service_folder / f"pgbouncer-{uuid4().hex}"
    folder.mkdir(mode=0o755)
    with run_pgbouncer(folder, database_url, "transaction", size=3) as pooler:
        url = f"{pooler.rpartition('/')[0]}/{database_url.rpartition('/')[2]}"
        assert (await apply_step(url))[0] == [STEP.name]
        async with connections(url) as made:
            assert {await one.fetchval("SHOW statement_timeout") for one in made} == {"0"}
            assert await made[0].fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    assert await filled.fetchval(READY) is True


async def test_a_role_s_own_timeouts_do_not_end_an_index(
    filled: "Pool[asyncpg.Record]", database_url: str
) -> None:
    """They are lifted for the one session that makes it."""
    name = database_url.rpartition("/")[2]
    await filled.execute(f"ALTER DATABASE \"{name}\" SET statement_timeout = '200ms'")
    async with old_snapshot(database_url):
        making = asyncio.create_task(apply_step(database_url))
        await until(filled, UNDERWAY)
        await asyncio.sleep(0.5)
        assert not making.done()
    assert (await making)[0] == [STEP.name]


async def test_rows_that_a_unique_index_rejects_leave_no_index_behind(
    filled: "Pool[asyncpg.Record]", database_url: str
) -> None:
    """An invalid one would go on to reject rows."""
    with pytest.raises(asyncpg.UniqueViolationError):
        await apply_step(database_url, UNIQUE)
    assert await filled.fetchval("SELECT to_regclass('one')") is None
    await filled.execute(WRITE, uuid4())


async def test_a_gateway_serves_records_before_its_indexes_are_made(
    database_url: str, tmp_path: Path
) -> None:
    """A schema that lacks only steps outside a transaction is this version's."""
    async with asyncpg.create_pool(database_url, min_size=0, max_size=4) as made:
        async with run_ledger(database_url, tmp_path) as ledger:
            assert ledger.state().postgres == "up"
        runner = MigrationRunner(made, [*schema.all_migrations(), STEP])
        await runner.advance(0)
        assert (runner.done, await made.fetchval(READY)) == (True, None)
        assert await runner.make_indexes()
        assert (await made.fetchval(READY), await made.fetchval(RECORDED)) == (True, 1)
        assert await runner.make_indexes()


def test_other_statements_are_no_steps_outside_a_transaction() -> None:
    """All files of this version hold what they may."""
    for step in schema.all_migrations():
        assert not step.is_outside or step.index_statements()
    assert [one.index for one in STEP.index_statements()] == [INDEX, "payloads_of_before"]
    assert [one.makes for one in STEP.index_statements()] == [True, False]
    for sql in ("UPDATE requests SET status = 1", "CREATE INDEX a ON b (c)", "DO $$ BEGIN; END $$"):
        with pytest.raises(ValueError, match="indexes only"):
            Migration(902, "902_x.sql", f"-- outside a transaction\n{sql};\n").index_statements()
