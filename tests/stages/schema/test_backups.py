"""The list of backups: only a whole one counts, whichever tool has made it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

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


async def test_a_backup_is_a_whole_file_of_its_owner_and_shows_no_password(
    pool: "Pool[asyncpg.Record]", database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "llm-proxy.dump"
    said = json.loads(await commands.run(database_url, "backup", "--to", str(file), "--json"))
    (made,) = await Backups(pool).latest(5)
    assert (made.ok, made.kind, made.size_bytes) == (True, "pg_dump", said["bytes"])
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_bytes().startswith(b"PGDMP")


async def test_programs_older_than_the_server_are_not_run_and_the_attempt_is_on_record(
    pool: "Pool[asyncpg.Record]", database_url: str, tmp_path: Path
) -> None:
    for name in ("pg_dump", "pg_restore"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 12.1'\n")
        (tmp_path / name).chmod(0o700)
    file = tmp_path / "dump"
    said = await commands.run(database_url, "backup", "--to", str(file), "--tools", str(tmp_path), code=2)
    assert "has version 12" in said
    assert [(one.ok, one.finished_at is None) for one in await Backups(pool).latest(5)] == [(False, False)]
    assert not file.exists()


async def test_a_program_gets_the_address_in_a_file_and_no_password_in_words(
    pool: "Pool[asyncpg.Record]", database_url: str, tmp_path: Path
) -> None:
    """A program in pg_dump's place notes what every process can see of it."""
    seen = tmp_path / "seen"
    (tmp_path / "pg_restore").touch(mode=0o700)
    (tmp_path / "pg_dump").write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo "pg_dump (PostgreSQL) 99.0"; exit; fi\n'
        f'echo "$@" > {seen}; env >> {seen}; stat -c %a "$PGSERVICEFILE" >> {seen}; exit 1\n'
    )
    (tmp_path / "pg_dump").chmod(0o700)
    await commands.run(database_url, "backup", "--to", str(tmp_path / "d"), "--tools", str(tmp_path), code=1)
    told = seen.read_text()
    password = database_url.partition("://")[2].partition("@")[0].partition(":")[2]
    assert password not in told
    assert "service=llm-proxy" in told
    assert told.rstrip().endswith("600")
    assert await Backups(pool).last_backup_at() is None
