"""This replica's heartbeat in the limits store.

Invariants: a replica that dies is no longer counted after 15 s and its parallel places are free after 30 s;
the places of living calls are kept however long those run.
"""

import asyncio
import logging

from llm_proxy.admission.asking import LEASE_LIFE_MS
from llm_proxy.admission.lease import Living
from llm_proxy.admission.outage import Outage
from llm_proxy.admission.store import Store
from llm_proxy.admission.wire import StoreAway

log = logging.getLogger(__name__)

EVERY_S = 5.0


class Pulse:
    """Beats while the gateway runs."""

    def __init__(self, store: Store, replica: str, living: Living, outage: Outage) -> None:
        self._store = store
        self._replica = replica
        self._living = living
        self._outage = outage
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin."""
        await self.beat()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def beat(self) -> None:
        """Tell the other replicas that we live, and keep the places of our running calls."""
        if not self._store.answering:
            return
        try:
            self._outage.replicas = max(1, await self._store.replicas(self._replica))
            for places in self._living.by_tenant().values():
                await self._store.keep(tuple(places), LEASE_LIFE_MS)
            self._outage.over()
        except StoreAway:
            log.debug("heartbeat not heard")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self.beat()
