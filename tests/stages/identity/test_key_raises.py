"""Raises of a key's limits and budgets: effective at once, ended in time, audited."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import commands
import pytest

from llm_proxy import background
from llm_proxy.errors import BadRequest, NotFound
from llm_proxy.identity import (
    Actor,
    AuditFilter,
    AuditLog,
    Budget,
    KeyCache,
    KeyMutation,
    KeyRaiseRepository,
    KeyRepository,
    KeySpec,
    Limits,
    PostgresKeyStore,
    raise_expiry_loop,
)
from llm_proxy.identity.virtual_keys import KeyRaise

ME = Actor("ann", "192.0.2.1", "owner")
BERLIN = Budget(5, "day", "Europe/Berlin")
OWN = KeySpec(
    name="n", tenant="t", limits=Limits(rpm=3, parallel=2), budgets=(BERLIN, Budget(9, "month")), agent="a"
)


@pytest.fixture
async def made(pool: "asyncpg.Pool[asyncpg.Record]") -> KeyMutation:
    """A key with limits and budgets of its own."""
    return await KeyRepository(pool).create(OWN, ME)


def wanted(
    *, for_s: float = 86_400, limits: Limits | None = None, budgets: tuple[Budget, ...] = ()
) -> KeyRaise:
    """A raise that ends so many seconds from now."""
    return KeyRaise(limits or Limits(), budgets, datetime.now(UTC) + timedelta(seconds=for_s))


def secret(mutation: KeyMutation) -> bytes:
    """The key's text."""
    assert mutation.generated is not None
    return mutation.generated.text.encode()


async def test_a_raise_changes_only_the_limits_it_names(
    pool: "asyncpg.Pool[asyncpg.Record]", made: KeyMutation
) -> None:
    """A raised budget keeps its calendar; the key's own specification stays."""
    keys = KeyCache(PostgresKeyStore(pool))
    before = await keys.find_caller(secret(made))
    raised = await KeyRaiseRepository(pool).begin(
        "n", wanted(limits=Limits(rpm=30), budgets=(Budget(20, "day"),)), ME
    )
    found = await keys.refresh(before, raised.epochs["t"])
    assert found.limits == Limits(rpm=30, parallel=2)
    assert found.budgets == (Budget(20, "day", "Europe/Berlin"), Budget(9, "month"))
    assert raised.record.spec == OWN
    changed = await KeyRepository(pool).update("n", OWN, ME)
    assert changed.record.running_raise == raised.record.running_raise
    ended = await KeyRaiseRepository(pool).end("n", ME)
    assert (await keys.refresh(found, ended.epochs["t"])).limits == OWN.limits


async def test_a_raise_ends_in_a_replica_that_has_cached_the_key(
    pool: "asyncpg.Pool[asyncpg.Record]", made: KeyMutation
) -> None:
    """Also if its end is never audited, as while Postgres is unavailable."""
    now = datetime.now(UTC)
    keys = KeyCache(PostgresKeyStore(pool), now=lambda: now)
    await KeyRaiseRepository(pool).begin("n", wanted(for_s=60, limits=Limits(rpm=30)), ME)
    assert (await keys.find_caller(secret(made))).limits.rpm == 30
    now += timedelta(seconds=59)
    assert (await keys.find_caller(secret(made))).limits.rpm == 30
    now += timedelta(seconds=2)
    assert (await keys.find_caller(secret(made))).limits.rpm == 3


async def test_the_end_is_audited_once_and_published(
    pool: "asyncpg.Pool[asyncpg.Record]", made: KeyMutation
) -> None:
    """Three replicas watch, which know of no raise until they see its epoch."""
    epoch = 0
    announced: list[list[str]] = []
    heard = asyncio.Event()

    async def announce(epochs: Mapping[str, int]) -> None:
        announced.append(list(epochs))
        heard.set()

    loops = [raise_expiry_loop(pool, announce, lambda: epoch) for _ in range(3)]
    for loop in loops:
        loop.start()
    await asyncio.sleep(0.2)
    await KeyRaiseRepository(pool).begin("n", wanted(for_s=1, limits=Limits(rpm=0)), ME)
    epoch += 1
    async with asyncio.timeout(20):
        await heard.wait()
    for loop in loops:
        await loop.stop()
    assert announced == [["t"]]
    page = await AuditLog(pool).list_entries(AuditFilter(action="keys.raise*"))
    reported = [(one["action"], one["actor"], one["before"]["raise"], one["after"]["raise"]) for one in page]
    begun = next(raised for *_, raised in reported if raised is not None)
    assert begun["rpm"] == 0
    assert sorted(reported, key=str) == sorted(
        [("keys.raise", "ann", None, begun), ("keys.raise_ended", "raise", begun, None)], key=str
    )
    assert (await KeyRepository(pool).get("n")).running_raise is None
    assert await pool.fetchval("SELECT count(*) FROM key_raises WHERE ended_at IS NOT NULL") == 1
    assert made.record.running_raise is None


async def test_a_database_that_is_away_is_no_failure_of_the_loop() -> None:
    """Its own health says so: the alert on loops is for faults of ours."""
    failed = background.failure_counts().get("raises", 0)
    announced: list[list[str]] = []

    async def announce(epochs: Mapping[str, int]) -> None:
        announced.append(list(epochs))

    asked = asyncio.Event()

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        asked.set()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        url = f"postgresql://u@127.0.0.1:{server.sockets[0].getsockname()[1]}/d?sslmode=disable"
        async with asyncpg.create_pool(url, min_size=0, max_size=1) as away:
            loop = raise_expiry_loop(away, announce, lambda: 0)
            loop.start()
            await asked.wait()
            await asyncio.sleep(0.1)
            await loop.stop()
    assert announced == []
    assert "raises" not in background.failing_loops()
    assert background.failure_counts().get("raises", 0) == failed


async def test_a_second_raise_replaces_the_first(
    pool: "asyncpg.Pool[asyncpg.Record]", made: KeyMutation
) -> None:
    """One runs at a time."""
    raises = KeyRaiseRepository(pool)
    await raises.begin(made.record.key_id, wanted(limits=Limits(rpm=30)), ME)
    second = await raises.begin(made.record.prefixes[0], wanted(limits=Limits(parallel=9)), ME)
    assert second.record.running_raise is not None
    assert second.record.running_raise.limits == Limits(parallel=9)
    assert await pool.fetchval("SELECT count(*) FROM key_raises WHERE ended_at IS NULL") == 1


@pytest.mark.parametrize(
    ("raised", "param"),
    [
        (wanted(limits=Limits(rpm=3)), "rpm"),
        (wanted(limits=Limits(rpm=2)), "rpm"),
        (wanted(limits=Limits(tpm=5)), "tpm"),
        (wanted(budgets=(Budget(5, "day"),)), "budgets"),
        (wanted(budgets=(Budget(50, "total"),)), "budgets"),
        (wanted(budgets=(Budget(50, "day", "Asia/Kolkata"),)), "zone"),
        (wanted(budgets=(Budget(50, "day", unit="requests"),)), "budgets"),
        (wanted(limits=Limits(rpm=9), for_s=-1), "until"),
        (wanted(limits=Limits(rpm=9), for_s=400 * 86_400), "until"),
        (wanted(), "rpm"),
    ],
)
async def test_a_raise_that_raises_nothing_is_rejected_by_field(
    pool: "asyncpg.Pool[asyncpg.Record]", made: KeyMutation, raised: KeyRaise, param: str
) -> None:
    """And nothing is changed."""
    with pytest.raises(BadRequest) as refused:
        await KeyRaiseRepository(pool).begin("n", raised, ME)
    assert refused.value.param == param
    assert await pool.fetchval("SELECT count(*) FROM key_raises") == 0
    assert made.record.spec == OWN


async def test_unknown_revoked_and_other_tenants_keys_are_not_raised(
    pool: "asyncpg.Pool[asyncpg.Record]", made: KeyMutation
) -> None:
    """An admin of one tenant cannot tell them apart."""
    raises, more = KeyRaiseRepository(pool), wanted(limits=Limits(rpm=9))
    with pytest.raises(NotFound):
        await raises.begin("nobody", more, ME)
    with pytest.raises(NotFound):
        await raises.begin("n", more, Actor("bob", "192.0.2.2", "tenant", "other"))
    with pytest.raises(NotFound):
        await raises.end("n", ME)
    await KeyRepository(pool).revoke(made.record.key_id, ME)
    with pytest.raises(BadRequest):
        await raises.begin("n", more, ME)


async def test_a_raise_by_the_command_line(
    pool: "asyncpg.Pool[asyncpg.Record]", database_url: str, made: KeyMutation
) -> None:
    """Begun, shown and ended; an invalid one is rejected by its option."""
    words = ("keys", "raise", "n", "--rpm", "30", "--days", "1", "--json")
    reported: dict[str, Any] = json.loads(await commands.run(database_url, *words, code=0))
    assert (reported["rpm"], reported["raise"]["rpm"]) == (3, 30)
    assert "raised limits  30 rpm" in await commands.run(database_url, "keys", "show", "n", code=0)
    await commands.run(database_url, "keys", "raise", "n", "--rpm", "30", code=2)
    await commands.run(database_url, "keys", "raise", "n", "--rpm", "1", "--days", "1", code=2)
    await commands.run(database_url, "keys", "raise", "n", "--end", "--rpm", "30", code=2)
    both = ("--until", "2030-01-01", "--days", "1")
    await commands.run(database_url, "keys", "raise", "n", "--rpm", "40", *both, code=2)
    await commands.run(database_url, "keys", "raise", "n", "--end", code=0)
    await commands.run(database_url, "keys", "raise", "n", "--end", code=1)
    assert (await KeyRepository(pool).get(made.record.key_id)).running_raise is None
