"""Limits while the limits store is unreachable: each check's own policy decides.

`deny` rejects, `local` counts in this process against this replica's share, `allow` lets the call pass.
Invariants: a share is the limit divided by the replicas alive at the last heartbeat, at least 1, and what
the store admitted here in the last minute counts; a budget's share is of what was left when last known, 0
when never known; money spent meanwhile is settled when the store is back.
"""

from dataclasses import replace

from llm_proxy.admission.lease import Reservation, SettlementQueue
from llm_proxy.admission.limiter import (
    NO_EPOCH,
    UNKNOWN,
    LimitCheck,
    LimiterBackend,
    LimiterRequest,
    LimiterResult,
    LimitPlan,
)
from llm_proxy.admission.memory_limiter import BudgetCounter, MemoryBackend
from llm_proxy.admission.rate_limit_response import DENIED_HEADERS, EnforcementState, reached_limit
from llm_proxy.errors import StoreUnavailable

RETRY_AFTER_S = 1.0
MAX_BUDGETS = 50_000
MAX_MIRRORED_LIMIT = 600
"""Windows of larger limits are not mirrored: what an outage adds to them is small beside them."""


class FallbackLimiter:
    """Decides without the store."""

    def __init__(self, patience_s: float) -> None:
        """`patience_s`: how long a settlement is waited for at most."""
        self.replicas = 1
        self._local = MemoryBackend()
        self._desk = SettlementQueue(self._local, "local", patience_s)
        self._spent: dict[str, int] = {}

    async def start(self) -> None:
        """Begin to settle what is counted here."""
        await self._desk.start()

    async def stop(self) -> None:
        """Stop."""
        await self._desk.stop()

    def record_admitted(self, plan: LimitPlan) -> None:
        """Remember what the store admitted here, so that an outage opens no new window for it."""
        now_ms = self._local.clock_ms()
        for check in plan.checks:
            if (
                check.kind == "requests"
                and check.limit <= MAX_MIRRORED_LIMIT
                and check.on_store_failure == "local"
            ):
                self._local.limiter.record_request(check.key, now_ms)

    def record_result(self, plan: LimitPlan, answer: LimiterResult) -> None:
        """Remember what the store said of budgets."""
        if len(self._spent) > MAX_BUDGETS:
            self._spent.clear()
        for check, used, held in zip(plan.checks, answer.used, answer.extra, strict=True):
            if check.kind == "budget" and used != UNKNOWN:
                self._spent[check.key] = used + held

    def reset(self) -> None:
        """The store is back: its counts hold again."""
        self._local.limiter.budgets.clear()

    async def reserve(self, ask: LimiterRequest) -> tuple[LimiterRequest, LimiterResult, EnforcementState]:
        """The answer of this replica alone; raises `StoreUnavailable` where the policy denies."""
        denying = [one for one in ask.plan.checks if one.enforced and one.on_store_failure == "deny"]
        if denying:
            message = f"The limits of {denying[0].subject} cannot be checked right now."
            away = StoreUnavailable(message, retry_after_s=RETRY_AFTER_S, headers=DENIED_HEADERS)
            away.reached_limit = reached_limit(denying[0], wait_ms=int(RETRY_AFTER_S * 1000))
            raise away
        pairs = [
            (share := self._share(check), min(want, share.limit) if check.kind == "tokens" else want)
            for check, want in zip(ask.plan.checks, ask.amounts, strict=True)
            if check.on_store_failure == "local"
        ]
        plan = replace(ask.plan, checks=tuple(check for check, _ in pairs))
        local = ask._replace(plan=plan, amounts=tuple(want for _, want in pairs), epoch=NO_EPOCH)
        return local, await self._local.reserve(local), "local" if pairs else "allow"

    def reservations_of(
        self,
        ask: LimiterRequest,
        local: LimiterRequest,
        answer: LimiterResult,
        store: LimiterBackend,
        desk: SettlementQueue,
    ) -> tuple[Reservation, ...]:
        """What was counted here, and the money the store must hear of later."""
        here = Reservation(local.plan, local.amounts, answer, ask.lease_id, self._local, self._desk)
        budgets = tuple(check for check in ask.plan.checks if check.kind == "budget")
        if not budgets:
            return (here,)
        unknown = LimiterResult(0, answer.now_ms, 0, (UNKNOWN,) * len(budgets))
        later = replace(ask.plan, checks=budgets)
        return here, Reservation(later, (0,) * len(budgets), unknown, ask.lease_id, store, desk)

    def _share(self, check: LimitCheck) -> LimitCheck:
        if check.kind != "budget":
            return replace(check, limit=max(1, check.limit // self.replicas))
        spent = self._spent.get(check.key)
        left = 0 if spent is None else max(0, check.limit - spent) // self.replicas
        self._local.limiter.seed(check.key, BudgetCounter(0, check.period_end_ms, self._local.clock_ms()))
        return replace(check, limit=left)
