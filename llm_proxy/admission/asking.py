"""Caller and call in, what to ask the store out.

Invariants: what is reserved never exceeds the whole of a token limit; a call nobody can price is refused
under an enforced budget.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Protocol

from llm_proxy.admission import estimate
from llm_proxy.admission.check import NO_EPOCH, Ask, Check, Estimate, Plan
from llm_proxy.admission.standing import reached
from llm_proxy.admission.watch import Watch
from llm_proxy.dialects import Call
from llm_proxy.errors import Forbidden
from llm_proxy.identity import Caller
from llm_proxy.money import Price, cost_nano_usd

LEASE_LIFE_MS = 30_000
"""After so long without a sign of life a parallel place is free again, and money is held no longer."""
MOST_PLANS = 10_000
MOST_WANTED = 2**53
"""So much of a budget is reserved at most: as much as one can allow, and as the scripts count exactly."""


class Prices(Protocol):
    """What model groups there are, and what they cost."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """The groups configured by name; None while nobody knows."""
        ...

    def resolved(self, name: str) -> str:
        """As in `Served`."""
        ...

    def providers(self, group: str) -> tuple[str, ...]:
        """As in `Served`."""
        ...

    def fallback_providers(self, group: str) -> tuple[str, ...]:
        """As in `Served`."""
        ...

    def price(self, group: str) -> Price | None:
        """The dearest price of a group; None when one is not known."""
        ...


class Asking:
    """Makes asks, and keeps the plans they need."""

    def __init__(
        self,
        watch: Watch,
        prices: Prices | None,
        clock_ms: Callable[[], int],
        one_slot: Callable[[], bool],
    ) -> None:
        """`one_slot` says whether the store reaches counters of one hash tag alone together."""
        self._watch = watch
        self._one_slot = one_slot
        self._prices = prices
        self._clock_ms = clock_ms
        self.lengths = estimate.AnswerLengths()
        self._plans: dict[tuple[str | int | None, ...], Plan] = {}
        self._planned_by = watch.policies, one_slot()

    def ask(self, caller: Caller, call: Call, lease: str, *, take: bool, at_ms: int | None = None) -> Ask:
        """What to ask for a call, now or `at_ms`; raises `Forbidden` when a budget needs an unknown price."""
        epoch = self._epoch(caller)
        if at_ms is None:
            plan = self._plan(caller, call.group)
        else:
            one_slot = self._one_slot()
            plan = self._watch.policies.plan(caller, call.group, at_ms, self._prices, one_slot=one_slot)
        if plan.counts_only_requests:
            return Ask(plan, (1,) * len(plan.checks), epoch, lease, LEASE_LIFE_MS, take)
        price = self._prices.price(call.group) if self._prices is not None else None
        prompt, answer = estimate.tokens(call, price, self.lengths.percentile(call.group))
        wants = tuple(_want(check, price, prompt, answer) for check in plan.checks)
        expected = Estimate(prompt, answer, cost_nano_usd(price, prompt, 0) if price else 0)
        name = _name(caller, call) if "budget" in plan.kinds else ""
        return Ask(plan, wants, epoch, lease, LEASE_LIFE_MS, take, name, expected)

    def look(self, caller: Caller, group: str, want: int) -> Ask:
        """What to ask to see where a caller stands, at a group by any name; no group, no check of one."""
        plan = self._plan(caller, self._prices.resolved(group) if self._prices is not None else group)
        return Ask(plan, (want,) * len(plan.checks), self._epoch(caller), "", 0, take=False)

    def _epoch(self, caller: Caller) -> int:
        if not self._watch.watching:
            return NO_EPOCH
        known = self._watch.epoch_of(caller.tenant or "")
        return known if caller.kind == "internal" else min(known, caller.revocation_epoch)

    def _plan(self, caller: Caller, group: str) -> Plan:
        policies, now_ms = self._watch.policies, self._clock_ms()
        one_slot, (planned_by, planned_for) = self._one_slot(), self._planned_by
        if policies is not planned_by or one_slot is not planned_for or len(self._plans) > MOST_PLANS:
            self._plans.clear()
            self._planned_by = policies, one_slot
        key = (caller.key_id, caller.revocation_epoch, caller.tenant, caller.agent, caller.user, group)
        plan = self._plans.get(key)
        if plan is None or plan.until_ms <= now_ms:
            plan = self._plans[key] = policies.plan(caller, group, now_ms, self._prices, one_slot=one_slot)
        return plan


def _want(check: Check, price: Price | None, prompt: int, answer: int) -> int:
    if check.kind == "tokens":
        return min(prompt + answer, check.limit)
    if check.kind != "budget" or check.unit == "requests":
        return 1
    if check.unit == "tokens":
        return min(prompt + answer, MOST_WANTED)
    if price is not None:
        return min(cost_nano_usd(price, prompt, answer), MOST_WANTED)
    if check.enforced:
        message = f"This model has no known price, and {check.subject} has a budget."
        refused = Forbidden(message, code="price_unknown")
        refused.reached = reached(check)
        raise refused
    return 0


def _name(caller: Caller, call: Call) -> str:
    """What a call is known by when it is tried again: who makes it, and its size."""
    facts = (
        caller.key_id, caller.tenant, caller.agent, caller.user,
        call.group, call.door, call.prompt_bytes, call.max_tokens, call.choices,
    )  # fmt: skip
    return blake2b(repr(facts).encode("utf-8", "replace"), digest_size=8).hexdigest()
