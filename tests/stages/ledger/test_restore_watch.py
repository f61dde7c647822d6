"""A database that came out of a backup is found; one that was moved or promoted is not taken for one."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import commands
import pytest
from asyncpg.connection import LoggedQuery
from database_copies import copy_database
from stages.admission.limiter_outages import OwnValkey

from llm_proxy import schema
from llm_proxy.admission.redis.backend import RedisBackend
from llm_proxy.admission.redis.sightings import StoredSightings
from llm_proxy.errors import StoreUnavailable
from llm_proxy.identity import Actor, KeyRepository, KeySpec
from llm_proxy.identity.restore_gate import RestoreGate
from llm_proxy.ledger.restore_watch import RestoreWatch
from llm_proxy.schema.connections import PooledConnection, gateway_pools
from llm_proxy.schema.database_marker import MOVED_WITHIN_MS

ME = Actor("test")
OLD = "UPDATE database_marker SET beat_ms = beat_ms - $1"
ELSEWHERE = "UPDATE database_marker SET database_oid = '1'"
PROMOTED = "UPDATE database_marker SET timeline = '00000000'"
KNOWS_ITS_PLACE = """
    SELECT count(*) FROM database_marker AS m, database_identity() AS i
    WHERE (m.database_oid, m.timeline) IS NOT DISTINCT FROM (i.database_oid, i.timeline)"""


@dataclass(slots=True)
class Watched:
    """One gateway's watch.

    Attributes:
        looks: How many times the marker was read.
        reasons: Why the gate was closed whenever the policies were to be read before calls are admitted; the
            first read fails.
    """

    gate: RestoreGate
    pool: "asyncpg.Pool[asyncpg.Record]"
    looks: int = 0
    reasons: list[str | None] = field(default_factory=list[str | None])

    def count_looks(self, asked: LoggedQuery) -> None:
        """Counts a statement that reads the marker."""
        self.looks += "database_marker" in asked.query

    async def read_policies(self) -> None:
        """Reads nothing; fails the first time."""
        self.reasons.append(self.gate.reason)
        if len(self.reasons) == 1:
            raise StoreUnavailable("Postgres does not answer.")

    async def until(self, *, is_open: bool) -> None:
        """Wait until the gate is open, or closed for a restore."""
        async with asyncio.timeout(20):
            while (self.gate.reason is None) != is_open:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.05)

    async def until_seen(self) -> None:
        """Wait until the database was seen as it is now: the first of two looks may have begun before."""
        wanted = self.looks + 2
        async with asyncio.timeout(20):
            while self.looks < wanted:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.05)

    async def assert_stays_open(self) -> None:
        """The gate is open until a closer look has left a marker with the place of the database."""
        async with asyncio.timeout(30):
            while not await self.pool.fetchval(KNOWS_ITS_PLACE):
                assert self.gate.reason is None
                await asyncio.sleep(0.1)
        assert self.gate.reason is None


@asynccontextmanager
async def watched(url: str, folder: Path, store: str | None = None) -> AsyncGenerator[Watched]:
    """A gateway's watch of a database, with its disk and its limits store."""
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240 -- a test's own
    watch = RestoreWatch(RestoreGate(), folder)
    backend = RedisBackend(store, timeout_s=1) if store is not None else None
    if backend is not None:
        await backend.start()

    async def verify(connection: PooledConnection) -> None:
        await watch.verify(connection)
        connection.add_query_logger(made.count_looks)

    pool, _ = gateway_pools(url, None, "auto", verify)
    made = Watched(watch.gate, pool)
    async with pool:
        async with pool.acquire() as connection:
            await schema.apply(connection)
        stored = StoredSightings(backend.cluster) if backend is not None else None
        await watch.start(pool, stored, before_admitting=made.read_policies)
        yield made
        await watch.stop()
    if backend is not None:
        await backend.stop()


async def execute(url: str, statement: str, *values: Any) -> None:
    """A statement on the database, while no gateway looks."""
    connection = await asyncpg.connect(url)
    await connection.execute(statement, *values)
    await connection.close()


async def count(url: str, statement: str) -> int:
    """The number that a statement returns."""
    connection = await asyncpg.connect(url)
    found: int = await connection.fetchval(statement)
    await connection.close()
    return found


async def test_a_new_database_is_trusted_by_every_gateway(database_url: str, tmp_path: Path) -> None:
    async with watched(database_url, tmp_path / "a") as one, watched(database_url, tmp_path / "b") as other:
        await one.assert_stays_open()
        await other.assert_stays_open()


async def test_a_copy_elsewhere_is_locked_for_every_gateway_until_it_is_unlocked(
    database_url: str, copy_url: str, tmp_path: Path
) -> None:
    """Nothing is left of before: no limits store, no disk."""
    async with watched(database_url, tmp_path / "before") as one:
        await one.until(is_open=True)
    await copy_database(database_url, copy_url)
    async with watched(copy_url, tmp_path / "a") as one, watched(copy_url, tmp_path / "b") as other:
        await one.until(is_open=False)
        await other.until(is_open=False)
        assert "restored from a backup, or was copied" in str(one.gate.reason)
        await one.pool.execute("UPDATE database_marker SET lock_reason = NULL, locked_at = NULL")
        await one.until(is_open=False)  # it lies elsewhere still


@pytest.mark.parametrize("known_by", ["this process", "the disk", "the limits store"])
async def test_a_snapshot_in_its_old_place_is_found_by_whoever_knows_more(
    database_url: str, tmp_path: Path, own: OwnValkey, known_by: str
) -> None:
    store = own.url if known_by == "the limits store" else None
    before = "SELECT epoch FROM tenant_epochs WHERE tenant = 'acme'"
    rewind = "UPDATE tenant_epochs SET epoch = $1 WHERE tenant = 'acme'"
    async with watched(database_url, tmp_path / "disk", store) as one:
        await one.until(is_open=True)
        keys = KeyRepository(one.pool)
        made = await keys.create(KeySpec("k", tenant="acme"), ME)
        await one.pool.execute("SELECT next_epoch('acme')")
        epoch = await one.pool.fetchval(before)
        await keys.revoke(made.record.key_id, ME)
        if known_by == "this process":
            await one.until_seen()
            await one.pool.execute(rewind, epoch)
            await one.until(is_open=False)
            assert "changes of keys or limits" in str(one.gate.reason)
            return
    async with watched(database_url, tmp_path / "disk", store):
        pass  # notes the newest epoch
    await execute(database_url, rewind, epoch)
    folder = tmp_path / ("disk" if known_by == "the disk" else "other")
    async with watched(database_url, folder, store) as one:
        await one.until(is_open=False)
        assert "changes of keys or limits" in str(one.gate.reason)


async def test_a_backup_without_a_change_of_keys_is_found_by_its_age(
    database_url: str, tmp_path: Path
) -> None:
    async with watched(database_url, tmp_path / "disk") as one:
        await one.until(is_open=True)
    await execute(database_url, OLD, 90_000)
    async with watched(database_url, tmp_path / "disk") as one:
        await one.until(is_open=False)
        assert "it lacks the last 90 seconds" in str(one.gate.reason)


async def test_a_promoted_standby_that_lacks_a_few_seconds_is_no_restore(
    database_url: str, tmp_path: Path
) -> None:
    async with watched(database_url, tmp_path / "disk") as one:
        await one.until(is_open=True)
    await execute(database_url, OLD, 20_000)
    await execute(database_url, PROMOTED)
    async with watched(database_url, tmp_path / "disk") as one:
        await one.assert_stays_open()


async def test_a_database_that_is_moved_whole_in_a_maintenance_window_is_no_restore(
    database_url: str, copy_url: str, tmp_path: Path, own: OwnValkey
) -> None:
    async with watched(database_url, tmp_path / "before", own.url) as one:
        await one.until(is_open=True)
    await copy_database(database_url, copy_url)
    async with watched(copy_url, tmp_path / "after", own.url) as one:
        await one.assert_stays_open()


async def test_a_database_of_last_week_is_a_restore_even_where_the_limits_store_is_as_old(
    database_url: str, copy_url: str, tmp_path: Path
) -> None:
    async with watched(database_url, tmp_path / "disk") as one:
        await one.until(is_open=True)
    await execute(database_url, OLD, MOVED_WITHIN_MS)
    (seen,) = (tmp_path / "disk").iterdir()
    seen.unlink()
    await copy_database(database_url, copy_url)
    connection = await asyncpg.connect(copy_url)
    row = await connection.fetchrow("SELECT lineage, generation, beat_ms FROM database_marker")
    await connection.close()
    assert row is not None
    seen.write_text("any\t{} {} {} 0\n".format(*row))
    async with watched(copy_url, tmp_path / "disk") as one:
        await one.until(is_open=False)
        assert "nothing confirms that it is whole" in str(one.gate.reason)


async def test_calls_are_admitted_once_the_policies_of_the_restored_database_are_read(
    database_url: str, copy_url: str, tmp_path: Path
) -> None:
    """After the acknowledgement; a read that fails is repeated, and until then the gate is closed."""
    async with watched(database_url, tmp_path / "disk") as one:
        await one.until(is_open=True)
        assert one.reasons == []
    await copy_database(database_url, copy_url)
    async with watched(copy_url, tmp_path / "other disk") as one:
        await one.until(is_open=False)
        words = ("restore-check", "--without-revocations", "--acknowledge", "--yes")
        await commands.run(copy_url, *words, LLM_PROXY__SPOOL_DIR=str(tmp_path / "other disk"))
        await one.until(is_open=True)
        assert len(one.reasons) == 2
        assert None not in one.reasons


async def test_a_rehearsal_on_a_copy_by_commands_leaves_the_running_database_alone(
    database_url: str, copy_url: str, tmp_path: Path, own: OwnValkey
) -> None:
    given: dict[str, Any] = {"LIMITS_REDIS_URL": own.url, "LLM_PROXY__SPOOL_DIR": str(tmp_path / "disk")}
    async with watched(database_url, tmp_path / "disk", own.url) as one:
        await one.until(is_open=True)
    await copy_database(database_url, copy_url)
    await execute(copy_url, OLD, 90_000)
    words = ("restore-check", "--without-revocations", "--acknowledge", "--yes")
    await commands.run(copy_url, *words, **given)
    assert await count(copy_url, "SELECT generation FROM database_marker") == 1
    async with watched(database_url, tmp_path / "disk", own.url) as one:
        await one.assert_stays_open()
        assert await one.pool.fetchval("SELECT generation FROM database_marker") == 0


async def test_a_store_that_does_not_answer_confirms_nothing_and_locks_nothing(
    database_url: str, tmp_path: Path, own: OwnValkey
) -> None:
    async with watched(database_url, tmp_path / "before", own.url) as one:
        await one.until(is_open=True)
    await execute(database_url, ELSEWHERE)
    own.kill()
    async with watched(database_url, tmp_path / "after", own.url) as one:
        await one.until(is_open=False)
        assert await one.pool.fetchval("SELECT locked_at FROM database_marker") is None
        own.start()
        await one.until(is_open=True)


async def test_a_backup_of_a_version_without_markers_is_found_where_the_database_was_known(
    database_url: str, tmp_path: Path
) -> None:
    async with watched(database_url, tmp_path / "disk") as one:
        await one.until(is_open=True)
        await KeyRepository(one.pool).create(KeySpec("k"), ME)
    await execute(database_url, "DELETE FROM database_marker")
    async with watched(database_url, tmp_path / "disk") as one:
        await one.until(is_open=False)
        assert "older version" in str(one.gate.reason)
        assert await one.pool.fetchval("SELECT locked_at IS NOT NULL FROM database_marker")


async def test_the_first_gateway_of_this_version_trusts_the_database_it_finds(
    database_url: str, tmp_path: Path
) -> None:
    connection = await asyncpg.connect(database_url)
    await schema.apply(connection)
    await connection.execute("INSERT INTO api_keys (key_id, name) VALUES ('k', 'k')")
    await connection.close()
    async with watched(database_url, tmp_path / "disk") as one:
        await one.assert_stays_open()


async def test_a_database_made_anew_under_an_old_name_has_nothing_to_revive(
    database_url: str, tmp_path: Path
) -> None:
    """As when the data of `make run` is deleted."""
    async with watched(database_url, tmp_path / "disk") as one:
        await one.until(is_open=True)
    await execute(database_url, "DELETE FROM database_marker")
    async with watched(database_url, tmp_path / "disk") as one:
        await one.assert_stays_open()
