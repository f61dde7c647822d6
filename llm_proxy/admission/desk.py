"""Settlements on their way to the store: at most one batch of a tenant at a time, sent at once.

What comes while a batch is under way goes with the next, so that many calls share a script call. Invariants:
`note` never waits and never fails; a batch is sent again until the store says it has it, and counts once;
what no longer matters (places, token buckets and reservations expire by themselves) may be dropped when the
store stays away, money spent never is; who waits for a settlement waits at most `patience_s`.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from llm_proxy.admission.check import Entry, Store, StoreAway
from llm_proxy.background import Loop

log = logging.getLogger(__name__)

AGAIN_S = 0.25
BATCH = 500
MOST_PERISHABLE = 50_000
"""Entries kept per tenant while the store is away; of more, only what was spent, by budget."""

Settled = asyncio.Future[None]


@dataclass(slots=True)
class _Gathered:
    """What is to be settled for one tenant next, and the future that is done when it was sent."""

    settled: Settled
    entries: dict[tuple[str, str, int, str, bool], Entry] = field(
        default_factory=dict[tuple[str, str, int, str, bool], Entry]
    )

    def add(self, entry: Entry) -> None:
        rises = entry.amount > 0 if entry.kind == "tokens" else True
        key = entry.kind, entry.key, entry.at, entry.lease, rises
        before = self.entries.get(key)
        if before is not None:
            entry = replace(entry, amount=before.amount + entry.amount)
        self.entries[key] = entry

    def shrink(self) -> None:
        """Keep only what was spent; reservations expire by themselves."""
        entries = [*self.entries.values()]
        self.entries.clear()
        for entry in entries:
            if entry.kind == "budget":
                self.add(replace(entry, lease=""))


class Desk:
    """What is to be settled, by tenant."""

    def __init__(self, store: Store, replica: str, patience_s: float) -> None:
        self._store = store
        self._replica = replica
        self._patience_s = patience_s
        self._gathered: dict[str, _Gathered] = {}
        self._sending: dict[str, tuple[int, tuple[Entry, ...], Settled]] = {}
        self._number = 0
        self._noted = asyncio.Event()
        self._loop = Loop("settlements", self._step)

    @property
    def waiting(self) -> int:
        """Entries the store does not have yet."""
        sending = sum(len(entries) for _, entries, _ in self._sending.values())
        return sending + sum(len(one.entries) for one in self._gathered.values())

    def note(self, tag: str, entries: Iterable[Entry]) -> Settled:
        """Settle at once; the future is done when the store has it, or has not taken it at the first try."""
        gathered = self._gathered.get(tag)
        if gathered is None:
            gathered = self._gathered[tag] = _Gathered(asyncio.get_running_loop().create_future())
        for entry in entries:
            gathered.add(entry)
        if len(gathered.entries) > MOST_PERISHABLE:
            gathered.shrink()
        self._noted.set()
        return gathered.settled

    async def settled(self, noted: Settled) -> None:
        """Wait until the store has what was noted; not for a store that is away."""
        if self._store.answering and not noted.done():
            await asyncio.wait([noted], timeout=self._patience_s)

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

    def _next(self, tag: str) -> tuple[int, tuple[Entry, ...], Settled]:
        gathered = self._gathered.pop(tag)
        entries, settled = tuple(gathered.entries.values()), gathered.settled
        if len(entries) > BATCH:
            gathered.entries = dict([*gathered.entries.items()][BATCH:])
            self._gathered[tag] = gathered
            settled = asyncio.get_running_loop().create_future()
        self._number += 1
        return self._number, entries[:BATCH], settled

    async def _send(self, tag: str) -> bool:
        number, entries, settled = self._sending[tag]
        try:
            await self._store.settle(f"lp:{tag}:settled:{self._replica}", number, entries)
        except StoreAway:
            return False
        finally:
            if not settled.done():
                settled.set_result(None)
        del self._sending[tag]
        return True

    async def _step(self) -> None:
        await self._noted.wait()
        self._noted.clear()
        try:
            if not await self.flush():
                await asyncio.sleep(AGAIN_S)
        finally:
            if self.waiting:
                self._noted.set()
