"""The queue of settlements to the limits store.

Invariants: `enqueue` never waits or raises; one batch a tenant is under way, sent again until the store has
it, and counted once. While the store is unreachable, slots, token windows and reservations may be dropped
(they expire), money spent never is.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from llm_proxy.admission.limiter import LimiterBackend, LimiterUnavailable, SettlementEntry
from llm_proxy.background import BackgroundLoop

log = logging.getLogger(__name__)

RETRY_INTERVAL_S = 0.25
MAX_BATCH = 500
MAX_PERISHABLE = 50_000
"""Entries kept per tenant while the store is unreachable; of more, only what was spent, by budget."""

SettledFuture = asyncio.Future[None]


@dataclass(slots=True)
class _Batch:
    """What is to be settled for one tenant next, and the future that is done when it was sent."""

    settled: SettledFuture
    entries: dict[tuple[str, str, int, str, bool], SettlementEntry]

    def add(self, entry: SettlementEntry) -> None:
        rises = entry.amount > 0 if entry.kind == "tokens" else True
        key = entry.kind, entry.key, entry.at, entry.lease_id, rises
        before = self.entries.get(key)
        if before is not None:
            entry = replace(entry, amount=before.amount + entry.amount)
        self.entries[key] = entry

    def shrink(self) -> None:
        """Keeps only what was spent; reservations expire by themselves."""
        entries = [*self.entries.values()]
        self.entries.clear()
        for entry in entries:
            if entry.kind == "budget":
                self.add(replace(entry, lease_id=""))


class SettlementQueue:
    """The settlements on their way to the limits store, by tenant."""

    def __init__(self, backend: LimiterBackend, replica: str, timeout_s: float) -> None:
        self._backend = backend
        self._replica = replica
        self._timeout_s = timeout_s
        self._batches: dict[str, _Batch] = {}
        self._sending: dict[str, tuple[int, tuple[SettlementEntry, ...], SettledFuture]] = {}
        self._sent: dict[str, asyncio.Future[Any]] = {}  # by no task: the loop repeats what fails
        self._number = 0
        self._wakeup = asyncio.Event()
        self._loop = BackgroundLoop("settlements", self._step)

    @property
    def pending(self) -> int:
        """The number of entries the store does not have yet."""
        sending = sum(len(entries) for _, entries, _ in self._sending.values())
        return sending + sum(len(one.entries) for one in self._batches.values())

    def enqueue(self, tag: str, entries: Iterable[SettlementEntry]) -> SettledFuture:
        """Enqueues entries; the future is done after the first attempt to send them, also a failed one.

        Without a batch of the tenant under way they are sent before this returns: what its caller writes to
        the store, or to a client, comes after them.
        """
        batch = self._batches.get(tag)
        if batch is None:
            batch = self._batches[tag] = _Batch(asyncio.get_running_loop().create_future(), {})
        for entry in entries:
            batch.add(entry)
        if len(batch.entries) > MAX_PERISHABLE:
            batch.shrink()
        if self._backend.single_slot:
            self._wakeup.set()
        elif tag not in self._sending:
            self._send_first(tag)
        return batch.settled

    async def wait_settled(self, future: SettledFuture) -> None:
        """Waits until the store has what was enqueued, at most the timeout; not while it is unreachable."""
        if self._backend.is_available and not future.done():
            await asyncio.wait([future], timeout=self._timeout_s)

    async def start(self) -> None:
        """Starts sending."""
        self._loop.start()

    async def stop(self, within_s: float = 2.0) -> None:
        """Sends what is left, if the store takes it within `within_s` seconds."""
        await self._loop.stop()
        try:
            async with asyncio.timeout(within_s):
                while self.pending and await self.flush():
                    pass
        except TimeoutError:
            pass
        if self.pending:
            log.error("%d settlements are lost at the end", self.pending)

    async def flush(self) -> bool:
        """Sends every tenant's next batch; returns whether the store took all of them."""
        if self._sent:
            await asyncio.wait(self._sent.values())
        for tag in [*self._batches]:
            if tag not in self._sending:
                self._sending[tag] = self._next_batch(tag)
        unsent = [tag for tag in self._sending if tag not in self._sent]
        results = await asyncio.gather(*(self._send(tag) for tag in unsent))
        return all(results)

    def _next_batch(self, tag: str) -> tuple[int, tuple[SettlementEntry, ...], SettledFuture]:
        batch = self._batches.pop(tag)
        entries, settled = tuple(batch.entries.values()), batch.settled
        if len(entries) > MAX_BATCH:
            batch.entries = dict([*batch.entries.items()][MAX_BATCH:])
            self._batches[tag] = batch
            settled = asyncio.get_running_loop().create_future()
        self._number += 1
        return self._number, entries[:MAX_BATCH], settled

    def _send_first(self, tag: str) -> None:
        """Sends a tenant's next batch now, by no task; what fails is left to the loop."""
        number, entries, _ = self._sending[tag] = self._next_batch(tag)
        try:
            reply = self._backend.send_settlement(self._ledger_key(tag), number, entries)
        except LimiterUnavailable:
            self._wakeup.set()
            return
        self._sent[tag] = reply
        reply.add_done_callback(partial(self._answered, tag))

    def _answered(self, tag: str, reply: "asyncio.Future[Any]") -> None:
        del self._sent[tag]
        if reply.cancelled() or reply.exception() is not None:
            self._wakeup.set()
            return
        _, _, settled = self._sending.pop(tag)
        if not settled.done():
            settled.set_result(None)
        if tag in self._batches:
            self._send_first(tag)

    def _ledger_key(self, tag: str) -> str:
        return f"lp:{tag}:settled:{self._replica}"

    async def _send(self, tag: str) -> bool:
        number, entries, settled = self._sending[tag]
        try:
            await self._backend.settle(self._ledger_key(tag), number, entries)
        except LimiterUnavailable:
            return False
        finally:
            if not settled.done():
                settled.set_result(None)
        del self._sending[tag]
        return True

    async def _step(self) -> None:
        await self._wakeup.wait()
        self._wakeup.clear()
        try:
            if not await self.flush():
                await asyncio.sleep(RETRY_INTERVAL_S)
        finally:
            if (self._sending.keys() | self._batches.keys()) - self._sent.keys():
                self._wakeup.set()
