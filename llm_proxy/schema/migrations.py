"""Applies the numbered SQL files of this folder to a database.

Invariants: every file not yet applied is applied once, in the order of the numbers, in a transaction of its
own under an advisory lock, with no deadline. An applied file never changes (expand and contract: old code
runs on the new schema). A database that is already at this version is only read. Long work is left in
`schema_work` and done in batches beside the calls.
"""

import asyncio
import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Union

import asyncpg

from llm_proxy.schema.connections import connect

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

_LOCK = 0x6C6C6D70726F7879  # "llmproxy"
_SIDECAR_ROLE = "llm_proxy_sidecar"
_BUSY = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
_LOCK_TIMEOUT_MS = 1000
"""A statement that waits for a table's lock holds up the writing of every record."""
_NO_DEADLINE_S = 30 * 86_400.0
_RETRY_S = 1.0
_BATCH_ROWS = 5000

PgConnection = Union["asyncpg.Connection[asyncpg.Record]", "PoolConnectionProxy[asyncpg.Record]"]


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered SQL file."""

    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        """SHA-256 of the SQL text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class SchemaWork:
    """The progress of a job in `schema_work`.

    Attributes:
        rows_total: About.
    """

    name: str
    rows_done: int
    rows_total: int
    finished: bool

    def __str__(self) -> str:
        """Returns the progress as a sentence."""
        if self.finished:
            return f"{self.name}: finished, {self.rows_done:,} rows"
        return f"{self.name}: {self.rows_done:,} of about {self.rows_total:,} rows"


class SchemaBusy(Exception):  # noqa: N818 -- errors are named for the state they report
    """A lock was not granted in time."""


class SchemaChanged(Exception):  # noqa: N818 -- errors are named for the state they report
    """A file changed after it had been applied."""


def all_migrations() -> list[Migration]:
    """Returns every migration, in order."""
    found = [file for file in resources.files("llm_proxy.schema").iterdir() if file.name.endswith(".sql")]
    numbered = [Migration(int(file.name[:3]), file.name, file.read_text(encoding="utf-8")) for file in found]
    return sorted(numbered, key=lambda step: step.number)


async def pending_migrations(connection: PgConnection) -> list[Migration]:
    """Returns the migrations not applied yet; raises `SchemaChanged` if an applied file has changed."""
    if await connection.fetchval("SELECT to_regclass('schema_steps')") is None:
        return all_migrations()
    applied = {
        row["number"]: row["digest"]
        for row in await connection.fetch("SELECT number, digest FROM schema_steps")
    }
    for step in all_migrations():
        if applied.get(step.number, step.digest) != step.digest:
            raise SchemaChanged(f"{step.name} was changed after it had been applied")
    return [step for step in all_migrations() if step.number not in applied]


async def apply(connection: PgConnection) -> list[str]:
    """Applies all pending migrations, without a deadline; returns the names of the applied files.

    Raises:
        SchemaBusy: Another process applies a migration, or a table is in use; the caller may try again.
        SchemaChanged: A file changed after it had been applied.
    """
    applied: list[str] = []
    while await pending_migrations(connection):
        try:
            name = await _apply_next(connection)
        except _BUSY as busy:
            raise SchemaBusy("another process migrates, or a table is in use") from busy
        applied += [name] if name is not None else []
    return applied


async def _apply_next(connection: PgConnection) -> str | None:
    """Applies the first pending migration; returns None if another process has just applied the last."""
    async with connection.transaction():
        await connection.execute(
            f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}"
        )
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_steps (number integer PRIMARY KEY, name text NOT NULL,"
            " digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        todo = await pending_migrations(connection)
        if not todo:
            return None
        step = todo[0]
        await connection.execute(step.sql, timeout=_NO_DEADLINE_S)
        await connection.execute(
            "INSERT INTO schema_steps (number, name, digest) VALUES ($1, $2, $3)",
            step.number, step.name, step.digest,
        )  # fmt: skip
    return step.name


async def run_work_batch(connection: PgConnection) -> SchemaWork | None:
    """Runs one batch of the jobs in `schema_work`; returns None if no job is left for this process."""
    row = await connection.fetchrow("SELECT * FROM do_schema_work($1)", _BATCH_ROWS)
    return SchemaWork(row["job"], row["done"], row["total"], row["finished"]) if row is not None else None


async def unfinished_work(connection: PgConnection) -> SchemaWork | None:
    """Returns the progress of the first unfinished job of any process; None without one."""
    row = await connection.fetchrow(
        "SELECT name, rows_done, rows_total FROM schema_work WHERE finished_at IS NULL"
        " ORDER BY created_at, name LIMIT 1"
    )
    return (
        SchemaWork(row["name"], row["rows_done"], row["rows_total"], finished=False)
        if row is not None
        else None
    )


async def migrate(
    dsn: str,
    *,
    sidecar_password: str | None = None,
    tls: ssl.SSLContext | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Applies all migrations and jobs to a database, over a connection of its own, without a deadline.

    Args:
        dsn: The address, with a role that may create tables.
        sidecar_password: If given, the sidecar's role may log in with it.
        tls: The trusted certificates; None: as the address says.
        report: Gets a line for each step of progress.
    """
    connection = await connect(dsn, tls)
    try:
        applied = await _apply_with_retry(connection, report)
        if sidecar_password is not None:
            await grant_sidecar_login(connection, sidecar_password)
        while await unfinished_work(connection):
            done = await run_work_batch(connection)
            if done is None:  # a gateway is at it
                await asyncio.sleep(_RETRY_S)
            elif done.finished or done.rows_done % (20 * _BATCH_ROWS) < _BATCH_ROWS:
                report(str(done))
    finally:
        await connection.close()
    return applied


async def _apply_with_retry(connection: PgConnection, report: Callable[[str], None]) -> list[str]:
    before = {step.name for step in await pending_migrations(connection)}
    waits = False
    while True:
        try:
            await apply(connection)
        except SchemaBusy as busy:
            if not waits:
                report(f"waiting: {busy}")
            waits = True
            await asyncio.sleep(_RETRY_S)
        else:
            return sorted(before)


async def grant_sidecar_login(connection: PgConnection, password: str) -> str:
    """Gives the sidecar's role this password and the right to log in; returns the role's name. Idempotent.

    The role may insert and update `llm_calls` and nothing else.
    """
    statement: str = await connection.fetchval(
        "SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', $1::text, $2::text)", _SIDECAR_ROLE, password
    )
    await connection.execute(statement)
    return _SIDECAR_ROLE
