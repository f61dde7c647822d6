"""This replica's heartbeat in the limits store.

Invariants: a replica that dies is no longer counted after 15 s, its parallel places and reservations are free
after 30 s; what living calls hold is kept however long those run, and made good in a store that lost it.
"""

import logging
from dataclasses import replace

from llm_proxy.admission.asking import LEASE_LIFE_MS
from llm_proxy.admission.check import Entry, Store, StoreAway
from llm_proxy.admission.desk import BATCH
from llm_proxy.admission.lease import Living, Taken
from llm_proxy.admission.outage import Outage
from llm_proxy.background import Loop

log = logging.getLogger(__name__)

EVERY_S = 5.0


class Pulse:
    """Beats while the gateway runs."""

    def __init__(self, store: Store, replica: str, living: Living, outage: Outage) -> None:
        self._store = store
        self._replica = replica
        self._living = living
        self._outage = outage
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
            if self._store.answering:  # every node of it
                self._outage.over()
        except StoreAway:
            log.debug("heartbeat not heard")
        for (store, _), held in self._living.held().items():
            try:
                await self._keep(store, held)
            except StoreAway:
                log.debug("leases not kept")

    async def keep(self, tag: str | None) -> None:
        """Keep what our running calls of a tenant, or of all, hold, at once; raises `StoreAway`."""
        for (store, one), held in self._living.held().items():
            if store is self._store and tag in {None, one}:
                await self._keep(store, held)

    async def _keep(self, store: Store, held: list[tuple[Taken, Entry]]) -> None:
        for at in range(0, len(held), BATCH):
            some = held[at : at + BATCH]
            await store.keep(tuple(entry for _, entry in some), LEASE_LIFE_MS)
            for taken, entry in some:
                if taken.lease not in self._living.calls:  # it ended meanwhile, and holds nothing
                    taken.desk.note(taken.plan.tag, (replace(entry, amount=0),))
