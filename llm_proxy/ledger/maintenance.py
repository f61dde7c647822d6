"""Maintains the ledger by the clock: recovery, partitions, retention, enrichment, sampled rows, gauges.

Invariants: no request waits for a task; each task fails alone and is retried; an advisory lock lets one
worker at a time do the database-wide tasks. Without a writable worker slot the ledger logs that once and
works from memory.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from llm_proxy.background import LOOP_DONE, FailureGuard, pause
from llm_proxy.errors import APIError
from llm_proxy.identity import Caller
from llm_proxy.ledger.observers import PayloadQueue
from llm_proxy.ledger.rejected_requests import RejectedRequest, RejectionCounts
from llm_proxy.ledger.spool import Recovered, Spool, recover_all
from llm_proxy.ledger.store import LedgerStore
from llm_proxy.ledger.worker_slot import WorkerSlot
from llm_proxy.ledger.writer import Writer
from llm_proxy.schema import GatewayTooOld
from llm_proxy.schema.database import DatabaseUnavailable, RowsRejected, write_rows
from llm_proxy.telemetry import Metrics

log = logging.getLogger(__name__)

TICK_S = 1.0
Task = Callable[[], Awaitable[None]]
_RECOVER_EVERY = 5
_PREPARE_EVERY = 2
_ENRICH_EVERY = 60
_MAINTAIN_EVERY = 1800
_MIGRATION_AT_START_S = 10.0
_IDLE_S = 30.0
_COUNTS_BATCH = 1000


class Maintenance:
    """The ledger's periodic tasks.

    Attributes:
        rejected_sample: Sampled rejected requests until Postgres has them.
        payloads: Payloads until Postgres has them.
    """

    def __init__(
        self,
        store: LedgerStore | None,
        slot: WorkerSlot | None,
        spool: Spool | None,
        writer: Writer,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._slot = slot
        self._spool = spool
        self._writer = writer
        self._metrics = metrics
        self.rejected_sample: list[RejectedRequest] = []
        self._counts = RejectionCounts()
        self.payloads = PayloadQueue()
        self._ticks = 0
        self._guards: dict[str, FailureGuard] = {}

    async def start(self) -> None:
        """Recovers dead workers' files, migrates the schema and makes partitions, before the first call.

        Raises:
            GatewayTooOld: The database belongs to newer releases.
        """
        if self._store is None and self._slot is not None and self._slot.is_first:
            log.warning("no database is configured: internal secrets only, records stay in the spool")
        await self._attempt("take-over", self._recover)
        await self._prepare(_MIGRATION_AT_START_S)
        self._update_gauges()

    async def step(self) -> None:
        """Runs the tasks that are due at this tick."""
        self._ticks += 1
        self._writer.wake_replay()
        self._update_gauges()
        for name, every, task in self._tasks():
            if self._ticks % every == 0:
                await self._attempt(name, task)

    def count_rejection(self, request_id: UUID, caller: Caller | None, error: APIError) -> None:
        """Counts a request that was rejected before its call was admitted."""
        if self._store is not None:
            self._counts.add(request_id, caller, error)

    async def run_backlog(self) -> None:
        """Runs batches of long work (migrations, retention, sums) for a second; pauses when none is left."""
        guard = self._guards.setdefault("work", FailureGuard("ledger-work"))
        until = time.monotonic() + TICK_S
        worked = self._is_ready()
        while worked and time.monotonic() < until:
            worked = await guard.run(self._batch) is True
        if self._is_ready() and not worked:
            another_works = self._require_store().migration.work is not None
            await pause(TICK_S if another_works else _IDLE_S)

    async def make_indexes(self) -> object:
        """Makes the indexes that migrations make outside a transaction; ends its loop when all are there."""
        if self._store is None:
            return LOOP_DONE
        if not self._is_ready():
            return None
        try:
            if await self._store.migration.make_indexes():
                return LOOP_DONE
        except (DatabaseUnavailable, RowsRejected) as error:
            log.warning("postgres rejects a batch of background work", extra={"why": error.reason})
        await pause(_IDLE_S)
        return None

    async def stop(self) -> None:
        """Writes the remaining samples and counts and closes the spool; the caller releases the slot."""
        await self._attempt("write-aside", self._write_samples)
        await self._attempt("write-counts", self._write_counts)
        if self._store is not None:
            await self._store.migration.stop()
        if self._spool is not None:
            self._spool.close()

    def _tasks(self) -> tuple[tuple[str, int, Task], ...]:
        """Returns each task's name in the log, the ticks between its runs, and the task."""
        return (
            ("write-aside", 1, self._write_samples),
            ("write-counts", 1, self._write_counts),
            ("prepare", _PREPARE_EVERY, self._prepare),
            ("take-over", _RECOVER_EVERY, self._recover),
            ("enrich", _ENRICH_EVERY, self._enrich),
            ("keep-house", _MAINTAIN_EVERY, self._maintain_partitions),
        )

    async def _attempt(self, name: str, task: Task) -> None:
        """Runs a task; its failure is logged and does not stop the other tasks."""
        guard = self._guards.setdefault(name, FailureGuard(f"ledger-{name}"))
        await guard.run(partial(self._run_task, task))

    async def _run_task(self, task: Task) -> None:
        try:
            await task()
        except DatabaseUnavailable as error:
            if error.kind == "away":
                self._writer.set_postgres_state(error)
            else:  # Postgres rejected this statement only: records may be accepted all the same
                log.warning("postgres rejects a maintenance task", extra={"why": error.reason})
        except RowsRejected as error:
            log.warning("postgres rejects a maintenance task", extra={"why": error.reason})
        except GatewayTooOld as error:
            self._writer.set_postgres_state(DatabaseUnavailable("outdated", str(error)))

    async def _batch(self) -> bool:
        store = self._require_store()
        try:
            left = await store.migration.run_batch()
            left = await store.delete_expired() > 0 or left
            return await store.sum_past_day() or left
        except (DatabaseUnavailable, RowsRejected) as error:
            log.warning("postgres rejects a batch of background work", extra={"why": error.reason})
            return False

    async def _prepare(self, within_s: float = 0.0) -> None:
        store = self._store
        if store is None or store.migrated:
            return
        try:
            await store.migration.advance(within_s)
            await store.maintain_partitions()
            self._writer.set_postgres_state(None)
        except DatabaseUnavailable as error:
            self._writer.set_postgres_state(error)

    async def _maintain_partitions(self) -> None:
        if self._is_ready():
            await self._require_store().maintain_partitions()
            await self._enrich(late=True)

    async def _enrich(self, *, late: bool = False) -> None:
        if self._is_ready():
            enriched = await self._require_store().enrich(datetime.now(UTC), late=late)
            self._metrics.increment("llm_proxy_ledger_enriched_total", by=enriched)

    async def _recover(self) -> None:
        if self._slot is None or self._spool is None:
            return
        async with self._writer.disk_lock:
            recovered = await asyncio.to_thread(recover_all, self._slot.path.parent, self._spool)
        self.count_recovered(recovered)

    async def _write_samples(self) -> None:
        rejected, self.rejected_sample = [one.as_row() for one in self.rejected_sample], []
        payloads = self.payloads.take_all()
        pending = len(payloads)
        try:
            if self._is_ready():
                store = self._require_store()
                for row, why in await write_rows(rejected, store.insert_rejected):
                    log.warning("postgres rejects a sample", extra={"request_id": str(row[0]), "why": why})
                if payloads:
                    rows = await asyncio.to_thread(lambda: [one.as_row() for one in payloads])
                    rejected = await write_rows(rows, store.insert_payloads)
                    pending = 0
                    self._reject_payloads(rejected)
        finally:
            if pending:
                self._metrics.increment("llm_proxy_payloads_dropped_total", "postgres_away", by=pending)

    async def _write_counts(self) -> None:
        pending = self._counts.pending_rows()
        for begin in range(0, len(pending), _COUNTS_BATCH):
            rows = pending[begin : begin + _COUNTS_BATCH]
            if not self._writer.should_try_postgres():
                return
            for row, why in await write_rows([*rows], self._require_store().insert_rejection_counts):
                log.warning("postgres rejects a count of refusals", extra={"times": row[-1], "why": why})
            self._counts.mark_written(rows)
            self._writer.set_postgres_state(None)

    def _reject_payloads(self, rejected: list[tuple[tuple[Any, ...], str]]) -> None:
        for row, why in rejected:
            self._metrics.increment("llm_proxy_payloads_dropped_total", "rejected")
            log.warning("postgres rejects a payload", extra={"request_id": str(row[0]), "why": why})

    def _is_ready(self) -> bool:
        return self._store is not None and self._store.migrated and self._writer.is_up

    def _require_store(self) -> LedgerStore:
        assert self._store is not None  # noqa: S101 -- `_is_ready` was checked
        return self._store

    def _update_gauges(self) -> None:
        metrics = self._metrics
        metrics.run_samplers()
        metrics.set_gauge("llm_proxy_ledger_queue_records", self._writer.queued)
        if self._spool is not None:
            metrics.set_gauge("llm_proxy_spool_bytes", self._spool.size_bytes)
            metrics.set_gauge("llm_proxy_spool_records", self._spool.records)

    def count_recovered(self, recovered: Recovered) -> None:
        """Counts records that were recovered from dead workers."""
        if recovered.finished:
            self._metrics.increment("llm_proxy_ledger_recovered_total", "finished", by=recovered.finished)
        if recovered.lost:
            self._metrics.increment("llm_proxy_ledger_recovered_total", "lost", by=recovered.lost)
