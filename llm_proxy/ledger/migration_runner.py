"""Migrates the database from a gateway's process, beside the calls.

Invariants: one process migrates at a time (the schema's lock); a migration has no deadline; one that failed
or found a table in use is tried again after a growing pause, so that writers of records seldom wait for it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence

import asyncpg

from llm_proxy import schema
from llm_proxy.schema.database import DatabaseUnavailable, FailureKind, RowsRejected, db_deadline

log = logging.getLogger(__name__)

_MIGRATION_DEADLINE_S = 2.0
_BATCH_DEADLINE_S = 120.0
_FIRST_PAUSE_S: dict[FailureKind, float] = {"refused": 5.0, "migrating": 1.0}
_LONGEST_PAUSE_S: dict[FailureKind, float] = {"refused": 300.0, "migrating": 30.0}
_REPORT_EVERY_S = 10.0
_CONNECTIONS_FOR_INDEXES = 4
"""Two of the pool are held while an index is made; a smaller pool leaves it to `llm-proxy migrate`."""


class MigrationRunner:
    """Migrates the database from this process, beside the calls.

    Attributes:
        done: Whether the schema is known to be of this version, but for steps outside a transaction.
        work: The unfinished background work of migrations, in whatever process; None if none is known.
    """

    def __init__(self, pool: asyncpg.Pool, steps: Sequence[schema.Migration] | None = None) -> None:
        """`steps` are applied instead of this version's."""
        self._pool = pool
        self._steps = steps
        self._applying: asyncio.Task[None] | None = None
        self._pauses_s, self._not_before = dict(_FIRST_PAUSE_S), 0.0
        self._failure: DatabaseUnavailable | None = None
        self._reported_at = float("-inf")
        self.done = False
        self.work: schema.SchemaWork | None = None

    async def advance(self, within_s: float) -> None:
        """Checks the schema's version, and starts or awaits a migration.

        Args:
            within_s: The time to wait for a running migration.

        Raises:
            DatabaseUnavailable: The schema is not of this version yet; `kind` is the reason.
            GatewayTooOld: The database belongs to newer releases.
        """
        if self.done or all(step.is_outside for step in await self._pending()):
            self.done = True
            await self.stop()
            return
        if self._applying is None:
            if self._failure is not None and time.monotonic() < self._not_before:
                raise self._failure
            self._applying = asyncio.create_task(self._apply(), name="migration")
        await asyncio.wait({self._applying}, timeout=within_s)
        if not self._applying.done():
            raise DatabaseUnavailable("migrating", "it is being migrated to this version")
        applying, self._applying = self._applying, None
        try:
            applying.result()
        except DatabaseUnavailable as fault:
            if (pause_s := self._pauses_s.get(fault.kind)) is not None:
                self._failure, self._not_before = fault, time.monotonic() + pause_s
                self._pauses_s[fault.kind] = min(2 * pause_s, _LONGEST_PAUSE_S[fault.kind])
            raise
        self.done = True

    async def stop(self) -> None:
        """Cancels a running migration; Postgres rolls it back."""
        applying, self._applying = self._applying, None
        if applying is not None:
            applying.cancel()
            with contextlib.suppress(asyncio.CancelledError, DatabaseUnavailable):
                await applying

    async def run_batch(self) -> bool:
        """Runs one batch of the migrations' work; returns False if none is left for this process."""
        async with (
            db_deadline(_BATCH_DEADLINE_S),
            self._pool.acquire(timeout=_MIGRATION_DEADLINE_S) as connection,
        ):
            work = await schema.run_work_batch(connection)
            self.work = await schema.unfinished_work(connection)
        if work is None:
            return False
        if work.finished or time.monotonic() - self._reported_at >= _REPORT_EVERY_S:
            self._reported_at = time.monotonic()
            _report_work(str(work))
        return not work.finished

    async def make_indexes(self) -> bool:
        """Applies the steps outside a transaction; returns False if another process applies them."""
        if all(not step.is_outside for step in await self._pending()):
            return True
        if self._pool.get_max_size() < _CONNECTIONS_FOR_INDEXES:
            _report_work("indexes: run `llm-proxy migrate`, this gateway has too few connections")
            return True
        acquire, timeout_s = self._pool.acquire, _MIGRATION_DEADLINE_S
        try:
            async with (
                db_deadline(None),
                acquire(timeout=timeout_s) as lock,
                acquire(timeout=timeout_s) as worker,
            ):
                applied = await schema.apply_outside(
                    lock, worker, self._pool.fetchrow, _report_work, self._steps
                )
        except schema.SchemaBusy as busy:
            _report_work(str(busy))
            return False
        if applied:
            log.info("the database was brought to this version", extra={"applied": applied})
        return True

    async def _pending(self) -> list[schema.Migration]:
        try:
            async with (
                db_deadline(_MIGRATION_DEADLINE_S),
                self._pool.acquire(timeout=_MIGRATION_DEADLINE_S) as connection,
            ):
                return await schema.pending_migrations(connection, self._steps)
        except (schema.SchemaChanged, RowsRejected) as fault:
            raise DatabaseUnavailable("refused", f"the schema: {fault}") from fault

    async def _apply(self) -> None:
        try:
            async with db_deadline(None), self._pool.acquire(timeout=_MIGRATION_DEADLINE_S) as connection:
                applied = await schema.apply(connection, self._steps)
        except schema.SchemaBusy as busy:
            raise DatabaseUnavailable("migrating", str(busy)) from busy
        except (schema.SchemaChanged, RowsRejected) as fault:
            raise DatabaseUnavailable("refused", f"the schema: {fault}") from fault
        if applied:
            log.info("the database was brought to this version", extra={"applied": applied})


def _report_work(line: str) -> None:
    log.info("work left by a migration", extra={"work": line})
