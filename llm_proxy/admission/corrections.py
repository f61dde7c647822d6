"""What budgets count of a call after its settlement: late exact figures, and budgets made while it ran.

Invariants: a correction is counted once, in the counters that have the estimate; a budget that covered a
call from its beginning counts it once, in the period the call began in. Bounded memory, at most
`PROBE_TIMEOUT_S` a call; the ledger is asked only while a correction is awaited. Money: integer nano-
dollars.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from llm_proxy.admission.lease import CountInNewBudgets, Lease, Reservation, SettlementQueue
from llm_proxy.admission.limit_planner import LimitPlanner
from llm_proxy.admission.limiter import UNKNOWN, LimiterBackend, LimiterResult
from llm_proxy.admission.policy_watcher import PolicyWatcher
from llm_proxy.admission.renewal import SpendSource
from llm_proxy.background import BackgroundLoop
from llm_proxy.dialects import Call
from llm_proxy.errors import APIError
from llm_proxy.identity import Caller

CORRECTION_INTERVAL_S = 15.0
MAX_AGE_S = 1_200.0
MAX_WAITING, CORRECTION_BATCH = 10_000, 500
NO_PROVIDER = ""
"""The provider of a call that nobody is known to have served."""


@dataclass(slots=True)
class _Estimated:
    """A settled estimate; at `known_ms` the ledger did not know better."""

    lease: Lease
    since_s: float
    known_ms: int


class Corrections:
    """Settled estimates that may still be corrected.

    Attributes:
        max_age_s: So long the ledger is asked about a call.
    """

    def __init__(
        self, spent: SpendSource | None, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        """`clock_ms` is the store's."""
        self._spent = spent
        self._clock_ms = clock_ms
        self.max_age_s = MAX_AGE_S
        self._waiting: dict[UUID, _Estimated] = {}
        self._loop = BackgroundLoop("budget-corrections", self.step, every_s=CORRECTION_INTERVAL_S)

    async def start(self) -> None:
        """Begin to look for corrections."""
        if self._spent is not None:
            self._loop.start()

    async def stop(self) -> None:
        """Stop."""
        await self._loop.stop()

    def add(self, request_id: UUID, lease: Lease) -> None:
        """A call was settled by an estimate."""
        if self._spent is None or not lease.has_budget:
            return
        if len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[request_id] = _Estimated(lease, time.monotonic(), self._clock_ms())

    async def step(self) -> None:
        """Correct what can be corrected now."""
        waiting = [*self._waiting]
        for at in range(0, len(waiting), CORRECTION_BATCH):
            await self._correct(waiting[at : at + CORRECTION_BATCH])
        now_s = time.monotonic()
        for request_id in [
            one for one, kept in self._waiting.items() if now_s - kept.since_s > self.max_age_s
        ]:
            kept = self._waiting.pop(request_id)
            if kept.lease.usage is not None and kept.lease.usage.provider is None:
                kept.lease.correct(kept.lease.usage._replace(provider=NO_PROVIDER), kept.known_ms)

    async def _correct(self, requests: Sequence[UUID]) -> None:
        assert self._spent is not None  # noqa: S101 -- nothing waits without
        asked_ms = self._clock_ms()
        known = await self._spent.exact_usage(requests)
        if known is None:
            return
        for request_id in requests:
            kept = self._waiting.get(request_id)
            if kept is None:
                continue
            if request_id in known:
                used, exact = known[request_id]
                kept.lease.correct(used, kept.known_ms)
                if exact:
                    del self._waiting[request_id]
            kept.known_ms = asked_ms


RefreshCaller = Callable[[Caller, int], Awaitable[Caller]]


@dataclass(frozen=True, slots=True)
class NewBudgets:
    """One replica's rules and counters, asked about calls that end."""

    watcher: PolicyWatcher
    planner: LimitPlanner
    backend: LimiterBackend
    settlements: SettlementQueue
    refresh_caller: RefreshCaller | None
    clock_ms: Callable[[], int]

    def call_started(self, caller: Caller, call: Call) -> CountInNewBudgets:
        """From now on, when a call begins: what is asked when it has ended."""
        began_ms, tenant = self.clock_ms(), caller.tenant or ""
        epoch = self.watcher.epoch_of(tenant)

        def relaying(
            before: tuple[Reservation, ...],
        ) -> Coroutine[Any, Any, tuple[Reservation, int] | None] | None:
            if self.watcher.epoch_of(tenant) <= epoch:
                return None
            return self._counted(caller, call, (began_ms, self.clock_ms()), before)

        return relaying

    async def _counted(
        self, caller: Caller, call: Call, began_and_ended_ms: tuple[int, int], before: tuple[Reservation, ...]
    ) -> tuple[Reservation, int] | None:
        """What the budgets of now count, without those that counted the call `before`."""
        began_ms, ended_ms = began_and_ended_ms
        current = caller
        if caller.kind == "virtual" and self.refresh_caller is not None:
            with contextlib.suppress(APIError):  # a key that has ended: the budgets of other scopes count
                current = await self.refresh_caller(caller, self.watcher.epoch_of(caller.tenant or ""))
        try:
            ask = self.planner.plan_request(current, call, "", reserve=False, at_ms=began_ms)
        except APIError:  # nobody knows the price, and so the cost
            return None
        counted = {check.key for one in before for check in (*one.plan.checks, *one.plan.fallback_checks)}
        new = [
            (check, want)
            for check, want in zip(ask.plan.checks, ask.amounts, strict=True)
            if check.kind == "budget" and check.key not in counted
        ]
        elsewhere = tuple(
            one for one in ask.plan.fallback_checks if one.kind == "budget" and one.key not in counted
        )
        if not new and not elsewhere:
            return None
        plan = replace(ask.plan, checks=tuple(check for check, _ in new), fallback_checks=elsewhere)
        answer = LimiterResult(0, began_ms, 0, (UNKNOWN,) * len(new))
        wants = tuple(want for _, want in new)
        return Reservation(plan, wants, answer, "", self.backend, self.settlements), ended_ms
