"""Writes queued records to Postgres, or to the spool while it is unavailable, and replays the spool.

Invariants: a record's slot in the journal is released only when Postgres or the spool has it; a batch is
written within 100 ms of its first record; an unavailable Postgres delays no call; a record that Postgres will
never accept is put aside alone. Every dropped record is counted with its cause.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Literal

from llm_proxy.background import LOOP_DONE
from llm_proxy.ledger.record import EncodedRow, LedgerRow, decode, encode, log_fields, repair
from llm_proxy.ledger.spool import Journal, Spool, read_lines
from llm_proxy.ledger.store import LedgerStore
from llm_proxy.schema.database import DatabaseUnavailable, RowsRejected, write_rows
from llm_proxy.telemetry import Metrics

log = logging.getLogger(__name__)
call_log = logging.getLogger("llm_proxy.calls")
"""Logs one line for every finished call; a level of WARNING turns it off."""

_GATHER_S = 0.08
_POLL_S = 0.01
_BATCH = 1000
_MAX_QUEUED = 50_000
_REPLAY_BATCH = 500
REPLAY_EVERY_S = 0.5
_FIRST_RETRY_S = 0.25
_LAST_RETRY_S = 5.0

QueueEntry = tuple[int, LedgerRow, bytes]


class Writer:
    """Queues records and writes them in batches to Postgres, or to the spool while it is unavailable.

    Attributes:
        state: `up` if Postgres accepted the last batch; else why it did not.
        since_s: When the state changed last, in seconds since 1970.
        disk_lock: Held by every change of the spool.
    """

    def __init__(
        self, store: LedgerStore | None, spool: Spool | None, journal: Journal, metrics: Metrics
    ) -> None:
        self._store = store
        self._spool = spool
        self._journal = journal
        self._metrics = metrics
        self._queue: list[QueueEntry] = []
        self._taken = self._writing = 0
        self._awake = asyncio.Event()
        self._spooled = asyncio.Event()
        self._finishing = False
        self.disk_lock = asyncio.Lock()
        self._retry_at = 0.0
        self._retry_s = _FIRST_RETRY_S
        self.state: Literal["up", "away", "refused", "migrating", "outdated"] = (
            "up" if store is not None else "away"
        )
        self.why = ""
        self.since_s = time.time()

    @property
    def is_up(self) -> bool:
        """Whether Postgres accepted the last batch."""
        return self.state == "up"

    @property
    def queued(self) -> int:
        """The number of records that neither Postgres nor the spool has."""
        return len(self._queue) + self._writing

    def add(self, slot: int, row: LedgerRow, line: bytes) -> None:
        """Queues a record with its slot in the journal; never waits; drops it if the queue is full."""
        if len(self._queue) >= _MAX_QUEUED:
            self._journal.release(slot)
            self._metrics.increment("llm_proxy_ledger_dropped_total", "queue_full")
            return
        self._taken += 1
        self._queue.append((slot, row, line))
        self._awake.set()

    async def wait_written(self, within_s: float) -> bool:
        """Waits until Postgres or the spool has every record queued so far; returns False on timeout."""
        taken, until = self._taken, time.monotonic() + within_s
        while self._taken - self.queued < taken:
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def step(self) -> object:
        """Writes the queue 80 ms after its first record; returns `LOOP_DONE` after `finish`."""
        await self._awake.wait()
        if not self._finishing:
            await asyncio.sleep(_GATHER_S)
        self._awake.clear()
        written = False
        try:
            written = await self.flush()
        finally:
            if not written:
                self._awake.set()
        if not written and not self._finishing:
            await asyncio.sleep(_GATHER_S * 5)
        return LOOP_DONE if self._finishing else None

    def finish(self) -> None:
        """Ends `step` after one last attempt."""
        self._finishing = True
        self._awake.set()

    async def flush(self) -> bool:
        """Writes all queued records; returns False if neither Postgres nor the spool took some."""
        self._metrics.record_calls()
        queue, self._queue = self._queue, []
        kept, self._writing = 0, len(queue)
        try:
            while kept < len(queue):
                batch = queue[kept : kept + _BATCH]
                if not (await self._to_postgres(batch) or await self._to_spool(batch)):
                    return False
                kept += len(batch)
                self._writing = len(queue) - kept
        finally:
            self._writing = 0
            self._queue[:0] = queue[kept:]
        return True

    async def replay_spool(self) -> None:
        """Waits for records in the spool; writes its segments to Postgres, until one fails."""
        await self._spooled.wait()
        while self._spool is not None and self._spool.records and self.should_try_postgres():
            if not await self._replay_segment(self._spool):
                return
        if self._spool is None or not self._spool.records:
            self._spooled.clear()

    def wake_replay(self) -> None:
        """Wakes `replay_spool` if the spool has records: also those that were recovered."""
        if self._spool is not None and self._spool.records:
            self._spooled.set()

    def should_try_postgres(self) -> bool:
        """Whether to write to Postgres now: it is migrated, and up or due for a new attempt."""
        if self._store is None or not self._store.migrated:
            return False
        return self.is_up or asyncio.get_running_loop().time() >= self._retry_at

    def set_postgres_state(self, fault: DatabaseUnavailable | None) -> None:
        """Notes the result of a write (None for success) and the time of the next attempt."""
        now = asyncio.get_running_loop().time()
        if fault is None:
            self._retry_s = _FIRST_RETRY_S
        else:
            self._retry_at = now + self._retry_s
            self._retry_s = min(self._retry_s * 2, _LAST_RETRY_S)
            if fault.kind != "migrating":
                self._metrics.increment("llm_proxy_store_failures_total", "postgres")
        state = fault.kind if fault is not None else "up"
        why = fault.reason if fault is not None else ""
        if (state, why) != (self.state, self.why):
            if state != self.state:
                self.since_s = time.time()
            self.state, self.why = state, why
            if fault is None:
                log.info("postgres takes records again")
            else:
                states = {
                    "away": "is away",
                    "refused": "refuses the records",
                    "migrating": "is migrated",
                    "outdated": "has a newer schema",
                }
                log.warning(
                    "postgres %s; records go to the spool", states[fault.kind], extra={"why": fault.reason}
                )
        self._metrics.set_gauge("llm_proxy_store_up", float(self.is_up), "postgres")

    async def _to_postgres(self, batch: Sequence[QueueEntry]) -> bool:
        if not self.should_try_postgres() or not await self._insert([(row, line) for _, row, line in batch]):
            return False
        self._mark_kept(batch, "postgres")
        return True

    async def _to_spool(self, batch: Sequence[QueueEntry]) -> bool:
        if self._spool is None:
            if self._store is None:
                self._metrics.increment("llm_proxy_ledger_dropped_total", "no_place", by=len(batch))
                for slot, _, _ in batch:
                    self._journal.release(slot)
            return self._store is None
        dropped = self._spool.dropped
        try:
            async with self.disk_lock:
                await asyncio.to_thread(self._spool.append, [line for _, _, line in batch])
        except OSError as fault:
            log.warning("the spool cannot be written", extra={"why": str(fault), "records": len(batch)})
            self._metrics.increment("llm_proxy_store_failures_total", "spool")
            return False
        if self._spool.dropped > dropped:
            self._metrics.increment(
                "llm_proxy_ledger_dropped_total", "spool_full", by=self._spool.dropped - dropped
            )
        self._mark_kept(batch, "spool")
        self._spooled.set()
        return True

    def _mark_kept(self, batch: Sequence[QueueEntry], where: str) -> None:
        for slot, _, _ in batch:
            self._journal.release(slot)
        self._metrics.increment("llm_proxy_ledger_written_total", where, by=len(batch))
        if call_log.isEnabledFor(logging.INFO):
            call_log.info("call", extra={"lines": [log_fields(row) for _, row, _ in batch]})

    async def _replay_segment(self, spool: Spool) -> bool:
        async with self.disk_lock:
            segment = spool.oldest()
        if segment is None:
            return False
        waiting = read_lines(segment)
        try:
            while batch := list(islice(waiting, _REPLAY_BATCH)):
                if not await self._insert(self._decode_batch(batch)):
                    return False
                self._metrics.increment("llm_proxy_ledger_replayed_total", by=len(batch))
        except FileNotFoundError:
            pass  # dropped meanwhile to stay below the spool's size limit
        async with self.disk_lock:
            spool.discard(segment)
        return True

    def _decode_batch(self, batch: Sequence[bytes]) -> list[EncodedRow]:
        rows: list[EncodedRow] = []
        for line in batch:
            try:
                rows.append((decode(line), line))
            except ValueError:
                self._put_aside(line, "unreadable")
        return rows

    async def _insert(self, rows: Sequence[EncodedRow]) -> bool:
        store = self._store
        if store is None:
            return False
        fresh = store.within_retention(rows, datetime.now(UTC))
        if len(fresh) < len(rows):
            self._metrics.increment("llm_proxy_ledger_dropped_total", "expired", by=len(rows) - len(fresh))
        began = time.perf_counter()
        try:
            for (row, _), _why in await write_rows(fresh, store.insert_records):
                await self._insert_repaired(store, row)
        except DatabaseUnavailable as fault:
            self.set_postgres_state(fault)
            return False
        self._metrics.observe("llm_proxy_ledger_write_seconds", time.perf_counter() - began)
        self.set_postgres_state(None)
        return True

    async def _insert_repaired(self, store: LedgerStore, row: LedgerRow) -> None:
        repaired = repair(row)
        try:
            await store.insert_records([(repaired, encode(repaired))])
        except RowsRejected as rejected:
            fields = {"request_id": str(row[0]), "why": rejected.reason}
            log.warning("postgres rejects a record for good", extra=fields)
            self._put_aside(encode(row), "rejected")

    def _put_aside(self, line: bytes, cause: str) -> None:
        self._metrics.increment("llm_proxy_ledger_dropped_total", cause)
        if self._spool is not None:
            try:
                self._spool.reject(line)
            except OSError as full:
                log.warning("a rejected record cannot be put aside", extra={"why": full.strerror})
