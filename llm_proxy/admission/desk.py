"""Settlements on their way to the store, gathered and sent within 100 ms.

Invariants: `note` never waits and never fails; a batch is sent again until the store says it has it, and
counts once; what no longer matters (places and token buckets expire by themselves) may be dropped when the
store stays away, money never is.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace

from llm_proxy.admission.model import Entry
from llm_proxy.admission.store import Store
from llm_proxy.admission.wire import StoreAway
from llm_proxy.background import Loop

log = logging.getLogger(__name__)

EVERY_S = 0.1
AGAIN_S = 0.25
BATCH = 500
MOST_PERISHABLE = 50_000
"""Entries of tokens and places kept per tenant while the store is away."""

Merged = dict[tuple[str, str, int, str, bool], Entry]


class Desk:
    """What is to be settled, by tenant."""

    def __init__(self, store: Store, replica: str) -> None:
        self._store = store
        self._replica = replica
        self._gathered: dict[str, Merged] = {}
        self._sending: dict[str, tuple[int, tuple[Entry, ...]]] = {}
        self._number = 0
        self._noted = asyncio.Event()
        self._loop = Loop("settlements", self._step)

    @property
    def waiting(self) -> int:
        """Entries the store does not have yet."""
        sending = sum(len(entries) for _, entries in self._sending.values())
        return sending + sum(len(merged) for merged in self._gathered.values())

    def note(self, tag: str, entries: Iterable[Entry]) -> None:
        """Settle soon."""
        merged = self._gathered.setdefault(tag, {})
        for entry in entries:
            _merge(merged, entry)
        if len(merged) > MOST_PERISHABLE:
            self._gathered[tag] = {key: entry for key, entry in merged.items() if entry.kind == "budget"}
        self._noted.set()

    async def start(self) -> None:
        """Begin to send."""
        self._loop.start()

    async def stop(self, within_s: float = 2.0) -> None:
        """Send what is left, if the store takes it in time."""
        await self._loop.stop()
        try:
            async with asyncio.timeout(within_s):
                while self.waiting and await self.flush():
                    pass
        except TimeoutError:
            pass
        if self.waiting:
            log.error("settlements lost at the end: %d", self.waiting)

    async def flush(self) -> bool:
        """Send what was gathered; False when the store did not take all of it."""
        for tag in [*self._gathered]:
            if tag not in self._sending:
                self._sending[tag] = self._next(tag)
        results = await asyncio.gather(*(self._send(tag) for tag in [*self._sending]))
        return all(results)

    def _next(self, tag: str) -> tuple[int, tuple[Entry, ...]]:
        merged = self._gathered.pop(tag)
        entries = tuple(merged.values())
        if len(entries) > BATCH:
            self._gathered[tag] = dict([*merged.items()][BATCH:])
        self._number += 1
        return self._number, entries[:BATCH]

    async def _send(self, tag: str) -> bool:
        number, entries = self._sending[tag]
        try:
            await self._store.settle(f"lp:{tag}:settled:{self._replica}", number, entries)
        except StoreAway:
            return False
        del self._sending[tag]
        return True

    async def _step(self) -> None:
        await self._noted.wait()
        await asyncio.sleep(EVERY_S)
        self._noted.clear()
        try:
            if not await self.flush():
                await asyncio.sleep(AGAIN_S)
        finally:
            if self.waiting:
                self._noted.set()


def _merge(merged: Merged, entry: Entry) -> None:
    key = (entry.kind, entry.key, entry.at, entry.lease, entry.delta > 0 if entry.kind == "tokens" else True)
    before = merged.get(key)
    if before is not None:
        entry = replace(entry, delta=before.delta + entry.delta, full=before.full + entry.full)
    merged[key] = entry
