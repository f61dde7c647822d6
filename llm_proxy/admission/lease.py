"""What an admitted call holds until it is settled, and the queue of settlements to the limits store.

Invariants: `settle` counts once, enqueues and never waits or raises; `wait_settled` waits until the store
has it, at most its timeout; one batch a tenant is under way, sent again until the store has it, and counted
once. While the store is unreachable, slots, token windows and reservations may be dropped (they expire),
money spent never is.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, NamedTuple, Protocol

from llm_proxy.admission.limiter import (
    UNKNOWN,
    LimitCheck,
    LimiterBackend,
    LimiterRequest,
    LimiterResult,
    LimiterUnavailable,
    SettlementEntry,
)
from llm_proxy.admission.loop_guard import GuardVerdict
from llm_proxy.admission.memory_limiter import check_verdict
from llm_proxy.background import BackgroundLoop, spawn
from llm_proxy.quantities import NOTHING, QUANTITY_OF_UNIT, TURNS, Quantities

log = logging.getLogger(__name__)

RETRY_INTERVAL_S = 0.25
MAX_BATCH = 500
MAX_PERISHABLE = 50_000
"""Entries kept per tenant while the store is unreachable; of more, only what was spent, by budget."""

SettledFuture = asyncio.Future[None]
RawHeaders = tuple[tuple[bytes, bytes], ...]
NEW_BUDGETS_TIMEOUT_S = 0.5
"""The maximum time that the end of a call waits for budgets created while it ran."""


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
        self._number = 0
        self._wakeup = asyncio.Event()
        self._loop = BackgroundLoop("settlements", self._step)

    @property
    def pending(self) -> int:
        """The number of entries the store does not have yet."""
        sending = sum(len(entries) for _, entries, _ in self._sending.values())
        return sending + sum(len(one.entries) for one in self._batches.values())

    def enqueue(self, tag: str, entries: Iterable[SettlementEntry]) -> SettledFuture:
        """Enqueues entries, sent at once; the future is done after the first attempt, also a failed one."""
        batch = self._batches.get(tag)
        if batch is None:
            batch = self._batches[tag] = _Batch(asyncio.get_running_loop().create_future())
        for entry in entries:
            batch.add(entry)
        if len(batch.entries) > MAX_PERISHABLE:
            batch.shrink()
        self._wakeup.set()
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
        for tag in [*self._batches]:
            if tag not in self._sending:
                self._sending[tag] = self._next_batch(tag)
        results = await asyncio.gather(*(self._send(tag) for tag in [*self._sending]))
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

    async def _send(self, tag: str) -> bool:
        number, entries, settled = self._sending[tag]
        try:
            await self._backend.settle(f"lp:{tag}:settled:{self._replica}", number, entries)
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
            if self.pending:
                self._wakeup.set()


class SettledUsage(NamedTuple):
    """What a call used; None is unknown.

    Attributes:
        provider: The provider that served it; None also when none did.
        quantities: What it used beside tokens.
        from_cache: Its answer came from the response cache: it used nothing, and is a turn of its run.
    """

    tokens: int | None
    cost_nano_usd: int | None
    provider: str | None = None
    quantities: Quantities | None = NOTHING
    from_cache: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """What one limits store counted for a call, and where it is settled."""

    request: LimiterRequest
    result: LimiterResult
    backend: LimiterBackend
    settlements: SettlementQueue

    @property
    def has_budget(self) -> bool:
        """Whether a budget may count the call."""
        return "budget" in self.request.plan.kinds or bool(self.request.plan.fallback_checks)

    def enqueue(self, entries: Iterable[SettlementEntry]) -> SettledFuture:
        """Enqueues entries of this reservation; see `SettlementQueue.enqueue`."""
        return self.settlements.enqueue(self.request.plan.hash_tag, entries)

    def settlement_entries(self, usage: SettledUsage) -> Iterator[SettlementEntry]:
        """The settlement by what the call used; counters of providers that did not serve it keep nothing."""
        second = self.result.now_ms // 1000
        running = self.result.running or (0,) * len(self.request.amounts)
        rows = zip(self.request.plan.checks, self.request.amounts, self.result.used, running, strict=True)
        for check, amount, used, calls in rows:
            if check.kind == "tokens":
                idle = usage.provider is not None and not _serves(check, usage.provider)
                counted = 0 if idle else usage.tokens
                # A shadow check that would have rejected has counted nothing.
                if check_verdict(check, amount, (used, 0, calls, 0)) == "fits":
                    more = 0 if counted is None else counted - amount
                    yield SettlementEntry("tokens", check.key, second, more, self.request.lease_id)
            elif check.kind == "budget":
                counted = _counted(check, amount, usage, everywhere=True)
                yield SettlementEntry(
                    check.settlement_kind, check.key, amount=counted, lease_id=self.request.lease_id
                )
            elif check.kind == "parallel":
                yield SettlementEntry("parallel", check.key, lease_id=self.request.lease_id)
        for check in self.request.plan.fallback_checks:  # of a provider that served the call as a fallback
            if check.spender_id == usage.provider and check.kind == "tokens":
                yield SettlementEntry("tokens", check.key, second, usage.tokens or 0)
            elif check.spender_id == usage.provider:
                counted = _counted(check, 0, usage, everywhere=False)
                yield SettlementEntry("budget", check.key, amount=counted, lease_id=self.request.lease_id)

    def undo_entries(self) -> Iterator[SettlementEntry]:
        """The settlement of a call that never ran: no budget counts it, not even one of requests."""
        for entry in self.settlement_entries(SettledUsage(0, 0)):
            yield replace(entry, amount=0) if entry.kind in {"budget", "run"} else entry

    def correction_entries(
        self, before: SettledUsage, after: SettledUsage, known_ms: int
    ) -> Iterator[SettlementEntry]:
        """What budgets count more, or less, once `after` is known to be true instead of `before`.

        `known_ms`: when the ledger did not have `after` yet.
        """
        own, others = (
            zip(self.request.plan.checks, self.request.amounts, strict=True),
            zip(self.request.plan.fallback_checks, repeat(0)),
        )
        for checks, everywhere in ((own, True), (others, False)):
            for check, amount in checks:
                if check.kind == "budget":
                    was, now = (
                        _counted(check, amount, one, everywhere=everywhere) for one in (before, after)
                    )
                    if was != now:
                        yield SettlementEntry(check.settlement_kind, check.key, known_ms, now - was)

    def renewal_entries(self) -> Iterator[SettlementEntry]:
        """The slots and the money it holds, for renewal."""
        for check, amount, used in zip(
            self.request.plan.checks, self.request.amounts, self.result.used, strict=True
        ):
            if check.kind == "parallel" and used < check.limit:
                yield SettlementEntry("parallel", check.key, lease_id=self.request.lease_id)
            elif check.kind == "budget" and used != UNKNOWN:
                yield SettlementEntry(
                    check.settlement_kind, check.key, amount=amount, lease_id=self.request.lease_id
                )
            elif check.kind == "duration":
                yield SettlementEntry("duration", check.key)


def _serves(check: LimitCheck, provider: str) -> bool:
    """Whether a check counts what a provider served."""
    return check.scope != "provider" or check.spender_id == provider


def _counted(check: LimitCheck, amount: int, used: SettledUsage, *, everywhere: bool) -> int:
    """What a budget counts of a call; with `everywhere` also while its provider is unknown."""
    if not (everywhere if used.provider is None else _serves(check, used.provider)):
        return 0
    if check.unit in QUANTITY_OF_UNIT:
        counted = used.quantities and used.quantities.of_unit(check.unit)
    else:
        turns = 1 if used.from_cache else used.tokens and 1
        counted = {"usd": used.cost_nano_usd, "tokens": used.tokens, "requests": 1, TURNS: turns}[check.unit]
    return amount if counted is None else counted


class ActiveLeases:
    """The calls that hold a slot or money now, for renewal."""

    def __init__(self) -> None:
        self.reservations: dict[str, Reservation] = {}
        self._on_settled: Callable[[Reservation], None] | None = None

    def watch_spending(self, settled: Callable[[Reservation], None]) -> None:
        """Calls `settled` for every call that a budget counts, at its settlement and each correction."""
        self._on_settled = settled

    def add(self, reservation: Reservation) -> None:
        """Adds what a call holds."""
        if not reservation.request.plan.kinds.isdisjoint({"parallel", "budget", "duration"}):
            self.reservations[reservation.request.lease_id] = reservation

    def remove(self, reservation: Reservation) -> None:
        """Removes what a call held."""
        self.reservations.pop(reservation.request.lease_id, None)
        self.budgets_changed(reservation)

    def budgets_changed(self, reservation: Reservation) -> None:
        """Reports that what a call spent has changed."""
        if self._on_settled is not None and reservation.has_budget:
            self._on_settled(reservation)

    def renewal_entries(self) -> dict[tuple[LimiterBackend, str], list[tuple[Reservation, SettlementEntry]]]:
        """What calls hold, by store and hash tag."""
        found: dict[tuple[LimiterBackend, str], list[tuple[Reservation, SettlementEntry]]] = {}
        for reservation in self.reservations.values():
            entries = ((reservation, entry) for entry in reservation.renewal_entries())
            found.setdefault((reservation.backend, reservation.request.plan.hash_tag), []).extend(entries)
        return found


CountInNewBudgets = Callable[
    [tuple[Reservation, ...]], Coroutine[Any, Any, tuple[Reservation, int] | None] | None
]
"""Returns what budgets created during a call count of it, and when it ended; None: there are none."""


class GuardedTurn(Protocol):
    """A call under the loop guard (`run_guard`), as its lease ends it."""

    @property
    def verdict(self) -> GuardVerdict | None:
        """What was found; None for nothing."""
        ...

    def end(
        self, *, answered: bool, cost_nano_usd: int | None
    ) -> tuple[SettlementQueue, SettledFuture] | None:
        """Notes how the call ended; returns queue and future of its settlement, if the store gets one."""
        ...


class Lease:
    """What an admitted call holds: headers for its response, and its settlement.

    Attributes:
        headers: The caller's rate limit headers.
        usage: What it was settled by; None until it is.
        would_reject: The checks in shadow mode that would have rejected it, as `scope:kind`; None for none.
        guarded: The call as the loop guard sees it; None where that is off.
    """

    __slots__ = (
        "_count_in_new_budgets", "_counting", "_leases", "_open", "_pending_futures", "_reservations",
        "guarded", "headers", "usage", "would_reject",
    )  # fmt: skip

    def __init__(
        self,
        headers: RawHeaders,
        reservations: tuple[Reservation, ...],
        leases: ActiveLeases,
        would_reject: str | None = None,
        count_in_new_budgets: CountInNewBudgets | None = None,
        guarded: GuardedTurn | None = None,
    ) -> None:
        self.headers = headers
        self.guarded = guarded
        self.would_reject = would_reject
        self._reservations = reservations
        self._leases = leases
        self._count_in_new_budgets = count_in_new_budgets
        self._counting: asyncio.Task[None] | None = None
        self._open = True
        self._pending_futures: list[tuple[SettlementQueue, SettledFuture]] = []
        self.usage: SettledUsage | None = None
        if reservations:
            leases.add(reservations[0])

    def settle(
        self,
        tokens: int | None,
        cost_nano_usd: int | None,
        provider: str | None = None,
        quantities: Quantities | None = NOTHING,
        *,
        from_cache: bool = False,
        answered: bool = False,
    ) -> None:
        """Replaces what was reserved by what was used, as far as known, and releases the slot; idempotent.

        `provider` is the one that served; None when none did, or it is unknown. `answered`: the caller has
        the whole answer.
        """
        if not self._open:
            return
        self._open = False
        self.usage = SettledUsage(tokens, cost_nano_usd, provider, quantities, from_cache)
        for reservation in self._reservations:
            self._leases.remove(reservation)
            entries = [*reservation.settlement_entries(self.usage)]
            if entries:
                self._pending_futures.append((reservation.settlements, reservation.enqueue(entries)))
        if self.guarded is not None:
            ended = self.guarded.end(answered=answered, cost_nano_usd=cost_nano_usd)
            self._pending_futures += () if ended is None else (ended,)
        if (
            self._count_in_new_budgets is not None
            and (counting := self._count_in_new_budgets(self._reservations)) is not None
        ):
            self._counting = spawn("budgets-laid-meanwhile", self._count_in(counting))

    async def _count_in(self, counting: Coroutine[Any, Any, tuple[Reservation, int] | None]) -> None:
        """Counts the call in budgets created while it ran, unless the ledger already counts it there."""
        found = await counting
        if found is None or self.usage is None:
            return
        reservation, known_ms = found
        self._reservations = (*self._reservations, reservation)
        entries = [replace(entry, at=known_ms) for entry in reservation.settlement_entries(self.usage)]
        self._pending_futures.append((reservation.settlements, reservation.enqueue(entries)))
        self._leases.budgets_changed(reservation)

    @property
    def has_budget(self) -> bool:
        """Whether a budget counts the call."""
        return self._counting is not None or any(one.has_budget for one in self._reservations)

    def correct(self, after: SettledUsage, known_ms: int) -> None:
        """Corrects what the call was settled by; see `Reservation.correction_entries`."""
        before = self.usage
        if before is None:
            return
        # The ledger may know who served a failed call and nothing it used: then what was settled stays.
        tokens = before.tokens if after.tokens is None else after.tokens
        cost_nano_usd = before.cost_nano_usd if after.cost_nano_usd is None else after.cost_nano_usd
        quantities = after.quantities or before.quantities
        self.usage = after = SettledUsage(
            tokens, cost_nano_usd, after.provider, quantities, before.from_cache
        )
        for reservation in self._reservations:
            if entries := [*reservation.correction_entries(before, after, known_ms)]:
                reservation.enqueue(entries)
                self._leases.budgets_changed(reservation)

    async def wait_settled(self) -> None:
        """Waits until the store has the settlement, so that this call no longer holds anything."""
        if self._counting is not None:
            await asyncio.wait([self._counting], timeout=NEW_BUDGETS_TIMEOUT_S)
        while self._pending_futures:
            queue, future = self._pending_futures.pop()
            await queue.wait_settled(future)
