"""This replica's heartbeat in the limits store.

Invariants: a replica that dies is no longer counted after 15 s and its parallel places are free after 30 s;
what living calls hold is kept however long those run, and made good in a store that lost it.
"""

import asyncio
import logging

from llm_proxy.admission.asking import LEASE_LIFE_MS
from llm_proxy.admission.desk import BATCH, Desk
from llm_proxy.admission.lease import Living, Taken
from llm_proxy.admission.model import Entry
from llm_proxy.admission.outage import Outage
from llm_proxy.admission.store import Store
from llm_proxy.admission.wire import StoreAway
from llm_proxy.background import Loop

log = logging.getLogger(__name__)

EVERY_S = 5.0


class Pulse:
    """Beats while the gateway runs."""

    def __init__(self, store: Store, replica: str, living: Living, outage: Outage, desk: Desk) -> None:
        self._store = store
        self._replica = replica
        self._living = living
        self._outage = outage
        self._desk = desk
        self._turn = asyncio.Lock()
        self._loop = Loop("heartbeat", self.beat, every_s=EVERY_S)

    async def start(self) -> None:
        """Begin."""
        await self._loop.attempt(self.beat)
        self._loop.start()

    async def stop(self) -> None:
        """Stop."""
        await self._loop.stop()

    async def beat(self) -> None:
        """Tell the other replicas that we live, and keep what our running calls hold."""
        try:
            self._outage.replicas = max(1, await self._store.replicas(self._replica))
            self._outage.over()
        except StoreAway:
            log.debug("heartbeat not heard")
        for tag in self._living.held(self._store):
            try:
                await self.keep(tag)
            except StoreAway:
                log.debug("places not kept")

    async def keep(self, tag: str) -> None:
        """Keep what our running calls of a tenant hold, at once; raises `StoreAway`."""
        async with self._turn:  # or the same money would be taken anew twice
            held = self._living.held(self._store).get(tag, [])
            for at in range(0, len(held), BATCH):
                some = held[at : at + BATCH]
                born = await self._store.keep(tuple(entry for _, entry in some), LEASE_LIFE_MS)
                for (taken, entry), anew in zip(some, born, strict=True):
                    self._kept(taken, entry, anew)

    def _kept(self, taken: Taken, entry: Entry, anew: int) -> None:
        """A call that ended meanwhile holds nothing; one that lives has its money in the new counter."""
        if entry.kind == "parallel":
            if taken.lease not in self._living.placed:
                self._desk.note(taken.plan.tag, (entry,))
        elif anew and taken.lease in self._living.reserving:
            taken.reborn[entry.key] = anew
        elif anew:
            self._desk.note(taken.plan.tag, (Entry("budget", entry.key, anew, -entry.delta),))
