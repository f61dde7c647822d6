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

from llm_proxy.admission.fallback import FallbackLimiter
from llm_proxy.admission.lease import MAX_BATCH, ActiveLeases, Reservation, SettledUsage
from llm_proxy.admission.limit_planner import LEASE_TTL_MS
from llm_proxy.admission.limiter import LimitCheck, LimiterBackend, LimiterUnavailable, SettlementEntry
from llm_proxy.background import BackgroundLoop, spawn
from llm_proxy.errors import APIError
from llm_proxy.identity.caller import BudgetUnit, ScopeKind

log = logging.getLogger(__name__)

COUNTER_GRACE_MS = 86_400_000
"""A counter outlives its period by a day, for calls that settle after midnight."""


class SpendSource(Protocol):
    """What was spent, as the ledger has it."""

    async def fetch_spend(
        self,
        scope: ScopeKind,
        spender: str,
        since: datetime,
        tenant: str | None,
        group: str,
        unit: BudgetUnit,
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

    async def recent_answers(self) -> Sequence[tuple[str, int]] | None:
        """The completion tokens of all replicas' latest answers, by group asked; None when nobody knows."""
        ...

    async def exact_usage(self, requests: Sequence[UUID]) -> Mapping[UUID, tuple[SettledUsage, bool]] | None:
        """What is known of those of these calls that the sidecar's log told of; None while nobody can tell.

        With each, whether its figures are exact, or only who served it is known.
        """
        ...


class BudgetRebuilder:
    """Rebuilds missing counters, each once however many calls wait for it."""

    def __init__(
        self, store: LimiterBackend, spent: SpendSource | None, keep: Callable[[str | None], Awaitable[None]]
    ) -> None:
        """`keep` makes the reservations of running calls again: a tenant's, or all."""
        self._keep = keep
        self._store = store
        self._spent = spent
        self._running: dict[str, asyncio.Task[bool]] = {}
        self._begun: set[asyncio.Task[None]] = set()

    async def rebuild(self, check: LimitCheck, tag: str) -> bool:
        """Give a budget its counter; False when nobody knows what was spent. Raises `LimiterUnavailable`."""
        task = self._running.get(check.key)
        if task is None:
            task = self._running[check.key] = asyncio.create_task(self._rebuild(check, tag))
            task.add_done_callback(lambda _: self._running.pop(check.key, None))
        return await asyncio.shield(task)

    def rebuild_soon(self, check: LimitCheck, tag: str) -> None:
        """Rebuild a budget nobody waits for, if that can be done now."""
        task = spawn("budget-watched", self._attempt(check, tag))
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)

    async def _attempt(self, check: LimitCheck, tag: str) -> None:
        try:
            await self.rebuild(check, tag)
        except (LimiterUnavailable, APIError, OSError, TimeoutError):
            log.warning("budget not rebuilt")

    async def _rebuild(self, check: LimitCheck, tag: str) -> bool:
        if self._spent is None or check.period_start is None:
            return False
        spent = await self._spent.fetch_spend(
            check.scope,
            check.spender_id,
            check.period_start,
            check.spender_tenant,
            check.spender_group,
            check.unit,
        )
        if spent is None:
            return False
        expires_ms = check.period_end_ms + COUNTER_GRACE_MS if check.period_end_ms else 0
        # Sent together, so that no call of this replica finds the counter without what others hold of it.
        seeding = self._store.seed(check.key, spent, expires_ms)
        await asyncio.gather(seeding, self._keep(None if check.is_shared else tag))
        return True


HEARTBEAT_INTERVAL_S = 5.0


class Heartbeat:
    """Beats while the gateway runs."""

    def __init__(
        self, store: LimiterBackend, replica: str, living: ActiveLeases, outage: FallbackLimiter
    ) -> None:
        self._store = store
        self._replica = replica
        self._living = living
        self._outage = outage
        self._loop = BackgroundLoop("heartbeat", self.beat, every_s=HEARTBEAT_INTERVAL_S)

    async def start(self) -> None:
        """Begin."""
        await self._loop.run_once(self.beat)
        self._loop.start()

    async def stop(self) -> None:
        """Stop."""
        await self._loop.stop()

    async def beat(self) -> None:
        """Tell the other replicas that we live, and keep what our running calls hold."""
        try:
            self._outage.replicas = max(1, await self._store.heartbeat(self._replica))
            if self._store.is_available:  # every node of it
                self._outage.reset()
        except LimiterUnavailable:
            log.debug("heartbeat not heard")
        for (store, _), held in self._living.renewal_entries().items():
            try:
                await self._keep(store, held)
            except LimiterUnavailable:
                log.debug("leases not kept")

    async def renew(self, tag: str | None) -> None:
        """Keep what our running calls of a tenant, or of all, hold, at once; raises `LimiterUnavailable`."""
        for (store, one), held in self._living.renewal_entries().items():
            if store is self._store and tag in {None, one}:
                await self._keep(store, held)

    async def _keep(self, store: LimiterBackend, held: list[tuple[Reservation, SettlementEntry]]) -> None:
        for at in range(0, len(held), MAX_BATCH):
            some = held[at : at + MAX_BATCH]
            await store.renew(tuple(entry for _, entry in some), LEASE_TTL_MS)
            for taken, entry in some:
                if taken.lease_id not in self._living.reservations:  # it ended meanwhile, and holds nothing
                    taken.settlements.enqueue(taken.plan.hash_tag, (replace(entry, amount=0),))
