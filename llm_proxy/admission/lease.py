"""What an admitted call holds until it is settled, and the queue of settlements to the limits store.

Invariants: `settle` counts once, enqueues and never waits or raises; `settled` waits until the store has
it, at most its timeout; one batch a tenant is under way, sent again until the store has it, and counted
once. While the store is unreachable, slots, token windows and reservations may be dropped (they expire),
money spent never is.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, NamedTuple

from llm_proxy.admission.limiter import (
    UNKNOWN,
    LimitCheck,
    LimiterBackend,
    LimiterResult,
    LimiterUnavailable,
    LimitPlan,
    SettlementEntry,
)
from llm_proxy.admission.memory_limiter import check_verdict
from llm_proxy.background import BackgroundLoop, spawn

log = logging.getLogger(__name__)

RETRY_INTERVAL_S = 0.25
MAX_BATCH = 500
MAX_PERISHABLE = 50_000
"""Entries kept per tenant while the store is away; of more, only what was spent, by budget."""

SettledFuture = asyncio.Future[None]


@dataclass(slots=True)
class _Batch:
    """What is to be settled for one tenant next, and the future that is done when it was sent."""

    settled: SettledFuture
    entries: dict[tuple[str, str, int, str, bool], SettlementEntry] = field(
        default_factory=dict[tuple[str, str, int, str, bool], SettlementEntry]
    )

    def add(self, entry: SettlementEntry) -> None:
        rises = entry.amount > 0 if entry.kind == "tokens" else True
        key = entry.kind, entry.key, entry.at, entry.lease_id, rises
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
                self.add(replace(entry, lease_id=""))


class SettlementQueue:
    """What is to be settled, by tenant."""

    def __init__(self, store: LimiterBackend, replica: str, timeout_s: float) -> None:
        self._store = store
        self._replica = replica
        self._patience_s = timeout_s
        self._gathered: dict[str, _Batch] = {}
        self._sending: dict[str, tuple[int, tuple[SettlementEntry, ...], SettledFuture]] = {}
        self._number = 0
        self._noted = asyncio.Event()
        self._loop = BackgroundLoop("settlements", self._step)

    @property
    def pending(self) -> int:
        """Entries the store does not have yet."""
        sending = sum(len(entries) for _, entries, _ in self._sending.values())
        return sending + sum(len(one.entries) for one in self._gathered.values())

    def enqueue(self, tag: str, entries: Iterable[SettlementEntry]) -> SettledFuture:
        """Settle at once; the future is done when the store has it, or has not taken it at the first try."""
        gathered = self._gathered.get(tag)
        if gathered is None:
            gathered = self._gathered[tag] = _Batch(asyncio.get_running_loop().create_future())
        for entry in entries:
            gathered.add(entry)
        if len(gathered.entries) > MAX_PERISHABLE:
            gathered.shrink()
        self._noted.set()
        return gathered.settled

    async def wait_settled(self, noted: SettledFuture) -> None:
        """Wait until the store has what was noted; not for a store that is away."""
        if self._store.is_available and not noted.done():
            await asyncio.wait([noted], timeout=self._patience_s)

    async def start(self) -> None:
        """Begin to send."""
        self._loop.start()

    async def stop(self, within_s: float = 2.0) -> None:
        """Send what is left, if the store takes it in time."""
        await self._loop.stop()
        try:
            async with asyncio.timeout(within_s):
                while self.pending and await self.flush():
                    pass
        except TimeoutError:
            pass
        if self.pending:
            log.error("settlements lost at the end: %d", self.pending)

    async def flush(self) -> bool:
        """Send what was gathered; False when the store did not take all of it."""
        for tag in [*self._gathered]:
            if tag not in self._sending:
                self._sending[tag] = self._next(tag)
        results = await asyncio.gather(*(self._send(tag) for tag in [*self._sending]))
        return all(results)

    def _next(self, tag: str) -> tuple[int, tuple[SettlementEntry, ...], SettledFuture]:
        gathered = self._gathered.pop(tag)
        entries, settled = tuple(gathered.entries.values()), gathered.settled
        if len(entries) > MAX_BATCH:
            gathered.entries = dict([*gathered.entries.items()][MAX_BATCH:])
            self._gathered[tag] = gathered
            settled = asyncio.get_running_loop().create_future()
        self._number += 1
        return self._number, entries[:MAX_BATCH], settled

    async def _send(self, tag: str) -> bool:
        number, entries, settled = self._sending[tag]
        try:
            await self._store.settle(f"lp:{tag}:settled:{self._replica}", number, entries)
        except LimiterUnavailable:
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
                await asyncio.sleep(RETRY_INTERVAL_S)
        finally:
            if self.pending:
                self._noted.set()


RawHeaders = tuple[tuple[bytes, bytes], ...]
NEW_BUDGETS_TIMEOUT_S = 0.5
"""So long the end of a call waits at most to be counted by budgets laid down meanwhile."""


class SettledUsage(NamedTuple):
    """What a call used; None where nobody knows.

    Attributes:
        provider: Who served it; None too when nobody did.
    """

    tokens: int | None
    cost_nano_usd: int | None
    provider: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """What one store counted for a call, and where to settle it."""

    plan: LimitPlan
    amounts: tuple[int, ...]
    result: LimiterResult
    lease_id: str
    backend: LimiterBackend
    settlements: SettlementQueue

    def settlement_entries(self, used_up: SettledUsage) -> Iterator[SettlementEntry]:
        """The settlement by what the call used; no other provider's counters than its own keep anything."""
        second = self.result.now_ms // 1000
        running = self.result.running or (0,) * len(self.amounts)
        rows = zip(self.plan.checks, self.amounts, self.result.used, running, strict=True)
        for check, want, used, calls in rows:
            if check.kind == "tokens":
                idle = used_up.provider is not None and not _serves(check, used_up.provider)
                counted = 0 if idle else used_up.tokens
                # Not taken, it only watched, and would have refused.
                if check_verdict(check, want, (used, 0, calls, 0)) == "fits":
                    more = 0 if counted is None else counted - want
                    yield SettlementEntry("tokens", check.key, second, more, self.lease_id)
            elif check.kind == "budget":
                amount = _counted(check, want, used_up, everywhere=True)
                yield SettlementEntry("budget", check.key, amount=amount, lease_id=self.lease_id)
            elif check.kind == "parallel":
                yield SettlementEntry("parallel", check.key, lease_id=self.lease_id)
        for check in self.plan.fallback_checks:  # of a provider that served it as a fallback
            if check.spender_id == used_up.provider and check.kind == "tokens":
                yield SettlementEntry("tokens", check.key, second, used_up.tokens or 0)
            elif check.spender_id == used_up.provider:
                amount = _counted(check, 0, used_up, everywhere=False)
                yield SettlementEntry("budget", check.key, amount=amount, lease_id=self.lease_id)

    def undo_entries(self) -> Iterator[SettlementEntry]:
        """The settlement of a call that never was: no budget counts it, not even one of calls."""
        for entry in self.settlement_entries(SettledUsage(0, 0)):
            yield replace(entry, amount=0) if entry.kind == "budget" else entry

    def correction_entries(
        self, before: SettledUsage, after: SettledUsage, known_ms: int
    ) -> Iterator[SettlementEntry]:
        """What budgets count more, or less, when one thing was settled and another is true.

        `known_ms`: when the ledger did not have the truth yet.
        """
        own, others = (
            zip(self.plan.checks, self.amounts, strict=True),
            zip(self.plan.fallback_checks, repeat(0)),
        )
        for checks, everywhere in ((own, True), (others, False)):
            for check, want in checks:
                if check.kind == "budget":
                    was, is_now = (
                        _counted(check, want, one, everywhere=everywhere) for one in (before, after)
                    )
                    if was != is_now:
                        yield SettlementEntry("budget", check.key, known_ms, is_now - was)

    def renewal_entries(self) -> Iterator[SettlementEntry]:
        """The parallel places and the money held, as they are kept."""
        for check, want, used in zip(self.plan.checks, self.amounts, self.result.used, strict=True):
            if check.kind == "parallel" and used < check.limit:
                yield SettlementEntry("parallel", check.key, lease_id=self.lease_id)
            elif check.kind == "budget" and used != UNKNOWN:
                yield SettlementEntry("budget", check.key, amount=want, lease_id=self.lease_id)


def _serves(check: LimitCheck, provider: str) -> bool:
    """Whether a check counts what a provider served."""
    return check.scope != "provider" or check.spender_id == provider


def _counted(check: LimitCheck, want: int, used: SettledUsage, *, everywhere: bool) -> int:
    """What a budget counts of a call; `everywhere` also while nobody knows which provider served it."""
    if not (everywhere if used.provider is None else _serves(check, used.provider)):
        return 0
    counted = {"usd": used.cost_nano_usd, "tokens": used.tokens, "requests": 1}[check.unit]
    return want if counted is None else counted


class ActiveLeases:
    """The calls that hold a parallel place or money now, so that it can be kept."""

    def __init__(self) -> None:
        self.reservations: dict[str, Reservation] = {}
        self._settled: Callable[[Reservation], None] | None = None

    def watch_spending(self, settled: Callable[[Reservation], None]) -> None:
        """From now on tell of settled calls under a budget, and of those that are corrected later."""
        self._settled = settled

    def add(self, taken: Reservation) -> None:
        """A call holds what the store counted for it."""
        if not taken.plan.kinds.isdisjoint({"parallel", "budget"}):
            self.reservations[taken.lease_id] = taken

    def remove(self, taken: Reservation) -> None:
        """A call holds nothing any more."""
        self.reservations.pop(taken.lease_id, None)
        self.budgets_changed(taken)

    def budgets_changed(self, taken: Reservation) -> None:
        """What a call spent has changed."""
        if self._settled is not None and ("budget" in taken.plan.kinds or taken.plan.fallback_checks):
            self._settled(taken)

    def renewal_entries(self) -> dict[tuple[LimiterBackend, str], list[tuple[Reservation, SettlementEntry]]]:
        """What is held, by store and the tenant's tag."""
        found: dict[tuple[LimiterBackend, str], list[tuple[Reservation, SettlementEntry]]] = {}
        for taken in self.reservations.values():
            entries = ((taken, entry) for entry in taken.renewal_entries())
            found.setdefault((taken.backend, taken.plan.hash_tag), []).extend(entries)
        return found


CountInNewBudgets = Callable[
    [tuple[Reservation, ...]], Coroutine[Any, Any, tuple[Reservation, int] | None] | None
]
"""What budgets laid down meanwhile count of a settled call, and when it was; None: nothing changed."""


class Lease:
    """A call's place in the world: headers to tell of it, and its end.

    Attributes:
        headers: Where the caller stands, for the response.
        usage: What it was settled by; None while it is not.
        would_reject: The checks that only watched and would have refused, as `scope:kind`; None for none.
    """

    __slots__ = (
        "_counting", "_living", "_noted", "_open", "_relaid", "_taken", "headers", "usage", "would_reject"
    )  # fmt: skip

    def __init__(
        self,
        headers: RawHeaders,
        taken: tuple[Reservation, ...],
        living: ActiveLeases,
        would_refuse: str | None = None,
        relaid: CountInNewBudgets | None = None,
    ) -> None:
        self.headers = headers
        self.would_reject = would_refuse
        self._taken = taken
        self._living = living
        self._relaid = relaid
        self._counting: asyncio.Task[None] | None = None
        self._open = True
        self._noted: list[tuple[SettlementQueue, SettledFuture]] = []
        self.usage: SettledUsage | None = None
        if taken:
            living.add(taken[0])

    def settle(self, tokens: int | None, cost_nano_usd: int | None, provider: str | None = None) -> None:
        """Replace what was reserved by the truth, as far as it is known, and give the place back.

        `provider` is who served; None when nobody did, or nobody knows.
        """
        if not self._open:
            return
        self._open = False
        self.usage = SettledUsage(tokens, cost_nano_usd, provider)
        for taken in self._taken:
            self._living.remove(taken)
            entries = [*taken.settlement_entries(self.usage)]
            if entries:
                self._noted.append(
                    (taken.settlements, taken.settlements.enqueue(taken.plan.hash_tag, entries))
                )
        if self._relaid is not None and (counting := self._relaid(self._taken)) is not None:
            self._counting = spawn("budgets-laid-meanwhile", self._count_also(counting))

    async def _count_also(self, counting: Coroutine[Any, Any, tuple[Reservation, int] | None]) -> None:
        """Count the call in budgets that were laid down while it ran, unless the ledger told them of it."""
        found = await counting
        if found is None or self.usage is None:
            return
        taken, known_ms = found
        self._taken = (*self._taken, taken)
        entries = [replace(entry, at=known_ms) for entry in taken.settlement_entries(self.usage)]
        self._noted.append((taken.settlements, taken.settlements.enqueue(taken.plan.hash_tag, entries)))
        self._living.budgets_changed(taken)

    @property
    def has_budget(self) -> bool:
        """Whether a budget counts it."""
        return self._counting is not None or any(
            "budget" in taken.plan.kinds or taken.plan.fallback_checks for taken in self._taken
        )

    def correct(self, after: SettledUsage, known_ms: int) -> None:
        """Correct what it was settled by, in the budgets that have it; as in `Reservation.corrections`."""
        before = self.usage
        if before is None:
            return
        # The ledger may know who served a failed call and nothing it used: then what was settled stays.
        tokens = before.tokens if after.tokens is None else after.tokens
        cost_nano_usd = before.cost_nano_usd if after.cost_nano_usd is None else after.cost_nano_usd
        self.usage = after = SettledUsage(tokens, cost_nano_usd, after.provider)
        for taken in self._taken:
            if entries := [*taken.correction_entries(before, after, known_ms)]:
                taken.settlements.enqueue(taken.plan.hash_tag, entries)
                self._living.budgets_changed(taken)

    async def wait_settled(self) -> None:
        """Wait until the store has it: what this caller asks next then meets nothing of this call."""
        if self._counting is not None:
            await asyncio.wait([self._counting], timeout=NEW_BUDGETS_TIMEOUT_S)
        while self._noted:
            desk, noted = self._noted.pop()
            await desk.wait_settled(noted)
