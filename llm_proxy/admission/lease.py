"""What an admitted call holds until it is settled.

Invariants: `settle` counts once, sends or enqueues, and never waits or raises; `wait_settled` waits until the
store has it, at most its timeout.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, NamedTuple, Protocol

from llm_proxy.admission.limiter import (
    SETTLED_KINDS,
    UNKNOWN,
    LimitCheck,
    LimiterBackend,
    LimiterRequest,
    LimiterResult,
    SettlementEntry,
)
from llm_proxy.admission.loop_guard import GuardVerdict
from llm_proxy.admission.memory_limiter import check_verdict
from llm_proxy.admission.settlements import SettledFuture, SettlementQueue
from llm_proxy.background import attempt, spawn
from llm_proxy.identity import Caller
from llm_proxy.quantities import NOTHING, QUANTITY_OF_UNIT, TURNS, Quantities

RawHeaders = tuple[tuple[bytes, bytes], ...]
NEW_BUDGETS_TIMEOUT_S = 0.5
"""The maximum time that the end of a call waits for budgets created while it ran."""


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

    @property
    def is_tight(self) -> bool:
        """Whether a limit that counts the call is more than half used: its caller's next call might not fit.

        That is while the store has not settled this one; where both fit, no answer waits for that.
        """
        if not self.request.plan.settles:
            return False
        rows = zip(
            self.request.plan.checks, self.request.amounts, self.result.used, self.result.extra, strict=False
        )
        for check, amount, used, held in rows:
            if check.kind in SETTLED_KINDS:
                taken = used + amount + (held if check.kind == "budget" else 0)
                if used == UNKNOWN or 2 * taken > check.limit:
                    return True
        return False

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


class LaterBudgets(Protocol):
    """The budgets that are created while a call runs."""

    @property
    def may_exist(self) -> bool:
        """Whether there may be any by now."""
        ...

    def reservation(
        self, reservations: tuple[Reservation, ...]
    ) -> Coroutine[Any, Any, tuple[Reservation, int] | None]:
        """Returns what they count of the call that ends now, and when that is; None: there are none."""
        ...


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
        caller: The caller that was admitted: as its key is since the newest change that the store told of.
        usage: What it was settled by; None until it is.
        would_reject: The checks in shadow mode that would have rejected it, as `scope:kind`; None for none.
        guarded: The call as the loop guard sees it; None where that is off.
    """

    __slots__ = (
        "_counting", "_later_budgets", "_leases", "_made_headers", "_make_headers",
        "_open", "_pending_futures", "_reservations", "caller", "guarded", "usage", "would_reject",
    )  # fmt: skip

    def __init__(
        self,
        caller: Caller,
        make_headers: Callable[[], RawHeaders],
        reservations: tuple[Reservation, ...],
        leases: ActiveLeases,
        would_reject: str | None = None,
        later_budgets: LaterBudgets | None = None,
        guarded: GuardedTurn | None = None,
    ) -> None:
        self.caller = caller
        self._make_headers = make_headers
        self._made_headers: RawHeaders | None = None
        self.guarded = guarded
        self.would_reject = would_reject
        self._reservations = reservations
        self._leases = leases
        self._later_budgets = later_budgets
        self._counting: asyncio.Task[None] | None = None
        self._open = True
        self._pending_futures: list[tuple[SettlementQueue, SettledFuture]] = []
        self.usage: SettledUsage | None = None
        if reservations:
            leases.add(reservations[0])

    @property
    def headers(self) -> RawHeaders:
        """The caller's rate limit headers, made when they are first read."""
        made = self._made_headers
        if made is None:
            made = self._made_headers = self._make_headers()
        return made

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
            attempt("settlements", self._leases.remove, reservation)
            attempt("settlements", self._settle, reservation, self.usage)
        if self.guarded is not None:
            attempt("settlements", self._end_turn, self.guarded, answered, cost_nano_usd)
        if (created := self._created_budgets) is not None:
            counting = created.reservation(self._reservations)
            self._counting = spawn("budgets-laid-meanwhile", self._count_in(counting))

    def _settle(self, reservation: Reservation, usage: SettledUsage) -> None:
        if reservation.request.plan.settles and (entries := [*reservation.settlement_entries(usage)]):
            self._pending_futures.append((reservation.settlements, reservation.enqueue(entries)))

    def _end_turn(self, guarded: GuardedTurn, answered: bool, cost_nano_usd: int | None) -> None:  # noqa: FBT001 -- a step
        if (ended := guarded.end(answered=answered, cost_nano_usd=cost_nano_usd)) is not None:
            self._pending_futures.append(ended)

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

    @property
    def settles(self) -> bool:
        """Whether its settlement changes anything; otherwise the time of it makes no difference."""
        return (
            self.guarded is not None
            or any(one.request.plan.settles for one in self._reservations)
            or self._created_budgets is not None
        )

    @property
    def _created_budgets(self) -> LaterBudgets | None:
        """The budgets created while the call ran; None if there can be none."""
        later = self._later_budgets
        return later if later is not None and later.may_exist else None

    @property
    def is_tight(self) -> bool:
        """Whether the caller's next call might meet this one; see `Reservation.is_tight`."""
        return (
            self.guarded is not None
            or self._counting is not None
            or len(self._reservations) > 1
            or any(one.is_tight for one in self._reservations)
        )

    async def wait_settled(self) -> None:
        """Waits until the store has the settlement, so that this call no longer holds anything."""
        if self._counting is not None:
            await asyncio.wait([self._counting], timeout=NEW_BUDGETS_TIMEOUT_S)
        while self._pending_futures:
            queue, future = self._pending_futures.pop()
            await queue.wait_settled(future)
