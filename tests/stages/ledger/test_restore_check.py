"""What an export gives a restored database: limits and what was spent; no person's name, no secret."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import asyncpg
import pytest
from database_copies import copy_database
from usage_records import record, write_records

from llm_proxy.identity import Actor, KeyRepository, KeySpec, LimitPolicy, Limits, PolicyRepository
from llm_proxy.identity.caller import Budget
from llm_proxy.identity.revocation_export import RevocationExport, open_export, read_export, seal_export
from llm_proxy.ledger import UsageRecord
from llm_proxy.ledger.budget_spend import sum_spent
from llm_proxy.ledger.restore_check import acknowledge, compare
from llm_proxy.schema.database_marker import Marker, lock_database, make_marker, read_marker
from llm_proxy.sealing import SealingKey

Pool = asyncpg.Pool
ME, KEY = Actor("test"), SealingKey("k", "s" * 32)
ADA, USD = "ada@example.org", 10**9
MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


@pytest.fixture
async def restored(copy_url: str) -> "AsyncIterator[Pool[asyncpg.Record]]":
    """A pool on a copy of the database, once it is made."""
    async with asyncpg.create_pool(copy_url, min_size=0, max_size=2) as made:
        yield made


def call(key_id: str, usd: int) -> UsageRecord:
    """A call of today that has cost so much."""
    return record(key_id=key_id, user=ADA, cost_nano_usd=usd * USD)


async def export_of(pool: "Pool[asyncpg.Record]") -> tuple[str, RevocationExport]:
    """An export, as a file and read."""
    async with pool.acquire() as connection:
        text = await read_export(connection)
    return text, open_export(seal_export(text, (KEY,)), (KEY,))


async def locked(pool: "Pool[asyncpg.Record]") -> Marker:
    """The marker of a database that was restored."""
    async with pool.acquire() as connection:
        await lock_database(connection, "it was restored from a backup")
        marker = await read_marker(connection)
    assert marker is not None
    return marker


async def test_budgets_count_what_was_spent_after_the_backup_once(
    pool: "Pool[asyncpg.Record]", restored: "Pool[asyncpg.Record]", database_url: str, copy_url: str
) -> None:
    async with pool.acquire() as connection:
        await make_marker(connection)
    key = (await KeyRepository(pool).create(KeySpec("k", tenant="acme"), ME)).record.key_id
    await write_records(pool, [call(key, 1)])
    await pool.expire_connections()
    await copy_database(database_url, copy_url)
    await pool.execute(
        "INSERT INTO api_keys (key_id, name, tenant, ancestors) VALUES ('child', 'child', 'acme', $1)", [key]
    )
    await write_records(pool, [call(key, 2), call("child", 3)])
    waiting = call(key, 4)  # in the spool of a gateway, before and after
    _, export = await export_of(pool)

    report = await compare(restored, await locked(restored), export)
    found = {one.area: one for one in report.findings if one.area == "usage"}
    assert [name.rstrip("0").rstrip(".") for name in found["usage"].names] == ["acme 5"]
    assert await sum_spent(restored, {"key_id": key}, MIDNIGHT) == 1 * USD
    await acknowledge(restored, ME, report, export, [])
    assert await sum_spent(restored, {"key_id": key}, MIDNIGHT) == 6 * USD
    assert await sum_spent(restored, {"tenant": "acme"}, MIDNIGHT) == 6 * USD
    await write_records(restored, [waiting])
    await write_records(restored, [waiting])
    assert await sum_spent(restored, {"key_id": key}, MIDNIGHT) == 10 * USD
    again = await compare(restored, await locked(restored), export)
    assert (again.export_is_older, again.findings) == (True, [])


async def test_an_export_has_no_persons_name_and_no_secret(pool: "Pool[asyncpg.Record]") -> None:
    async with pool.acquire() as connection:
        await make_marker(connection)
    made = await KeyRepository(pool).create(KeySpec("k", tenant="acme", user=ADA), ME)
    policies = PolicyRepository(pool)
    await policies.upsert(LimitPolicy("user_model", "acme", ADA, "m", Limits(rpm=5)), ME)
    await write_records(pool, [call(made.record.key_id, 1)])
    text, _ = await export_of(pool)
    assert made.generated is not None
    assert ADA not in text
    assert made.generated.text not in text
    assert made.generated.text.rpartition("-")[2] not in text


async def test_limits_are_changed_again_a_persons_too_and_an_older_export_changes_nothing(
    pool: "Pool[asyncpg.Record]", restored: "Pool[asyncpg.Record]", database_url: str, copy_url: str
) -> None:
    async with pool.acquire() as connection:
        await make_marker(connection)
    policies, wide, narrow = PolicyRepository(pool), Limits(rpm=500), Limits(rpm=5)
    of_ada = LimitPolicy("user_model", "acme", ADA, "m", wide)
    await policies.upsert(of_ada, ME)
    await policies.upsert(LimitPolicy("tenant", "acme", limits=wide), ME)
    _, older = await export_of(pool)
    await pool.execute("UPDATE database_marker SET beat_ms = beat_ms + 1")
    await pool.expire_connections()
    await copy_database(database_url, copy_url)
    await policies.upsert(replace(of_ada, limits=narrow), ME)
    await policies.upsert(LimitPolicy("tenant", "acme", limits=narrow), ME)
    budget = (Budget(5, "day"),)
    await policies.upsert(LimitPolicy("agent", "acme", "robot", budgets=budget), ME)
    _, export = await export_of(pool)

    report = await compare(restored, await locked(restored), older)
    assert report.export_is_older
    assert report.findings == []
    report = await compare(restored, await locked(restored), export)
    assert {one.what.partition(";")[0]: one.count for one in report.findings} == {
        "changed since": 2,
        "made since": 1,
    }
    await acknowledge(restored, ME, report, export, [])
    rows = await restored.fetch("SELECT scope, subject, rpm, budgets FROM limit_rules ORDER BY scope")
    assert [(row["scope"], row["subject"], row["rpm"]) for row in rows] == [
        ("agent", "robot", None), ("tenant", "*", 5), ("user_model", ADA, 5),
    ]  # fmt: skip
    assert json.loads(rows[0]["budgets"])[0]["period"] == "day"
