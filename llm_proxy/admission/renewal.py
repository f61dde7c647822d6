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
from llm_proxy.admission.lease import ActiveLeases, Reservation, SettledUsage
from llm_proxy.admission.limit_planner import LEASE_TTL_MS
from llm_proxy.admission.limiter import LimitCheck, LimiterBackend, LimiterUnavailable, SettlementEntry
from llm_proxy.admission.settlements import MAX_BATCH
from llm_proxy.background import BackgroundLoop, spawn
from llm_proxy.errors import APIError
from llm_proxy.identity.caller import BudgetUnit, ScopeKind

log = logging.getLogger(__name__)

COUNTER_GRACE_MS = 86_400_000
"""A counter outlives its period by a day, for calls that settle after midnight."""
HEARTBEAT_INTERVAL_S = 5.0


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
        """Returns what was spent since `since`, money in nano-dollars; None while unknown.

        Args:
            scope: The kind of spender.
            spender: Its id.
            since: Start of the period.
            tenant: Only what it spent in this tenant (empty for calls without one); None for all.
            group: Only what it spent on this model group; `*` for all.
            unit: What is counted.
        """
        ...

    async def recent_answers(self) -> Sequence[tuple[str, int]] | None:
        """Completion tokens of all replicas' recent answers, by requested group; None while unknown."""
        ...

    async def exact_usage(self, requests: Sequence[UUID]) -> Mapping[UUID, tuple[SettledUsage, bool]] | None:
        """Returns the usage of those of these calls that the sidecar's log has; None while it cannot be read.

        The flag says whether its figures are exact, or only its provider is known.
        """
        ...


class BudgetRebuilder:
    """Rebuilds missing budget counters, each once however many calls wait for it."""

    def __init__(
        self,
        backend: LimiterBackend,
        spend: SpendSource | None,
        renew: Callable[[str | None], Awaitable[None]],
    ) -> None:
        """`renew` takes the reservations of running calls again: a tenant's, or all."""
        self._renew = renew
        self._backend = backend
        self._spend_source = spend
        self._running: dict[str, asyncio.Task[bool]] = {}

    async def rebuild(self, check: LimitCheck, hash_tag: str) -> bool:
        """Gives a budget its counter; False when its spend is unknown. Raises `LimiterUnavailable`."""
        task = self._running.get(check.key)
        if task is None:
            task = self._running[check.key] = asyncio.create_task(self._rebuild(check, hash_tag))
            task.add_done_callback(lambda _: self._running.pop(check.key, None))
        return await asyncio.shield(task)

    def rebuild_soon(self, check: LimitCheck, hash_tag: str) -> None:
        """Rebuilds, in the background, a budget that no call waits for."""
        spawn("budget-watched", self._attempt(check, hash_tag))

    async def _attempt(self, check: LimitCheck, hash_tag: str) -> None:
        try:
            await self.rebuild(check, hash_tag)
        except (LimiterUnavailable, APIError, OSError, TimeoutError):
            log.warning("a budget cannot be rebuilt from the records")

    async def _rebuild(self, check: LimitCheck, hash_tag: str) -> bool:
        if self._spend_source is None or check.period_start is None:
            return False
        spend = await self._spend_source.fetch_spend(
            check.scope,
            check.spender_id,
            check.period_start,
            check.spender_tenant,
            check.spender_group,
            check.unit,
        )
        if spend is None:
            return False
        expires_ms = check.period_end_ms + COUNTER_GRACE_MS if check.period_end_ms else 0
        # Sent together, so that no call of this replica finds the counter without what others hold of it.
        seeding = self._backend.seed(check.key, spend, expires_ms)
        await asyncio.gather(seeding, self._renew(None if check.is_shared else hash_tag))
        return True


class Heartbeat:
    """Registers this replica in the limits store, and renews what its calls hold."""

    def __init__(
        self, backend: LimiterBackend, replica: str, leases: ActiveLeases, fallback: FallbackLimiter
    ) -> None:
        self._backend = backend
        self._replica = replica
        self._leases = leases
        self._fallback = fallback
        self._loop = BackgroundLoop("heartbeat", self.beat, every_s=HEARTBEAT_INTERVAL_S)

    async def start(self) -> None:
        """Beats once, then every `HEARTBEAT_INTERVAL_S` seconds."""
        await self._loop.run_once(self.beat)
        self._loop.start()

    async def stop(self) -> None:
        """Stops."""
        await self._loop.stop()

    async def beat(self) -> None:
        """Registers this replica as alive, and renews what its running calls hold."""
        try:
            self._fallback.replicas = max(1, await self._backend.heartbeat(self._replica))
            if self._backend.is_available:  # every node of it
                self._fallback.reset()
        except LimiterUnavailable:
            log.debug("the limits store did not take the heartbeat")
        for (backend, _), entries in self._leases.renewal_entries().items():
            try:
                await self._renew(backend, entries)
            except LimiterUnavailable:
                log.debug("the limits store did not renew leases")

    async def renew(self, hash_tag: str | None) -> None:
        """Renews what running calls of a tenant, or of all, hold, at once; raises `LimiterUnavailable`."""
        for (backend, store_tag), entries in self._leases.renewal_entries().items():
            if backend is self._backend and hash_tag in {None, store_tag}:
                await self._renew(backend, entries)

    async def _renew(
        self, backend: LimiterBackend, entries: list[tuple[Reservation, SettlementEntry]]
    ) -> None:
        for start in range(0, len(entries), MAX_BATCH):
            batch = entries[start : start + MAX_BATCH]
            await backend.renew(tuple(entry for _, entry in batch), LEASE_TTL_MS)
            for reservation, entry in batch:
                if reservation.request.lease_id not in self._leases.reservations:  # it ended meanwhile
                    reservation.enqueue((replace(entry, amount=0),))
