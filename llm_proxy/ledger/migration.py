"""The database brought to this version beside the calls, while their records go to the spool.

Invariants: one process migrates at a time (the schema's lock), others look whenever they are asked whether
it is done; a migration has no deadline; one that failed is tried again after a pause that grows, and one that
somebody else finished is noticed at once. Work left for later is done in batches by one worker at a time.
"""

import asyncio
import contextlib
import logging
import time

import asyncpg

from llm_proxy import schema
from llm_proxy.database import DatabaseUnavailable, RowsRejected, deadline

log = logging.getLogger(__name__)

_DEADLINE_S = 2.0
_BATCH_DEADLINE_S = 120.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0
_REPORT_EVERY_S = 10.0


class Migration:
    """This process's part in bringing the database up to date.

    Attributes:
        done: The schema is this version's.
        work: The background work as it was last seen, whoever does it; None where none is known of.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._applying: asyncio.Task[None] | None = None
        self._pause_s, self._not_before = _FIRST_PAUSE_S, 0.0
        self._failure: DatabaseUnavailable | None = None
        self._reported_at = float("-inf")
        self.done = False
        self.work: schema.Work | None = None

    async def advance(self, within_s: float) -> None:
        """See whether the schema is this version's, and begin to bring it there.

        Args:
            within_s: How long to wait for a migration that runs.

        Raises:
            DatabaseUnavailable: It is not there yet; the kind says why.
        """
        if self.done or not await self._pending():
            self.done = True
            await self.stop()
            return
        if self._applying is None:
            if self._failure is not None and time.monotonic() < self._not_before:
                raise self._failure
            self._applying = asyncio.create_task(self._apply(), name="migration")
        await asyncio.wait({self._applying}, timeout=within_s)
        if not self._applying.done():
            raise DatabaseUnavailable("migrating", "it is being brought to this version")
        applying, self._applying = self._applying, None
        try:
            applying.result()
        except DatabaseUnavailable as fault:
            if fault.kind == "refused":
                self._failure, self._not_before = fault, time.monotonic() + self._pause_s
                self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            raise
        self.done = True

    async def stop(self) -> None:
        """Give up a migration that runs; Postgres takes it back."""
        applying, self._applying = self._applying, None
        if applying is not None:
            applying.cancel()
            with contextlib.suppress(asyncio.CancelledError, DatabaseUnavailable):
                await applying

    async def work_off(self) -> bool:
        """Do one batch of the work that migrations left; False when none is left for this process."""
        async with deadline(_BATCH_DEADLINE_S), self._pool.acquire(timeout=_DEADLINE_S) as connection:
            work = await schema.work(connection)
            self.work = await schema.unfinished(connection)
        if work is None:
            return False
        if work.finished or time.monotonic() - self._reported_at >= _REPORT_EVERY_S:
            self._reported_at = time.monotonic()
            log.info("work left by a migration", extra={"work": str(work)})
        return not work.finished

    async def _pending(self) -> bool:
        try:
            async with deadline(_DEADLINE_S), self._pool.acquire(timeout=_DEADLINE_S) as connection:
                return bool(await schema.pending(connection))
        except (schema.SchemaChanged, RowsRejected) as fault:
            raise DatabaseUnavailable("refused", f"the schema: {fault}") from fault

    async def _apply(self) -> None:
        try:
            async with deadline(None), self._pool.acquire(timeout=_DEADLINE_S) as connection:
                applied = await schema.apply(connection)
        except schema.SchemaBusy as busy:
            raise DatabaseUnavailable("migrating", str(busy)) from busy
        except (schema.SchemaChanged, RowsRejected) as fault:
            raise DatabaseUnavailable("refused", f"the schema: {fault}") from fault
        if applied:
            log.info("the database was brought to this version", extra={"applied": applied})
