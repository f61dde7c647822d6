"""Failed authentications in a real Postgres: counted, bounded, deleted in time."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from llm_proxy.identity import AuthFailureLog
from llm_proxy.identity.auth_failures import MAX_ADDRESSES, MAX_ROWS_PER_HOUR, MAX_ROWS_PER_MINUTE
from llm_proxy.identity.virtual_keys import generate_key

Pool = asyncpg.Pool


class Clock:
    """A clock the test sets."""

    def __init__(self) -> None:
        self.now_s = datetime.now(UTC).timestamp() // 3600 * 3600

    def __call__(self) -> float:
        return self.now_s


async def test_every_failure_is_counted_in_few_rows(pool: "Pool[asyncpg.Record]") -> None:
    """However many there are; of a key only the public part is stored."""
    clock, key = Clock(), generate_key()
    refused = AuthFailureLog(pool, clock_s=clock)
    for number in range(5_000):
        refused.record(client_ip="192.0.2.7", path=f"/v1/{number}", credential=b"sk-someone-elses")
        if number % 50 == 0:
            clock.now_s += 30
    refused.record(client_ip="198.51.100.1", path="/v1/models", credential=key.text.encode())
    await refused.stop()
    rows = await refused.list_counts(limit=1_000)
    assert sum(row["times"] for row in rows) == 5_001
    of_one = [row for row in rows if row["client_ip"] == "192.0.2.7"]
    assert len(of_one) <= MAX_ROWS_PER_HOUR + 1
    minutes = [row["at"] for row in of_one if row["path"]]
    assert max(minutes.count(one) for one in minutes) <= MAX_ROWS_PER_MINUTE
    assert "someone" not in json.dumps(rows, default=str)
    assert key.text not in json.dumps(rows, default=str)
    [ours] = [row for row in rows if row["client_ip"] == "198.51.100.1"]
    assert key.text.startswith(ours["prefix"].rstrip(".…"))


async def test_many_addresses_share_a_row(pool: "Pool[asyncpg.Record]") -> None:
    """A botnet does not fill the table; its attempts are counted together."""
    refused = AuthFailureLog(pool, clock_s=Clock())
    for number in range(3 * MAX_ADDRESSES):
        refused.record(client_ip=f"2001:db8::{number:x}", path="/v1/models")
    await refused.stop()
    assert await pool.fetchval("SELECT count(*) FROM refused_credentials") == MAX_ADDRESSES + 1
    others = await pool.fetchval("SELECT times FROM refused_credentials WHERE client_ip = ''")
    assert others == 2 * MAX_ADDRESSES
    page = await refused.list_counts(
        limit=10
    )  # all of one minute: pages begin before a time, and would miss the rest
    assert len(page) == MAX_ADDRESSES + 1
    assert await refused.list_counts(before=page[-1]["at"]) == []


async def test_unacceptable_text_stops_nothing(pool: "Pool[asyncpg.Record]") -> None:
    """NUL, lone surrogates and endless text are cleaned and truncated; later failures are stored too."""
    refused = AuthFailureLog(pool)
    odd = ["/v1/models/\0", "/v1/\ud800", "/" + "x" * 100_000, "/v1/\\u0000", "/v1/\U0001f600"]
    for path in odd[:3]:
        refused.record(client_ip="192.0.2.1\0", path=path)
    for path in odd[3:]:
        refused.record(client_ip="192.0.2.2", path=path)
    await refused.flush()
    refused.record(client_ip="192.0.2.3", path="/v1/models")
    await refused.stop()
    rows = await refused.list_counts()
    assert sum(row["times"] for row in rows) == len(odd) + 1
    assert {row["path"] for row in rows} >= {"/v1/models/", "/v1/?", "/v1/\\u0000", "/v1/models"}
    assert {row["client_ip"] for row in rows} == {"192.0.2.1", "192.0.2.2", "192.0.2.3"}


async def test_counts_wait_for_the_database_and_are_written_once(
    pool: "Pool[asyncpg.Record]",
) -> None:
    """A missing permission loses no count and doubles none."""
    refused = AuthFailureLog(pool, clock_s=Clock())
    await pool.execute("ALTER TABLE refused_credentials RENAME TO elsewhere")
    for _ in range(3):
        refused.record(client_ip="192.0.2.1", path="/v1/models")
        await refused.flush()
    await pool.execute("ALTER TABLE elsewhere RENAME TO refused_credentials")
    await refused.flush()
    await refused.stop()
    assert [row["times"] for row in await refused.list_counts()] == [3]


async def test_expired_days_are_dropped(pool: "Pool[asyncpg.Record]") -> None:
    """By partition: no row is deleted."""
    clock = Clock()
    clock.now_s -= timedelta(days=40).total_seconds()
    old = AuthFailureLog(pool, retention_days=100, clock_s=clock)
    old.record(client_ip="192.0.2.1", path="/v1/models")
    await old.flush()
    assert len(await old.list_counts()) == 1
    new = AuthFailureLog(pool, retention_days=30)
    new.record(client_ip="192.0.2.2", path="/v1/models")
    await new.flush()
    assert [row["client_ip"] for row in await new.list_counts()] == ["192.0.2.2"]


async def test_an_expired_day_in_use_is_dropped_soon(
    pool: "Pool[asyncpg.Record]", caplog: pytest.LogCaptureFixture
) -> None:
    """Not an hour later; the log names it, and counts are written."""
    clock = Clock()
    clock.now_s -= timedelta(days=40).total_seconds()
    old = AuthFailureLog(pool, retention_days=100, clock_s=clock)
    old.record(client_ip="192.0.2.1", path="/v1/models")
    await old.flush()
    new = AuthFailureLog(pool, retention_days=30, clock_s=Clock())
    new.record(client_ip="192.0.2.2", path="/v1/models")
    [[day], *_] = await pool.fetch("SELECT min(tableoid::regclass::text) FROM refused_credentials")
    async with pool.acquire() as reader, reader.transaction():
        await reader.fetch(f"SELECT * FROM {day}")  # noqa: S608 -- a partition's name
        await new.flush()
    assert len(await new.list_counts()) == 2
    said = [one.message for one in caplog.records if "rejected credentials" in one.message]
    assert said == ["old days of rejected credentials are not deleted yet"]
    await new.flush()
    assert [row["client_ip"] for row in await new.list_counts()] == ["192.0.2.2"]


async def test_stop_waits_for_a_running_write(pool: "Pool[asyncpg.Record]") -> None:
    """A cancelled write may have been committed: its counts must not be written again."""
    await pool.execute("""
        CREATE SEQUENCE written;
        CREATE FUNCTION slowed() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM nextval(''written''), pg_advisory_xact_lock(7); RETURN NULL; END';
        CREATE TRIGGER slowed AFTER INSERT ON refused_credentials FOR EACH STATEMENT EXECUTE FUNCTION slowed()
    """)
    refused = AuthFailureLog(pool, clock_s=Clock(), every_s=0.01)
    refused.record(client_ip="192.0.2.1", path="/v1/models")
    async with pool.acquire() as other:
        async with other.transaction():
            await other.execute("SELECT pg_advisory_xact_lock(7)")
            await refused.start()
            async with asyncio.timeout(10):
                while not await pool.fetchval("SELECT is_called FROM written"):  # noqa: ASYNC110 -- nothing tells
                    await asyncio.sleep(0.01)
            ending = asyncio.create_task(refused.stop())
            await asyncio.sleep(0.3)
            assert not ending.done()
        await ending
    assert [row["times"] for row in await refused.list_counts()] == [1]
    assert await pool.fetchval("SELECT last_value FROM written") == 1  # a sequence counts undone writes too


async def test_retention_follows_the_database_s_clock(pool: "Pool[asyncpg.Record]") -> None:
    """A process whose clock is ahead drops nothing."""
    right = AuthFailureLog(pool)
    right.record(client_ip="192.0.2.1", path="/v1/models")
    await right.flush()
    clock = Clock()
    clock.now_s += timedelta(days=100).total_seconds()
    ahead = AuthFailureLog(pool, retention_days=30, clock_s=clock)
    ahead.record(client_ip="192.0.2.2", path="/v1/models")
    await ahead.flush()
    assert len(await right.list_counts()) == 2


async def test_the_writing_role_may_do_nothing_else(pool: "Pool[asyncpg.Record]") -> None:
    """It may call one function."""
    for forbidden in (
        "SELECT count(*) FROM refused_credentials",
        "INSERT INTO refused_credentials (at, times) VALUES (now(), 1)",
        "SELECT count(*) FROM audit_log",
        "SELECT retire_refused_credentials('2026-01-01')",
    ):
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL ROLE llm_proxy_audit")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(forbidden)
