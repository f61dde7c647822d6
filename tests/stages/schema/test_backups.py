"""The list of backups: only a whole one counts, whichever tool has made it."""

import json
from datetime import UTC, datetime, timedelta

import asyncpg
import commands

from llm_proxy.schema.backups import Backups

Pool = asyncpg.Pool


async def test_only_a_successful_backup_is_the_last_one(pool: "Pool[asyncpg.Record]") -> None:
    backups = Backups(pool)
    assert await backups.last_backup_at() is None
    running = await backups.begin("pg_dump")
    failed = await backups.begin("pg_dump")
    await backups.finish(failed, None, ok=False, note="the disk is full")
    assert await backups.last_backup_at() is None

    await backups.finish(running, 4096, ok=True)
    made, unfinished = await backups.last_backup_at(), await backups.begin("pg_dump")

    assert made is not None
    assert datetime.now(UTC) - made < timedelta(minutes=5)
    assert unfinished > failed
    assert await backups.last_backup_at() == made
    assert [(one.ok, one.size_bytes, one.note) for one in await backups.latest(10)] == [
        (False, None, None), (False, None, "the disk is full"), (True, 4096, None),
    ]  # fmt: skip


async def test_a_backup_of_another_tool_is_recorded_by_a_command(
    pool: "Pool[asyncpg.Record]", database_url: str
) -> None:
    at = "2026-11-20T02:00:00+00:00"
    said = await commands.run(
        database_url, "backup", "record", "--tool", "pgbackrest", "--at", at, "--bytes", "123", "--json"
    )
    await commands.run(database_url, "backup", "record", "--tool", "snapshot", "--failed", "--note", "quota")

    assert json.loads(said)["finished_at"] == at
    assert await Backups(pool).last_backup_at() == datetime.fromisoformat(at)
    shown = await commands.run(database_url, "backup", "list")
    assert "pgbackrest" in shown
    assert "quota" in shown


async def test_wrong_facts_of_a_backup_are_rejected(pool: "Pool[asyncpg.Record]", database_url: str) -> None:
    for wrong in (("--bytes", "-1"), ("--at", "yesterday"), ("--at", "2126-01-01T00:00:00Z"), ("--tool", "")):
        said = await commands.run(database_url, "backup", "record", *wrong, code=2)
        assert said.startswith("llm-proxy: ")
    assert await Backups(pool).latest(1) == []
