"""How much is spent of the budgets that recent calls used, read off the calls' way.

Invariants: `ended` and `exhausted` only remember, and never wait; a budget is read after the settlement of
its last call has reached the store; what is returned is spend, never what running calls hold.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

from llm_proxy.admission.lease import Desk
from llm_proxy.admission.limiter import NO_EPOCH, UNKNOWN, Ask, Check, Plan, Store, StoreAway

log = logging.getLogger(__name__)

MOST_LOOKS = 500
"""Questions to the store in one step; the rest waits for the next one."""
MOST_EXHAUSTED = 10_000


@dataclass(frozen=True, slots=True)
class Spending:
    """How far a budget is spent in its present period.

    Attributes:
        spent: In the budget's unit; money in nano-dollars. None when the store could not be asked.
        exhausted: A call was refused because of it.
    """

    check: Check
    spent: int | None
    exhausted: bool = False


class SpendingWatch:
    """Remembers which budgets were used, and asks the store how far they are spent."""

    def __init__(self, store: Store, desk: Desk) -> None:
        self._store = store
        self._desk = desk
        self._fresh: dict[int, Plan] = {}
        self._settling: dict[int, Plan] = {}
        self._exhausted: dict[str, Check] = {}

    def ended(self, plan: Plan) -> None:
        """A call under this plan was settled."""
        self._fresh[id(plan)] = plan

    def exhausted(self, checks: Iterable[Check]) -> None:
        """A call was refused because these budgets are used up."""
        if len(self._exhausted) < MOST_EXHAUSTED:
            self._exhausted.update((check.key, check) for check in checks)

    async def look(self) -> list[Spending]:
        """What was spent of the budgets used since they were looked at last."""
        exhausted, self._exhausted = self._exhausted, {}
        found = [Spending(check, None, exhausted=True) for check in exhausted.values()]
        settling, self._settling = self._settling, self._fresh
        self._fresh = {}
        looked: set[str] = set()
        waiting = dict(settling)
        try:
            for name, plan in [*settling.items()][:MOST_LOOKS]:
                checks = tuple(one for one in (*plan.checks, *plan.elsewhere) if one.kind == "budget")
                if checks and not looked.issuperset(check.key for check in checks):
                    looked.update(check.key for check in checks)
                    found += await self._spent(replace(plan, checks=checks, elsewhere=()))
                del waiting[name]
        except StoreAway:
            log.debug("budgets are looked at when the limits store is back")
        self._settling |= settling if self._desk.waiting else waiting
        return found

    async def _spent(self, plan: Plan) -> list[Spending]:
        answer = await self._store.admit(Ask(plan, (0,) * len(plan.checks), NO_EPOCH, "", 0, take=False))
        pairs = zip(plan.checks, answer.used, strict=True)
        return [Spending(check, used) for check, used in pairs if used != UNKNOWN]
