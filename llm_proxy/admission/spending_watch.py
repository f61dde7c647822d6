"""How much is spent of the budgets that recent calls used, read off the calls' way.

Invariants: `ended` and `exhausted` only remember, and never wait; a budget is read after the settlement of
its last call has reached the store; what is returned is spend, never what running calls hold.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

from llm_proxy.admission.lease import SettlementQueue
from llm_proxy.admission.limiter import (
    NO_EPOCH,
    UNKNOWN,
    LimitCheck,
    LimiterBackend,
    LimiterRequest,
    LimiterUnavailable,
    LimitPlan,
)

log = logging.getLogger(__name__)

MAX_READS = 500
"""Questions to the store in one step; the rest waits for the next one."""
MAX_EXHAUSTED = 10_000


@dataclass(frozen=True, slots=True)
class BudgetSpend:
    """How far a budget is spent in its present period.

    Attributes:
        spent: In the budget's unit; money in nano-dollars. None when the store could not be asked.
        exhausted: A call was refused because of it.
    """

    check: LimitCheck
    spent: int | None
    exhausted: bool = False


class SpendingWatch:
    """Remembers which budgets were used, and asks the store how far they are spent."""

    def __init__(self, store: LimiterBackend, desk: SettlementQueue) -> None:
        self._store = store
        self._desk = desk
        self._fresh: dict[int, LimitPlan] = {}
        self._settling: dict[int, LimitPlan] = {}
        self._exhausted: dict[str, LimitCheck] = {}

    def call_settled(self, plan: LimitPlan) -> None:
        """A call under this plan was settled."""
        self._fresh[id(plan)] = plan

    def budgets_exhausted(self, checks: Iterable[LimitCheck]) -> None:
        """A call was refused because these budgets are used up."""
        if len(self._exhausted) < MAX_EXHAUSTED:
            self._exhausted.update((check.key, check) for check in checks)

    async def poll(self) -> list[BudgetSpend]:
        """What was spent of the budgets used since they were looked at last."""
        exhausted, self._exhausted = self._exhausted, {}
        found = [BudgetSpend(check, None, exhausted=True) for check in exhausted.values()]
        settling, self._settling = self._settling, self._fresh
        self._fresh = {}
        looked: set[str] = set()
        waiting = dict(settling)
        try:
            for name, plan in [*settling.items()][:MAX_READS]:
                checks = tuple(one for one in (*plan.checks, *plan.fallback_checks) if one.kind == "budget")
                if checks and not looked.issuperset(check.key for check in checks):
                    looked.update(check.key for check in checks)
                    found += await self._spent(replace(plan, checks=checks, fallback_checks=()))
                del waiting[name]
        except LimiterUnavailable:
            log.debug("budgets are looked at when the limits store is back")
        self._settling |= settling if self._desk.pending else waiting
        return found

    async def _spent(self, plan: LimitPlan) -> list[BudgetSpend]:
        answer = await self._store.reserve(
            LimiterRequest(plan, (0,) * len(plan.checks), NO_EPOCH, "", 0, reserve=False)
        )
        pairs = zip(plan.checks, answer.used, strict=True)
        return [BudgetSpend(check, used) for check, used in pairs if used != UNKNOWN]
