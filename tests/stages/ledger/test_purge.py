"""What is past its retention is shown, and deleted, table by table; the audit log says that it was."""

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import commands

from llm_proxy.ledger import LedgerStore
from llm_proxy.ledger.retention import DEFAULT_DAYS, RETENTION, days_kept
from llm_proxy.settings import load

Pool = asyncpg.Pool
TABLES = """
    SELECT relname::text FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"""
OLD = datetime.now(UTC) - timedelta(days=500)


async def test_every_table_of_the_schema_has_a_line(pool: "Pool[asyncpg.Record]") -> None:
    """A new table says here what ends its rows."""
    found = {row["relname"] for row in await pool.fetch(TABLES)}
    assert found - {one.name for one in RETENTION} == set()
    assert {one.name for one in RETENTION} - found == set()


async def fill(pool: "Pool[asyncpg.Record]") -> None:
    """Old rows and new ones in tables of each kind."""
    for day in (OLD.date(), date.today()):  # noqa: DTZ011 -- either day does
        await pool.execute("SELECT requests_partition($1), llm_calls_partition($1)", day)
    for at in (OLD, datetime.now(UTC)):
        await pool.execute(
            "INSERT INTO requests (request_id, started_at, key_id, key_prefix, model, model_group, door,"
            " dialect, streamed, status, outcome, usage_source, cache, latency_ms) VALUES"
            " (gen_random_uuid(), $1, 'k', 'k', 'm', 'm', 'chat.completions', 'openai', false, 200, 'ok',"
            " 'sidecar', 'off', 1)",
            at,
        )  # fmt: skip
        await pool.execute("INSERT INTO refusal_counts VALUES ($1, 'k', 't', 'c', '', '', 'w', 1)", at)
        await pool.execute("INSERT INTO audit_log (at, actor, action) VALUES ($1, 'a', 'b')", at)
        await pool.execute("INSERT INTO backups (kind, started_at, ok) VALUES ('x', $1, true)", at)
        await pool.execute("SELECT audit_partition($1)", at.date().replace(day=1))
        await pool.execute(
            "INSERT INTO api_keys (key_id, name, ancestors, expires_at) VALUES ($1, $1, '{k}', $2)",
            f"child {at:%Y}", at,
        )  # fmt: skip
        await pool.execute(
            "INSERT INTO usage_users (day, key_id, tenant, agent, model_group, user_id)"
            " VALUES ($1, 'k', '', '', 'm', 'ada') ON CONFLICT DO NOTHING", at.date(),
        )  # fmt: skip


SET: dict[str, Any] = {
    "LLM_PROXY__RETENTION_DAYS": '{"api_keys": 400, "usage_users": 400}',
    "LLM_PROXY__AUDIT_RETENTION_DAYS": "31",
}
DUE = {"requests", "refusal_counts", "audit_log", "backups", "api_keys", "usage_users", "usage_hourly"}


async def count(pool: "Pool[asyncpg.Record]") -> dict[str, int]:
    """The rows of each of these tables."""
    return {name: await pool.fetchval(f"SELECT count(*) FROM {name}") for name in DUE}  # noqa: S608 -- ours


async def test_a_dry_run_shows_what_a_purge_deletes(pool: "Pool[asyncpg.Record]", database_url: str) -> None:
    await fill(pool)
    said = json.loads(await commands.run(database_url, "purge", "--dry-run", "--json", **SET))
    due = {one["table"]: one for one in said["due"]}
    assert {name: one["rows"] for name, one in due.items()} == dict.fromkeys(DUE, 1)
    assert all(one["size_bytes"] > 0 for one in due.values())
    assert {one["oldest"][:10] for one in due.values()} == {f"{OLD:%Y-%m-%d}"}
    assert "refusal_counts" in await commands.run(database_url, "purge", "--dry-run", **SET)

    done = json.loads(await commands.run(database_url, "purge", "--yes", "--json", **SET))
    assert done["deleted"] == dict.fromkeys(DUE, 1)
    assert "nothing is past" in await commands.run(database_url, "purge", "--yes", **SET)
    assert await count(pool) == dict.fromkeys(DUE, 1)
    row = await pool.fetchrow("SELECT action, detail FROM audit_entries ORDER BY seq DESC LIMIT 1")
    assert row is not None
    assert row["action"] == "retention.purge"
    assert json.loads(row["detail"])["rows"] == dict.fromkeys(DUE, 1)


async def test_a_purge_of_one_table_leaves_the_others(
    pool: "Pool[asyncpg.Record]", database_url: str
) -> None:
    await fill(pool)
    await commands.run(database_url, "purge", "--yes", "--table", "backups", **SET)
    assert await pool.fetchval("SELECT count(*) FROM backups") == 1
    assert await pool.fetchval("SELECT count(*) FROM requests") == 2
    for wrong in ("erasures", "no_such"):
        said = await commands.run(database_url, "purge", "--dry-run", "--table", wrong, code=2)
        assert wrong in said


async def test_days_that_a_budget_for_ever_counts_are_kept(
    pool: "Pool[asyncpg.Record]", database_url: str
) -> None:
    await pool.execute("INSERT INTO usage_daily VALUES ($1, 'k', '', '', 'm', 'p')", OLD.date())
    given: dict[str, Any] = {"LLM_PROXY__RETENTION_DAYS": '{"usage_daily": 400}'}
    await pool.execute(
        "INSERT INTO api_keys (key_id, name, budgets) VALUES ('k', 'k', $1)",
        '[{"limit_nano_usd": 5, "period": "total"}]',
    )
    assert "nothing is past" in await commands.run(database_url, "purge", "--dry-run", **given)
    await pool.execute("UPDATE api_keys SET revoked_at = now()")
    assert "usage_daily" in await commands.run(database_url, "purge", "--dry-run", **given)


async def test_the_gateway_deletes_by_the_settings(pool: "Pool[asyncpg.Record]") -> None:
    await fill(pool)
    store = LedgerStore(
        pool, DEFAULT_DAYS | {"requests": 600, "llm_calls": 600, "usage_users": 400, "backups": 600}
    )
    assert await store.delete_expired() == 2
    await store.maintain_partitions()
    left = dict.fromkeys(DUE, 2) | {"refusal_counts": 1, "usage_users": 1, "usage_hourly": 1}
    assert await count(pool) == left


async def test_the_gateway_deletes_nothing_of_a_table_that_is_kept_for_ever(
    pool: "Pool[asyncpg.Record]",
) -> None:
    await fill(pool)
    await LedgerStore(pool, days_kept(load(retention_days={"backups": None}))).maintain_partitions()
    assert (await count(pool))["backups"] == 2
