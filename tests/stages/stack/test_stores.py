"""The embedded Postgres and Valkeys: what each keeps and what it may evict."""

import os
import signal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis.asyncio

from llm_proxy.stack import NotInstalled, ProcessFailed, start, stop, wait_until_ready
from llm_proxy.stack.probe import free_port
from llm_proxy.stack.process import wheel_file, wheel_folder
from llm_proxy.stack.stores import postgres_spec, postgres_url, valkey_spec, valkey_url


async def test_postgres_answers_over_tcp_with_a_password(database_url: str) -> None:
    """A client needs the fixture's address only."""
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SELECT 6 * 7") == 42
    finally:
        await connection.close()


async def test_the_limits_store_never_evicts(limits_redis_url: str) -> None:
    """A limit with an evicted counter would not be enforced."""
    assert await eviction_policy(limits_redis_url) == "noeviction"


async def test_the_cache_evicts_the_least_recently_used(cache_redis_url: str) -> None:
    """A full cache evicts instead of rejecting."""
    assert await eviction_policy(cache_redis_url) == "allkeys-lru"


async def eviction_policy(url: str) -> str:
    client: Any = redis.asyncio.from_url(url)
    async with client:
        return str((await client.info("memory"))["maxmemory_policy"])


async def test_postgres_keeps_committed_rows_through_kill_9(roomy_path: Path) -> None:
    """With the same password."""
    port, password = free_port(), "a-password-with-'quotes'"
    spec = postgres_spec(roomy_path, port, password)
    url = postgres_url(port, "a-password-with-%27quotes%27")
    running = start(spec, roomy_path)
    wait_until_ready([running])
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    await connection.close()
    os.kill(running.popen.pid, signal.SIGKILL)
    running.popen.wait()

    again = start(postgres_spec(roomy_path, port, password), roomy_path)
    try:
        wait_until_ready([again])
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT number FROM kept") == 7
        await connection.close()
    finally:
        assert stop([again]) == []


async def test_postgres_takes_over_a_changed_password(roomy_path: Path) -> None:
    """A lost `.env` does not lock the owner out of the data."""
    port = free_port()
    postgres_spec(roomy_path, port, "the first one")
    running = start(postgres_spec(roomy_path, port, "another"), roomy_path)
    try:
        wait_until_ready([running])
        connection = await asyncpg.connect(postgres_url(port, "another"))
        await connection.close()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(postgres_url(port, "the%20first%20one"))
    finally:
        stop([running])


async def test_counters_survive_a_restart_of_the_limits_store(tmp_path: Path) -> None:
    """A restart does not reset a limit."""
    port = free_port()
    for expected in (1, 2):
        running = start(valkey_spec("limits", tmp_path, port, "word"), tmp_path)
        try:
            wait_until_ready([running])
            async with redis.asyncio.from_url(valkey_url(port, "word")) as client:
                assert await client.incr("counter") == expected
        finally:
            assert stop([running]) == []


def test_a_port_in_use_fails_with_the_end_of_the_log(tmp_path: Path) -> None:
    """Which holds the server's own message."""
    port = free_port()
    first = start(valkey_spec("cache", tmp_path / "first", port, "word"), tmp_path / "first")
    wait_until_ready([first])
    second = start(valkey_spec("cache", tmp_path / "second", port, "other"), tmp_path / "second")
    try:
        with pytest.raises(ProcessFailed, match=r"valkey-cache ended with code 1(?s:.*)in use"):
            wait_until_ready([second])
    finally:
        stop([first, second])


def test_a_missing_wheel_names_the_command_that_installs_it() -> None:
    """And the package."""
    with pytest.raises(NotInstalled, match=r"no_such_wheel.*make setup"):
        wheel_folder("no_such_wheel")
    with pytest.raises(NotInstalled, match=r"llm_proxy.*\.none.*make setup"):
        wheel_file("llm_proxy", "*.none")
