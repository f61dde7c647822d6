"""Makes and drops indexes outside a transaction, beside the calls: writers of the table never wait.

Invariants: one process at a time, by the migrations' lock, which a second connection holds in a transaction;
that connection runs nothing meanwhile and keeps no snapshot, for which Postgres would wait. An index that an
interrupted run left invalid is dropped and made anew, unless a session still makes it.
Source: https://www.postgresql.org/docs/18/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import asyncpg

from llm_proxy.schema.steps import (
    IndexStatement,
    Migration,
    PgConnection,
    SchemaBusy,
    pending_migrations,
    record_step,
)
from llm_proxy.schema.waits import MIGRATION_LOCK, Look, describe_blocker, describe_holder

LOCK_TIMEOUT_MS = 1000
NO_DEADLINE_S = 30 * 86_400.0
BUSY = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
_REPORT_FIRST_S, _REPORT_EVERY_S = 2.0, 30.0

_NO_TIMEOUTS = (
    "SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN ('statement_timeout',"
    " 'idle_in_transaction_session_timeout', 'transaction_timeout')"
)
TAKE_LOCK = (
    f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; {_NO_TIMEOUTS};"
    f" SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"
)
"""In one simple query, after which the session keeps no snapshot; ends with the transaction."""
_BUILDER = """
    SELECT p.pid FROM pg_stat_progress_create_index AS p
    WHERE p.datname = current_database() AND p.index_relid = to_regclass($1)"""
_IS_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)"


async def apply_outside(
    lock: PgConnection,
    worker: PgConnection,
    look: Look,
    report: Callable[[str], None],
    steps: Sequence[Migration] | None = None,
) -> list[str]:
    """Applies the pending steps outside a transaction; returns their names.

    Args:
        lock: A connection that holds the lock meanwhile.
        worker: A connection that runs the statements.
        look: Finds the session that they wait for.
        report: Gets a line now and then while a statement waits.
        steps: Instead of this version's.

    Raises:
        SchemaBusy: Another process migrates, or a session still makes the index.
    """
    if not any(step.is_outside for step in await pending_migrations(worker, steps)):
        return []
    applied: list[str] = []
    async with lock.transaction(isolation="read_committed"):
        try:
            await lock.execute(TAKE_LOCK)
        except BUSY as busy:
            raise SchemaBusy(await describe_holder(worker.fetchrow)) from busy
        await _lift_timeouts(worker)
        for step in await pending_migrations(worker, steps):
            if step.is_outside:
                for statement in step.index_statements():
                    await _run(worker, statement, look, report)
                await record_step(worker, step)
                applied.append(step.name)
    return applied


async def _lift_timeouts(worker: PgConnection) -> None:
    """A role's own timeouts would end a long statement; behind a pooler the session is not ours to change."""
    change = getattr(worker, "set_in_session", worker.execute)
    await change("SET statement_timeout = 0; SET lock_timeout = 0")


async def _run(
    worker: PgConnection, statement: IndexStatement, look: Look, report: Callable[[str], None]
) -> None:
    is_valid = await worker.fetchval(_IS_VALID, statement.index)
    if statement.makes and is_valid is False:
        builder = await worker.fetchval(_BUILDER, statement.index)
        if builder is not None:
            raise SchemaBusy(f"pid {builder} still makes the index {statement.index}")
        await _execute(worker, _drop(statement.index), look, report)
    is_done = is_valid is True if statement.makes else is_valid is None
    if is_done:
        return
    try:
        await _execute(worker, statement.sql, look, report)
    except asyncpg.PostgresError:
        if statement.makes:  # a unique one would reject rows even now
            with contextlib.suppress(asyncpg.PostgresError):
                await worker.execute(_drop(statement.index), timeout=NO_DEADLINE_S)
        raise


def _drop(index: str) -> str:
    return f"DROP INDEX CONCURRENTLY IF EXISTS {index}"


async def _execute(worker: PgConnection, sql: str, look: Look, report: Callable[[str], None]) -> None:
    """Runs one statement without a deadline; reports meanwhile which session it waits for."""
    watch = asyncio.create_task(_watch(sql, look, report), name="index-watch")
    try:
        await worker.execute(sql, timeout=NO_DEADLINE_S)
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError, asyncpg.PostgresError, OSError):
            await watch


async def _watch(sql: str, look: Look, report: Callable[[str], None]) -> None:
    pause_s = _REPORT_FIRST_S
    while True:
        await asyncio.sleep(pause_s)
        blocker = await describe_blocker(look, sql)
        report(f"{' '.join(sql.split()[:5])}: " + (f"waits for {blocker}" if blocker else "at work"))
        pause_s = _REPORT_EVERY_S
