"""How much is spent of the budgets that recent calls used, read off the calls' way.

Invariants: `call_settled` and `budgets_exhausted` never wait; a budget is read after the settlement of
its last call has reached the store; what is returned is spend, never what running calls hold.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

from llm_proxy.admission.limiter import (
    NO_EPOCH,
    UNKNOWN,
    LimitCheck,
    LimiterBackend,
    LimiterRequest,
    LimiterUnavailable,
    LimitPlan,
)
from llm_proxy.admission.settlements import SettlementQueue

log = logging.getLogger(__name__)

MAX_READS = 500
"""Requests to the store in one poll; the rest waits for the next one."""
MAX_EXHAUSTED = 10_000


@dataclass(frozen=True, slots=True)
class BudgetSpend:
    """How much of a budget is spent in its present period.

    Attributes:
        spent: In the budget's unit; money in nano-dollars. None when the store could not be read.
        exhausted: A call was rejected because of it.
    """

    check: LimitCheck
    spent: int | None
    exhausted: bool = False


class SpendingWatch:
    """Collects the budgets that calls used, and reads how much of each is spent."""

    def __init__(self, backend: LimiterBackend, settlements: SettlementQueue) -> None:
        self._backend = backend
        self._settlements = settlements
        self._recent: dict[int, LimitPlan] = {}
        self._settling: dict[int, LimitPlan] = {}
        self._exhausted: dict[str, LimitCheck] = {}

    def call_settled(self, plan: LimitPlan) -> None:
        """Notes the budgets of a call that was settled under this plan."""
        self._recent[id(plan)] = plan

    def budgets_exhausted(self, checks: Iterable[LimitCheck]) -> None:
        """Notes budgets that have rejected a call because they are spent."""
        if len(self._exhausted) < MAX_EXHAUSTED:
            self._exhausted.update((check.key, check) for check in checks)

    async def poll(self) -> list[BudgetSpend]:
        """Returns what was spent of the budgets used since the last poll."""
        exhausted, self._exhausted = self._exhausted, {}
        spends = [BudgetSpend(check, None, exhausted=True) for check in exhausted.values()]
        settling, self._settling = self._settling, self._recent
        self._recent = {}
        read: set[str] = set()
        unread = dict(settling)
        try:
            for plan_id, plan in [*settling.items()][:MAX_READS]:
                checks = tuple(
                    check
                    for check in (*plan.checks, *plan.fallback_checks)
                    if check.kind == "budget" and not check.is_run_budget
                )
                if checks and not read.issuperset(check.key for check in checks):
                    read.update(check.key for check in checks)
                    spends += await self._read_spend(replace(plan, checks=checks, fallback_checks=()))
                del unread[plan_id]
        except LimiterUnavailable:
            log.debug("budgets are looked at when the limits store is back")
        self._settling |= settling if self._settlements.pending else unread
        return spends

    async def _read_spend(self, plan: LimitPlan) -> list[BudgetSpend]:
        result = await self._backend.reserve(
            LimiterRequest(plan, (0,) * len(plan.checks), NO_EPOCH, "", 0, reserve=False)
        )
        pairs = zip(plan.checks, result.used, strict=True)
        return [BudgetSpend(check, used) for check, used in pairs if used != UNKNOWN]
