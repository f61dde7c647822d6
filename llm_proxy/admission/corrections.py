"""What budgets count of a call after its settlement: late exact figures, and budgets made while it ran.

Invariants: a correction is counted once, in the counters that have the estimate; a budget that covered a
call from its beginning counts it once, in the period the call began in. Bounded memory, at most
`MAX_AGE_S` a call; the ledger is queried only while a correction is awaited. Money: integer nano-
dollars.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from uuid import UUID

from llm_proxy.admission.lease import Lease, Reservation
from llm_proxy.admission.limit_planner import LimitPlanner
from llm_proxy.admission.limiter import UNKNOWN, LimiterBackend, LimiterResult
from llm_proxy.admission.renewal import SpendSource
from llm_proxy.admission.settlements import SettlementQueue
from llm_proxy.background import BackgroundLoop
from llm_proxy.dialects import Call
from llm_proxy.errors import APIError
from llm_proxy.identity import Caller, PolicyWatcher

CORRECTION_INTERVAL_S = 15.0
MAX_AGE_S = 1_200.0
MAX_WAITING, CORRECTION_BATCH = 10_000, 500
NO_PROVIDER = ""
"""The provider of a call that no provider is known to have served."""
RefreshCaller = Callable[[Caller, int], Awaitable[Caller]]


@dataclass(slots=True)
class _Estimated:
    """A settled estimate; at `known_ms` the ledger did not have better figures."""

    lease: Lease
    since_s: float
    known_ms: int


class Corrections:
    """The settled estimates that may still be corrected.

    Attributes:
        max_age_s: How long the ledger is queried about a call.
    """

    def __init__(
        self,
        spend_source: SpendSource | None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """`clock_ms` is the store's clock."""
        self._spend_source = spend_source
        self._clock_ms = clock_ms
        self.max_age_s = MAX_AGE_S
        self._estimates: dict[UUID, _Estimated] = {}
        self._loop = BackgroundLoop("budget-corrections", self.step, every_s=CORRECTION_INTERVAL_S)

    async def start(self) -> None:
        """Starts querying the ledger."""
        if self._spend_source is not None:
            self._loop.start()

    async def stop(self) -> None:
        """Stops querying the ledger."""
        await self._loop.stop()

    def add(self, request_id: UUID, lease: Lease) -> None:
        """Adds a call that was settled by an estimate."""
        if self._spend_source is None or not lease.has_budget:
            return
        if len(self._estimates) >= MAX_WAITING:
            del self._estimates[next(iter(self._estimates))]
        self._estimates[request_id] = _Estimated(lease, time.monotonic(), self._clock_ms())

    async def step(self) -> None:
        """Corrects the estimates for which the ledger has better figures."""
        request_ids = [*self._estimates]
        for at in range(0, len(request_ids), CORRECTION_BATCH):
            await self._correct(request_ids[at : at + CORRECTION_BATCH])
        now_s = time.monotonic()
        for request_id in [
            one for one, estimate in self._estimates.items() if now_s - estimate.since_s > self.max_age_s
        ]:
            estimate = self._estimates.pop(request_id)
            if estimate.lease.usage is not None and estimate.lease.usage.provider is None:
                estimate.lease.correct(estimate.lease.usage._replace(provider=NO_PROVIDER), estimate.known_ms)

    async def _correct(self, requests: Sequence[UUID]) -> None:
        assert self._spend_source is not None  # noqa: S101 -- nothing waits without
        queried_ms = self._clock_ms()
        usages = await self._spend_source.exact_usage(requests)
        if usages is None:
            return
        for request_id in requests:
            estimate = self._estimates.get(request_id)
            if estimate is None:
                continue
            if request_id in usages:
                used, is_exact = usages[request_id]
                estimate.lease.correct(used, estimate.known_ms)
                if is_exact:
                    del self._estimates[request_id]
            estimate.known_ms = queried_ms


@dataclass(frozen=True, slots=True)
class NewBudgets:
    """Counts a call in budgets that were created while it ran."""

    watcher: PolicyWatcher
    planner: LimitPlanner
    backend: LimiterBackend
    settlements: SettlementQueue
    refresh_caller: RefreshCaller | None
    clock_ms: Callable[[], int]

    def call_started(self, caller: Caller, call: Call) -> "BudgetsSince":
        """Returns the budgets that are created from now on, for the call that starts."""
        return BudgetsSince(self, caller, call, self.clock_ms(), self.watcher.epoch_of(caller.tenant or ""))

    async def reservation(
        self,
        caller: Caller,
        call: Call,
        began_and_ended_ms: tuple[int, int],
        reservations: tuple[Reservation, ...],
    ) -> tuple[Reservation, int] | None:
        """What the present budgets count of a call, without those that counted it in `reservations`."""
        began_ms, ended_ms = began_and_ended_ms
        current = caller
        if caller.kind == "virtual" and self.refresh_caller is not None:
            with contextlib.suppress(APIError):  # the key has ended; budgets of other scopes count
                current = await self.refresh_caller(caller, self.watcher.epoch_of(caller.tenant or ""))
        try:
            request = self.planner.plan_request(current, call, "", reserve=False, at_ms=began_ms)
        except APIError:  # its price is unknown, and so its cost
            return None
        counted = {
            check.key
            for one in reservations
            for check in (*one.request.plan.checks, *one.request.plan.fallback_checks)
        }
        new = [
            (check, amount)
            for check, amount in zip(request.plan.checks, request.amounts, strict=True)
            if check.kind == "budget" and check.key not in counted
        ]
        fallback_checks = tuple(
            one for one in request.plan.fallback_checks if one.kind == "budget" and one.key not in counted
        )
        if not new and not fallback_checks:
            return None
        plan = replace(request.plan, checks=tuple(check for check, _ in new), fallback_checks=fallback_checks)
        result = LimiterResult(0, began_ms, 0, (UNKNOWN,) * len(new))
        request = request._replace(plan=plan, amounts=tuple(amount for _, amount in new))
        return Reservation(request, result, self.backend, self.settlements), ended_ms


class BudgetsSince(NamedTuple):
    """The budgets created since a call began; `epoch` is its tenant's of then."""

    new_budgets: NewBudgets
    caller: Caller
    call: Call
    began_ms: int
    epoch: int

    @property
    def may_exist(self) -> bool:
        """Whether something of the tenant has changed."""
        return self.new_budgets.watcher.epoch_of(self.caller.tenant or "") > self.epoch

    def reservation(
        self, reservations: tuple[Reservation, ...]
    ) -> Coroutine[Any, Any, tuple[Reservation, int] | None]:
        """Returns what they count of the call that ends now, and when that is; None: there are none."""
        began_and_ended_ms = self.began_ms, self.new_budgets.clock_ms()
        return self.new_budgets.reservation(self.caller, self.call, began_and_ended_ms, reservations)
