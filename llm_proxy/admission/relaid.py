"""Budgets that were laid down while a call ran: what each of them counts of the call when it ends.

Invariants: nothing is done unless rules or keys of the caller's tenant changed during the call; a budget that
covered the call from its beginning counts it once; the period is the one the call began in, as in the ledger.
"""

import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from llm_proxy.admission.asking import Asking
from llm_proxy.admission.check import UNKNOWN, Answer, Store
from llm_proxy.admission.desk import Desk
from llm_proxy.admission.lease import Relaying, Taken
from llm_proxy.admission.watch import Watch
from llm_proxy.dialects import Call
from llm_proxy.errors import Refused
from llm_proxy.identity import Caller

Renew = Callable[[Caller, int], Awaitable[Caller]]


@dataclass(frozen=True, slots=True)
class Relaid:
    """One replica's rules and counters, asked about calls that end."""

    watch: Watch
    asking: Asking
    store: Store
    desk: Desk
    renew: Renew | None
    clock_ms: Callable[[], int]

    def watching(self, caller: Caller, call: Call) -> Relaying:
        """From now on, when a call begins: what is asked when it has ended."""
        began_ms, tenant = self.clock_ms(), caller.tenant or ""
        epoch = self.watch.epoch_of(tenant)

        def relaying(before: tuple[Taken, ...]) -> Coroutine[Any, Any, tuple[Taken, int] | None] | None:
            if self.watch.epoch_of(tenant) <= epoch:
                return None
            return self._counted(caller, call, (began_ms, self.clock_ms()), before)

        return relaying

    async def _counted(
        self, caller: Caller, call: Call, began_and_ended_ms: tuple[int, int], before: tuple[Taken, ...]
    ) -> tuple[Taken, int] | None:
        """What the budgets of now count, without those that counted the call `before`."""
        began_ms, ended_ms = began_and_ended_ms
        current = caller
        if caller.kind == "virtual" and self.renew is not None:
            with contextlib.suppress(Refused):  # a key that has ended: the budgets of other scopes count
                current = await self.renew(caller, self.watch.epoch_of(caller.tenant or ""))
        try:
            ask = self.asking.ask(current, call, "", take=False, at_ms=began_ms)
        except Refused:  # nobody knows the price, and so the cost
            return None
        counted = {check.key for one in before for check in (*one.plan.checks, *one.plan.elsewhere)}
        new = [
            (check, want)
            for check, want in zip(ask.plan.checks, ask.wants, strict=True)
            if check.kind == "budget" and check.key not in counted
        ]
        elsewhere = tuple(
            one for one in ask.plan.elsewhere if one.kind == "budget" and one.key not in counted
        )
        if not new and not elsewhere:
            return None
        plan = replace(ask.plan, checks=tuple(check for check, _ in new), elsewhere=elsewhere)
        answer = Answer(0, began_ms, 0, (UNKNOWN,) * len(new))
        wants = tuple(want for _, want in new)
        return Taken(plan, wants, answer, "", self.store, self.desk), ended_ms
