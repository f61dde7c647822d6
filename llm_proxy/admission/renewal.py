"""The replica's heartbeat, renewal of what running calls hold, and budget counters rebuilt from the ledger.

Invariants: a dead replica is not counted after 15 s, and what its calls held is free after 30 s; a running
call's slots and reservations are renewed for as long as it runs, also in a store that lost them; a missing
budget counter is rebuilt from what the ledger has, never taken for 0; spend and reservations are kept
apart.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol
from uuid import UUID

from llm_proxy.admission.fallback import Outage
from llm_proxy.admission.lease import BATCH, Living, Taken, Used
from llm_proxy.admission.limit_planner import LEASE_LIFE_MS
from llm_proxy.admission.limiter import Check, Entry, Store, StoreAway
from llm_proxy.background import Loop, spawn
from llm_proxy.errors import Refused
from llm_proxy.identity.caller import ScopeKind, Unit

log = logging.getLogger(__name__)

GRACE_MS = 86_400_000
"""A counter outlives its period by a day, for calls that settle after midnight."""


class Spent(Protocol):
    """What was spent, as the ledger has it."""

    async def spent(
        self, scope: ScopeKind, spender: str, since: datetime, tenant: str | None, group: str, unit: Unit
    ) -> int | None:
        """What was spent since then, money in nano-dollars; None when nobody knows.

        Args:
            scope: What spent.
            spender: Its id.
            since: When the period began.
            tenant: Only what it spent in this one (empty for calls without one); None for all.
            group: Only what it spent on this model group; `*` for all.
            unit: What is counted.
        """
        ...

    async def latest_answers(self) -> Sequence[tuple[str, int]] | None:
        """The completion tokens of all replicas' latest answers, by group asked; None when nobody knows."""
        ...

    async def known(self, requests: Sequence[UUID]) -> Mapping[UUID, tuple[Used, bool]] | None:
        """What is known of those of these calls that the sidecar's log told of; None while nobody can tell.

        With each, whether its figures are exact, or only who served it is known.
        """
        ...


class Rebuilding:
    """Rebuilds missing counters, each once however many calls wait for it."""

    def __init__(
        self, store: Store, spent: Spent | None, keep: Callable[[str | None], Awaitable[None]]
    ) -> None:
        """`keep` makes the reservations of running calls again: a tenant's, or all."""
        self._keep = keep
        self._store = store
        self._spent = spent
        self._running: dict[str, asyncio.Task[bool]] = {}
        self._begun: set[asyncio.Task[None]] = set()

    async def rebuild(self, check: Check, tag: str) -> bool:
        """Give a budget its counter; False when nobody knows what was spent. Raises `StoreAway`."""
        task = self._running.get(check.key)
        if task is None:
            task = self._running[check.key] = asyncio.create_task(self._rebuild(check, tag))
            task.add_done_callback(lambda _: self._running.pop(check.key, None))
        return await asyncio.shield(task)

    def begin(self, check: Check, tag: str) -> None:
        """Rebuild a budget nobody waits for, if that can be done now."""
        task = spawn("budget-watched", self._attempt(check, tag))
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)

    async def _attempt(self, check: Check, tag: str) -> None:
        try:
            await self.rebuild(check, tag)
        except (StoreAway, Refused, OSError, TimeoutError):
            log.warning("budget not rebuilt")

    async def _rebuild(self, check: Check, tag: str) -> bool:
        if self._spent is None or check.since is None:
            return False
        spent = await self._spent.spent(
            check.scope, check.spent_by, check.since, check.spent_in, check.spent_on, check.unit
        )
        if spent is None:
            return False
        expires_ms = check.expires_ms + GRACE_MS if check.expires_ms else 0
        # Sent together, so that no call of this replica finds the counter without what others hold of it.
        seeding = self._store.seed(check.key, spent, expires_ms)
        await asyncio.gather(seeding, self._keep(None if check.of_all else tag))
        return True


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
