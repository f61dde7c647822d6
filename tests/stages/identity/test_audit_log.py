"""Audit entries of changes outside the database, on a real Postgres."""

import logging
from collections.abc import AsyncIterator

import asyncpg
import pytest

from llm_proxy.errors import StoreUnavailable
from llm_proxy.identity import Actor, audited_external_change

ME = Actor("test", "192.0.2.1")
Pool = asyncpg.Pool


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator["Pool[asyncpg.Record]"]:
    """A pool of one connection on a database with the schema in it."""
    async with asyncpg.create_pool(database_url, min_size=0, max_size=1) as made:
        yield made


async def rows(pool: "Pool[asyncpg.Record]") -> list[tuple[str, str]]:
    """Action and detail of every row, oldest first."""
    return [
        tuple(row) for row in await pool.fetch("SELECT action, detail::text FROM audit_entries ORDER BY seq")
    ]


async def test_an_external_change_is_audited_before_it_runs(pool: "Pool[asyncpg.Record]") -> None:
    """Others see that it has begun; no connection is held during it: the pool has only one."""
    async with audited_external_change(pool, ME, "cache.purge", "tenant=*") as detail:
        assert await rows(pool) == [("cache.purge begun", "{}")]
        detail["purged"] = 3
    assert await rows(pool) == [("cache.purge begun", "{}"), ("cache.purge", '{"purged": 3}')]


async def test_a_failed_change_is_audited_and_keeps_its_error(pool: "Pool[asyncpg.Record]") -> None:
    """A ValueError in it is not the client's fault."""
    with pytest.raises(ValueError, match="ours"):
        async with audited_external_change(pool, ME, "cache.purge", "tenant=*"):
            raise ValueError("ours")
    assert await rows(pool) == [("cache.purge begun", "{}"), ("cache.purge", '{"failed": "ValueError"}')]


async def test_a_result_that_cannot_be_audited_is_returned(
    pool: "Pool[asyncpg.Record]", caplog: pytest.LogCaptureFixture
) -> None:
    """Postgres stops during the change: the first entry stays, the log has the result, no error hides it."""
    async with audited_external_change(pool, ME, "cache.purge", "tenant=*") as detail:
        await pool.execute("ALTER TABLE audit_entries RENAME TO elsewhere")
        detail["purged"] = 3
    assert await pool.fetchval("SELECT array_agg(action) FROM elsewhere") == ["cache.purge begun"]
    [reported] = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert getattr(reported, "purged", None) == 3


async def test_nothing_is_changed_that_cannot_be_audited(pool: "Pool[asyncpg.Record]") -> None:
    """The block does not run."""
    await pool.execute("ALTER TABLE audit_entries RENAME TO elsewhere")
    changed = False
    with pytest.raises(StoreUnavailable):
        async with audited_external_change(pool, ME, "cache.purge", "tenant=*"):
            changed = True
    assert not changed
