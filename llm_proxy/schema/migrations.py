"""Applies the numbered SQL files of this folder to a database.

Invariants: every file not yet applied is applied once, in the order of the numbers, in a transaction of its
own under an advisory lock, with no deadline; those that run outside a transaction come after the others.
Old code runs on the new schema (expand and contract). A database that is already at this version is only
read. Long work is left in `schema_work` and done in batches beside the calls.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from llm_proxy.postgres_urls import SIDECAR_ROLE
from llm_proxy.schema.connections import connect
from llm_proxy.schema.indexes import BUSY, NO_DEADLINE_S, TAKE_LOCK, apply_outside
from llm_proxy.schema.steps import (
    Migration,
    PgConnection,
    SchemaBusy,
    pending_migrations,
    raise_floor,
    record_step,
)
from llm_proxy.schema.waits import describe_holder

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 15.0
"""Between two tries to get a table's lock: each holds up the writing of records for a second at most."""
_WORK_PAUSE_S = 1.0
_BATCH_ROWS = 5000


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


async def apply(connection: PgConnection, steps: Sequence[Migration] | None = None) -> list[str]:
    """Applies the pending migrations that run in a transaction, without a deadline; returns their names.

    Args:
        connection: Not in a transaction.
        steps: Instead of this version's.

    Raises:
        SchemaBusy: Another process applies a migration, or a table is in use; the caller may try again.
        SchemaChanged: A file changed after it had been applied.
        GatewayTooOld: The database belongs to newer releases.
    """
    applied: list[str] = []
    while any(not step.is_outside for step in await pending_migrations(connection, steps)):
        try:
            name = await _apply_next(connection, steps)
        except BUSY as busy:
            raise SchemaBusy(await describe_holder(connection.fetchrow)) from busy
        applied += [name] if name is not None else []
    return applied


async def _apply_next(connection: PgConnection, steps: Sequence[Migration] | None) -> str | None:
    """Applies the first pending migration; returns None if another process has just applied the last."""
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(TAKE_LOCK)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_steps (number integer PRIMARY KEY, name text NOT NULL,"
            " digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        todo = [step for step in await pending_migrations(connection, steps) if not step.is_outside]
        if not todo:
            return None
        step = todo[0]
        await connection.execute(step.sql, timeout=NO_DEADLINE_S)
        await record_step(connection, step)
        if len(todo) == 1:
            await raise_floor(connection)
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
    """Applies all migrations and jobs to a database, over connections of its own, without a deadline.

    Returns the names of the steps that the database lacked.

    Args:
        dsn: The address, with a role that may create tables.
        sidecar_password: If given, the sidecar's role may log in with it.
        tls: The trusted certificates; None: as the address says.
        report: Gets a line for each step of progress.
    """
    connection = await connect(dsn, tls)
    try:
        lacking = await pending_migrations(connection)
        await _until_free(lambda: apply(connection), report)
        if sidecar_password is not None:
            await grant_sidecar_login(connection, sidecar_password)
        while await unfinished_work(connection):
            done = await run_work_batch(connection)
            if done is None:  # a gateway does it
                await asyncio.sleep(_WORK_PAUSE_S)
            elif done.finished or done.rows_done % (20 * _BATCH_ROWS) < _BATCH_ROWS:
                report(str(done))
        if any(step.is_outside for step in lacking):
            await _migrate_outside(connection, dsn, tls, report)
    finally:
        await connection.close()
    return [step.name for step in lacking]


async def _migrate_outside(
    watcher: PgConnection, dsn: str, tls: ssl.SSLContext | None, report: Callable[[str], None]
) -> None:
    lock = await connect(dsn, tls)
    try:
        worker = await connect(dsn, tls, "auto")
        try:
            await _until_free(lambda: apply_outside(lock, worker, watcher.fetchrow, report), report)
        finally:
            await worker.close()
    finally:
        await lock.close()


async def _until_free(work: Callable[[], Awaitable[object]], report: Callable[[str], None]) -> None:
    """Repeats the work until nothing is in its way; reports which session it waits for."""
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            await work()
        except SchemaBusy as busy:
            report(f"waiting: {busy}")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        else:
            return


async def grant_sidecar_login(connection: PgConnection, password: str) -> str:
    """Gives the sidecar's role this password and the right to log in; returns the role's name. Idempotent.

    The role may insert and update `llm_calls` and nothing else.
    """
    statement: str = await connection.fetchval(
        "SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', $1::text, $2::text)", SIDECAR_ROLE, password
    )
    await connection.execute(statement)
    return SIDECAR_ROLE
