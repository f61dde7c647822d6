"""Limits while the limits store is unreachable: each check's own policy decides.

`deny` rejects, `local` counts in this process against this replica's share, `allow` lets the call pass.
Invariants: a share is the limit divided by the replicas alive at the last heartbeat, at least 1, and what
the store admitted here in the last minute counts; a budget's share is of what was left when last known, 0
when never known (of a run's: all of it); money spent meanwhile is settled when the store is back.
"""

from dataclasses import replace

from llm_proxy.admission.lease import Reservation
from llm_proxy.admission.limiter import (
    ADMITTED,
    NO_EPOCH,
    UNKNOWN,
    LimitCheck,
    LimiterBackend,
    LimiterRequest,
    LimiterResult,
    LimitPlan,
)
from llm_proxy.admission.memory_backend import MemoryBackend
from llm_proxy.admission.memory_limiter import BudgetCounter
from llm_proxy.admission.rate_limit_response import DENIED_HEADERS, EnforcementState, reached_limit
from llm_proxy.admission.settlements import SettlementQueue
from llm_proxy.errors import StoreUnavailable

RETRY_AFTER_S = 1.0
MAX_BUDGETS = 50_000
MAX_MIRRORED_LIMIT = 600
"""Windows of larger limits are not mirrored: what an outage adds to them is small in comparison."""


class FallbackLimiter:
    """Limits calls without the store."""

    def __init__(self, timeout_s: float) -> None:
        """`timeout_s`: the longest wait for a settlement."""
        self.replicas = 1
        self._backend = MemoryBackend()
        self._settlements = SettlementQueue(self._backend, "local", timeout_s)
        self._spent: dict[str, int] = {}
        self._run_spent: dict[str, int] = {}

    async def start(self) -> None:
        """Starts settling what is counted here."""
        await self._settlements.start()

    async def stop(self) -> None:
        """Stops settling."""
        await self._settlements.stop()

    def record_admitted(self, plan: LimitPlan) -> None:
        """Counts what the store admitted here, so that an outage opens no new window for it."""
        now_ms = self._backend.clock_ms()
        for check in plan.checks:
            if (
                check.kind == "requests"
                and check.limit <= MAX_MIRRORED_LIMIT
                and check.on_store_failure == "local"
            ):
                self._backend.limiter.record_request(check.key, now_ms)

    def record_result(self, request: LimiterRequest, result: LimiterResult) -> None:
        """Records the spend of budgets from a result of the store, with what the call reserves."""
        if "budget" not in request.plan.kinds:
            return
        for known in (self._spent, self._run_spent):
            if len(known) > MAX_BUDGETS:
                known.clear()
        counts, counted_here = request.reserve and result.status == ADMITTED, self._backend.limiter.budgets
        facts = zip(request.plan.checks, result.used, result.extra, request.amounts, strict=True)
        for check, used, held, amount in facts:
            if check.kind == "budget" and used != UNKNOWN:
                known = self._run_spent if check.is_run_budget else self._spent
                known[check.key] = used + held + amount if counts else used + held
                if counted_here:
                    counted_here.pop(check.key, None)

    def reset(self) -> None:
        """Counts what was counted here as spent: the store is reachable again, and its counters hold."""
        budgets = self._backend.limiter.budgets
        for key, counter in budgets.items():
            known = self._spent if key in self._spent else self._run_spent
            known[key] = known.get(key, 0) + counter.spent + counter.held
        budgets.clear()

    async def reserve(
        self, request: LimiterRequest
    ) -> tuple[LimiterRequest, LimiterResult, EnforcementState]:
        """Returns this replica's own result; raises `StoreUnavailable` where a policy denies."""
        denying = [
            check for check in request.plan.checks if check.enforced and check.on_store_failure == "deny"
        ]
        if denying:
            message = (
                f"The limits of {denying[0].subject} cannot be checked, because the limits store does not "
                "answer; please try again."
            )
            unavailable = StoreUnavailable(message, retry_after_s=RETRY_AFTER_S, headers=DENIED_HEADERS)
            unavailable.reached_limit = reached_limit(denying[0], wait_ms=int(RETRY_AFTER_S * 1000))
            raise unavailable
        pairs = [
            (share := self._share(check), min(amount, share.limit) if check.kind == "tokens" else amount)
            for check, amount in zip(request.plan.checks, request.amounts, strict=True)
            if check.on_store_failure == "local"
        ]
        plan = replace(request.plan, checks=tuple(check for check, _ in pairs))
        local_request = request._replace(
            plan=plan, amounts=tuple(amount for _, amount in pairs), epoch=NO_EPOCH
        )
        return local_request, await self._backend.reserve(local_request), "local" if pairs else "allow"

    def reservations_of(
        self,
        request: LimiterRequest,
        local_request: LimiterRequest,
        result: LimiterResult,
        backend: LimiterBackend,
        settlements: SettlementQueue,
    ) -> tuple[Reservation, ...]:
        """What was counted here, and the money that the store must settle later."""
        local = Reservation(local_request, result, self._backend, self._settlements)
        budgets = tuple(check for check in request.plan.checks if check.kind == "budget")
        if not budgets:
            return (local,)
        in_store = request._replace(plan=replace(request.plan, checks=budgets), amounts=(0,) * len(budgets))
        unknown = LimiterResult(0, result.now_ms, 0, (UNKNOWN,) * len(budgets))
        return local, Reservation(in_store, unknown, backend, settlements)

    def _share(self, check: LimitCheck) -> LimitCheck:
        if check.kind == "duration":  # of what is admitted here
            return check
        if check.kind != "budget":
            return replace(check, limit=max(1, check.limit // self.replicas))
        if check.is_run_budget:  # a run that is not known here has spent nothing
            left = check.limit - self._run_spent.get(check.key, 0)
            return replace(check, limit=max(1, left // self.replicas) if left > 0 else 0)
        spent = self._spent.get(check.key)
        left = 0 if spent is None else max(0, check.limit - spent) // self.replicas
        self._backend.limiter.seed(check.key, BudgetCounter(0, check.period_end_ms, self._backend.clock_ms()))
        return replace(check, limit=left)
