"""Postgres is killed, or absent: no promised record is lost or counted twice."""

import asyncio
import resource
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import get_args
from uuid import UUID, uuid4

import asyncpg
import pytest
from processes import descendants, signal_all
from usage_records import record, run_ledger, until_written

from llm_proxy.admission.lease import SettledUsage
from llm_proxy.call_context import CallContext
from llm_proxy.errors import Unauthorized
from llm_proxy.identity.caller import BudgetUnit
from llm_proxy.ledger import LedgerSpend
from llm_proxy.ledger.record import encode, row_of
from llm_proxy.ledger.spool import Journal, list_segments
from llm_proxy.ledger.worker_slot import acquire_slot
from llm_proxy.quantities import TURNS
from llm_proxy.schema.connections import RELEASE_TIMEOUT_S, gateway_pools
from llm_proxy.schema.database import DatabaseUnavailable, db_deadline
from llm_proxy.stack import ManagedProcess, ProcessSpec, start, stop, wait_until_ready
from llm_proxy.stack.probe import free_port
from llm_proxy.stack.stores import postgres_spec, postgres_url
from llm_proxy.telemetry import uuid7

UNITS: tuple[BudgetUnit, ...] = tuple(unit for unit in get_args(BudgetUnit) if unit != TURNS)
"""What rows can sum up; turns are counted for runs alone, by the limits store."""
SPENDERS = (
    ("agent", "odd", "*"),
    ("tenant_group", "t", "m"),
    ("user_model", "u", "m"),
    ("provider", "p", "*"),
)


class Server:
    """A Postgres of the test's own, which may die."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.url = postgres_url(self._port, "pw")
        self._part: ProcessSpec = postgres_spec(folder, self._port, "pw", durable=False)
        self._running: ManagedProcess | None = None

    def start(self) -> None:
        """Run, recovering from whatever happened before."""
        self._running = start(self._part, self._folder / "logs")
        wait_until_ready([self._running])

    def kill(self) -> None:
        """SIGKILL, to the server and its children, the first of which could answer one more query."""
        assert self._running is not None
        self._signal(signal.SIGKILL)
        self._running.popen.wait()
        self._running = None

    def freeze(self) -> None:
        """SIGSTOP, to the server and its children: connections stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._running is not None
        server = self._running.popen.pid
        signal_all([server, *descendants(server)], number)

    def stop(self) -> None:
        """In order."""
        if self._running is not None:
            stop([self._running])


@pytest.fixture
def server(service_folder: Path) -> Iterator[Server]:
    """A Postgres that may be killed."""
    one = Server(service_folder / f"own-{free_port()}")
    one.start()
    yield one
    one.stop()


async def rows(url: str) -> list[UUID]:
    """The ids of all rows."""
    connection = await asyncpg.connect(url)
    try:
        return [row["request_id"] for row in await connection.fetch("SELECT request_id FROM requests")]
    finally:
        await connection.close()


async def test_postgres_killed_twice_while_calls_finish(server: Server, tmp_path: Path) -> None:
    """Every record is there once, sums agree; `call_finished` never waited."""
    loop = asyncio.get_running_loop()
    posted: list[UUID] = []
    longest_s = 0.0
    async with run_ledger(server.url, tmp_path) as ledger:
        for step in range(400):
            if step in {100, 250}:
                server.kill()
            if step in {160, 300}:
                server.start()
            for _ in range(5):
                one = record()
                began = loop.time()
                ledger.call_finished(one)
                longest_s = max(longest_s, loop.time() - began)
                posted.append(one.request_id)
            await asyncio.sleep(0.01)
        await until_written(ledger)
        assert ledger.state().postgres == "up"
    assert sorted(await rows(server.url)) == sorted(posted)
    connection = await asyncpg.connect(server.url)
    assert await connection.fetchval("SELECT sum(requests) FROM usage_daily") == 2000
    await connection.close()
    assert longest_s < 0.05


async def test_a_deadline_holds_while_postgres_is_silent(server: Server) -> None:
    """Of a question, and of a caller who leaves; a thawed server is asked by new connections."""
    for pool in gateway_pools(server.url, None, "auto"):
        async with pool:
            await asyncio.gather(*(pool.fetchval("SELECT pg_sleep(0.1)") for _ in range(2)))
            server.freeze()
            began = time.monotonic()
            with pytest.raises(DatabaseUnavailable, match="did not answer in time"):
                async with db_deadline(0.2), pool.acquire() as connection:
                    await connection.fetchval("SELECT 1")
            leaving = asyncio.create_task(pool.fetchval("SELECT 1"))
            await asyncio.sleep(0.2)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            assert time.monotonic() - began < 4 * RELEASE_TIMEOUT_S
            server.thaw()
            assert await asyncio.gather(*(pool.fetchval("SELECT 1") for _ in range(3))) == [1, 1, 1]


async def test_a_start_without_postgres_spools_and_catches_up(server: Server, tmp_path: Path) -> None:
    """Configured but unavailable at the start: degraded, then migrated and replayed."""
    server.kill()
    one = record()
    async with run_ledger(server.url, tmp_path) as ledger:
        assert ledger.state().postgres == "away"
        ledger.call_finished(one)
        await asyncio.sleep(0.2)
        assert ledger.state().spool_records == 1
        server.start()
        await until_written(ledger)
    assert await rows(server.url) == [one.request_id]


async def test_a_stop_without_postgres_leaves_records_to_the_next_start(
    server: Server, tmp_path: Path
) -> None:
    """SIGTERM drains to disk what Postgres cannot take."""
    async with run_ledger(server.url, tmp_path) as ledger:
        server.kill()
        one = record()
        ledger.call_finished(one)
    server.start()
    async with run_ledger(server.url, tmp_path) as ledger:
        await until_written(ledger)
    assert await rows(server.url) == [one.request_id]


async def test_spend_is_unknown_while_records_wait(server: Server, tmp_path: Path) -> None:
    """An incomplete sum would let a budget be spent twice."""
    since = record().started_at.replace(hour=0, minute=0, second=0, microsecond=0)
    pool = await asyncpg.create_pool(server.url, min_size=0)
    async with run_ledger(server.url, tmp_path) as ledger:
        spent = LedgerSpend(pool, ledger)
        ledger.call_finished(record(started_at=since, cost_nano_usd=1_000_000_001))
        assert await spent.fetch_spend("key", "key-1", since) == 1_000_000_001
        assert await spent.fetch_spend("tenant", "nobody", since) == 0
        for tenant, cost in (("t-1", 5), ("t-2", 7), (None, 9)):
            ledger.call_finished(record(started_at=since, tenant=tenant, agent="scout", cost_nano_usd=cost))
        reported = [await spent.fetch_spend("agent", "scout", since, tenant) for tenant in ("t-1", "t-2", "")]
        assert reported == [5, 7, 9]
        assert await spent.fetch_spend("agent", "scout", since) == 21
        exact = record(usage_source="sidecar", cost_nano_usd=77, prompt_tokens=3, completion_tokens=4)
        guessed = record(usage_source="estimated", cost_nano_usd=77, prompt_tokens=3, completion_tokens=4)
        nameless = record(usage_source="estimated", provider=None)
        for one in (exact, guessed, nameless):
            ledger.call_finished(one)
        await until_written(ledger)
        ledger.call_finished(record(group="own", group_asked="asked", completion_tokens=9))
        ledger.call_finished(record(group="own", group_asked="asked", completion_tokens=8, cache="hit"))
        ledger.call_finished(record(group="own", group_asked="asked", completion_tokens=7, outcome="cut"))
        await until_written(ledger)
        latest = await spent.recent_answers()
        assert latest is not None
        assert [tokens for group, tokens in latest if group == "asked"] == [9]
        requested = [exact.request_id, guessed.request_id, nameless.request_id]
        used = SettledUsage(7, 77, exact.provider)
        assert await spent.exact_usage(requested) == {
            exact.request_id: (used, True),
            guessed.request_id: (used, False),
        }
        server.kill()
        assert await spent.exact_usage(requested) is None
        assert await spent.recent_answers() is None
        ledger.call_finished(record(started_at=since))
        assert await spent.fetch_spend("key", "key-1", since) is None
    pool.terminate()


async def test_spend_is_exact_since_any_moment_in_any_unit(server: Server, tmp_path: Path) -> None:
    """A period of another zone begins within a day or an hour; each call counts on one side of it."""
    midnight = record().started_at.replace(hour=0, minute=0, second=0, microsecond=0)
    moments = [midnight - timedelta(minutes=gap) for gap in (1, 31, 61, 400, 1_441, 3_000)]
    pool = await asyncpg.create_pool(server.url, min_size=0)
    async with run_ledger(server.url, tmp_path) as ledger:
        spent = LedgerSpend(pool, ledger)
        for at, moment in enumerate(moments):
            named = {"tenant": "t", "user": "u", "group": "m", "provider": "p", "agent": "odd"}
            cost = {"cost_nano_usd": 10**at, "prompt_tokens": 2, "completion_tokens": 3}
            cost |= {"images": 7, "audio_ms": 1_500, "characters": None, "search_units": 1}
            ledger.call_finished(record(started_at=moment, **named, **cost))
            ledger.call_finished(record(started_at=moment, replay_of=str(uuid4()), **named, **cost))
        await until_written(ledger)
        for gap in (0, 30, 60, 330, 400, 1_439, 2_000, 3_000):
            since = midnight - timedelta(minutes=gap)
            counted = [at for at, moment in enumerate(moments) if moment >= since]
            calls = len(counted)
            expected = [sum(10**at for at in counted), calls, 5 * calls, 7 * calls, 1_500 * calls, 0, calls]
            for scope, spender, group in SPENDERS:
                tenant = None if scope == "provider" else "t"
                found = [
                    await spent.fetch_spend(scope, spender, since, tenant, group, unit) for unit in UNITS
                ]
                assert found == expected, (scope, gap)
        assert await spent.fetch_spend("global", "*", midnight - timedelta(minutes=31), None) == 11
        assert await spent.fetch_spend("user_model", "u", midnight - timedelta(days=9), "t", "other") == 0
    pool.terminate()


async def test_without_postgres_the_spool_keeps_the_newest_records(tmp_path: Path) -> None:
    """The oldest segment is dropped first, and counted."""
    async with run_ledger(None, tmp_path, spool_max_bytes=100_000) as ledger:
        for _ in range(20):
            for _ in range(50):
                ledger.call_finished(record())
            await asyncio.sleep(0.07)
        last = record()
        ledger.call_finished(last)
        await asyncio.sleep(0.1)
        assert ledger.state().postgres == "off"
        assert ledger.state().spool_bytes <= 100_000
        assert 100 < ledger.state().spool_records < 1000
    assert str(last.request_id) in list_segments(tmp_path / "worker-0")[-1].read_text()


async def test_a_start_without_a_database_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By one worker of two."""
    async with run_ledger(None, tmp_path), run_ledger(None, tmp_path):
        pass
    said = [one for one in caplog.messages if "no database" in one]
    assert said == ["no database is configured: internal secrets only, records stay in the spool"]


async def test_a_start_on_a_full_disk_keeps_a_dead_worker_s_records(tmp_path: Path) -> None:
    """They are recovered when there is room."""
    dead = acquire_slot(tmp_path)
    journal = Journal(dead.path / "journal")
    kept = record()
    journal.complete(kept.request_id, encode(row_of(kept)))
    other = acquire_slot(tmp_path)
    dead.release()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
    try:
        async with run_ledger(None, tmp_path) as ledger:
            assert ledger.state().spool_records == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
        other.release()
    async with run_ledger(None, tmp_path) as ledger:
        assert ledger.state().spool_records == 1


async def test_a_full_disk_loses_no_record(database_url: str, tmp_path: Path) -> None:
    """No room for journal, spool or metrics: logged once, and records still reach Postgres."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        async with run_ledger(database_url, tmp_path) as ledger:
            posted = [record() for _ in range(50)]
            for one in posted:
                ledger.call_finished(one)
            await until_written(ledger)
            assert ledger.state().postgres == "up"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert sorted(await rows(database_url)) == sorted(one.request_id for one in posted)


async def test_records_wait_in_memory_without_disk_and_postgres(server: Server, tmp_path: Path) -> None:
    """Bounded; they are written when either is back."""
    async with run_ledger(server.url, tmp_path) as ledger:
        server.kill()
        ledger.call_finished(record())
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
        try:
            last = record()
            ledger.call_finished(last)
            await asyncio.sleep(0.3)
            assert ledger.state().queued == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, ignored)
        server.start()
        await until_written(ledger)
    assert last.request_id in await rows(server.url)


async def test_rejection_counts_wait_for_postgres_and_are_exact(server: Server, tmp_path: Path) -> None:
    """Though only rejections come, and some were written before it died."""

    async def counted() -> int:
        connection = await asyncpg.connect(server.url)
        try:
            return int(await connection.fetchval("SELECT coalesce(sum(times), 0) FROM refusal_counts"))
        finally:
            await connection.close()

    def refuse(times: int) -> None:
        for _ in range(times):
            ledger.request_rejected(CallContext(uuid7()), Unauthorized("Who?"))

    async with run_ledger(server.url, tmp_path) as ledger:
        refuse(5)
        async with asyncio.timeout(10):
            while await counted() != 5:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.05)
        server.kill()
        refuse(7)
        async with asyncio.timeout(10):
            while ledger.state().postgres == "up":  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.05)
        server.start()
        refuse(2)
        async with asyncio.timeout(20):
            while await counted() != 14:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.05)
        assert ledger.state().postgres == "up"
