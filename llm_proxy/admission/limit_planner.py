"""Turns a caller and a call into a limiter request: which checks apply, and how much the call takes.

Token estimates: four bytes a prompt token; an answer without a stated maximum is as long as the 95th
percentile of its model group's recent answers. Invariants: a reservation never exceeds a token limit; a
call without a known price is rejected under an enforced money budget; memory is bounded. Units: tokens,
nano-dollars.
"""

from collections import deque
from collections.abc import Callable, Iterable
from hashlib import blake2b
from math import ceil
from typing import Protocol

from llm_proxy.admission.limiter import NO_EPOCH, CallEstimate, LimitCheck, LimiterRequest, LimitPlan
from llm_proxy.admission.policy_watcher import PolicyWatcher
from llm_proxy.admission.rate_limit_response import reached_limit
from llm_proxy.dialects import Call
from llm_proxy.errors import Forbidden
from llm_proxy.identity import Caller
from llm_proxy.money import Price, cost_nano_usd

BYTES_PER_TOKEN = 4
DEFAULT_ANSWER_TOKENS = 4096
MAX_LENGTHS, MIN_LENGTHS = 200, 20
MAX_GROUPS = 1_000
PERCENTILE = 0.95
UNBOUNDED_TOKENS = 2**31
"""So many tokens are asked for by who asks for an answer without end."""


class AnswerLengths:
    """How long the last answers of each model group were."""

    def __init__(self) -> None:
        self._last: dict[str, deque[int]] = {}
        self._percentile: dict[str, int] = {}

    def add(self, call: Call, completion_tokens: int) -> None:
        """An answer was settled."""
        if call.endpoint != "embeddings":
            self._of(call.group).append(-(-completion_tokens // max(1, call.choices)))
            self._percentile.pop(call.group, None)

    def load(self, latest: Iterable[tuple[str, int]]) -> None:
        """Answers of before, by group, the latest first; what was added since then stays the latest."""
        for group, completion_tokens in latest:
            last = self._of(group)
            if len(last) < MAX_LENGTHS:
                last.appendleft(completion_tokens)
        self._percentile.clear()

    def _of(self, group: str) -> deque[int]:
        last = self._last.get(group)
        if last is None:
            if len(self._last) >= MAX_GROUPS:
                self._last.clear()
                self._percentile.clear()
            last = self._last[group] = deque(maxlen=MAX_LENGTHS)
        return last

    def percentile(self, group: str) -> int | None:
        """The 95th percentile; None while too few answers are known."""
        last = self._last.get(group)
        if last is None or len(last) < MIN_LENGTHS:
            return None
        found = self._percentile.get(group)
        if found is None:
            found = self._percentile[group] = sorted(last)[ceil(PERCENTILE * len(last)) - 1]
        return found


def estimate_tokens(call: Call, price: Price | None, usual: int | None) -> tuple[int, int]:
    """Prompt and completion tokens to reserve for a call; `usual` is its group's percentile."""
    prompt = -(-call.prompt_bytes // BYTES_PER_TOKEN)
    if call.endpoint == "embeddings":
        return prompt, 0
    answer = call.max_tokens
    if answer is None or answer >= UNBOUNDED_TOKENS:
        answer = DEFAULT_ANSWER_TOKENS if usual is None else usual
    if price is not None and price.max_output_tokens is not None:
        answer = min(answer, price.max_output_tokens)
    return prompt, answer * max(1, call.choices)


LEASE_TTL_MS = 30_000
"""After so long without a sign of life a parallel place is free again, and money is held no longer."""
MAX_PLANS = 10_000
MAX_BUDGET_AMOUNT = 2**53
"""So much of a budget is reserved at most: as much as one can allow, and as the scripts count exactly."""


class PriceSource(Protocol):
    """What model groups there are, and what they cost."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """The groups configured by name; None while nobody knows."""
        ...

    def resolved(self, name: str) -> str:
        """As in `RoutingInfo`."""
        ...

    def providers(self, group: str) -> tuple[str, ...]:
        """As in `RoutingInfo`."""
        ...

    def fallback_providers(self, group: str) -> tuple[str, ...]:
        """As in `RoutingInfo`."""
        ...

    def price(self, group: str) -> Price | None:
        """The dearest price of a group; None when one is not known."""
        ...


class LimitPlanner:
    """Makes asks, and keeps the plans they need."""

    def __init__(
        self,
        watch: PolicyWatcher,
        prices: PriceSource | None,
        clock_ms: Callable[[], int],
        one_slot: Callable[[], bool],
    ) -> None:
        """`one_slot` says whether the store reaches counters of one hash tag alone together."""
        self._watch = watch
        self._one_slot = one_slot
        self._prices = prices
        self._clock_ms = clock_ms
        self.answer_lengths = AnswerLengths()
        self._plans: dict[tuple[str | int | None, ...], LimitPlan] = {}
        self._planned_by = watch.policies, one_slot()

    def plan_request(
        self, caller: Caller, call: Call, lease: str, *, reserve: bool, at_ms: int | None = None
    ) -> LimiterRequest:
        """What to ask for a call, now or `at_ms`; raises `Forbidden` when a budget needs an unknown price."""
        epoch = self._epoch(caller)
        if at_ms is None:
            plan = self._plan(caller, call.group)
        else:
            one_slot = self._one_slot()
            plan = self._watch.policies.resolve(caller, call.group, at_ms, self._prices, single_slot=one_slot)
        if plan.counts_only_requests:
            return LimiterRequest(plan, (1,) * len(plan.checks), epoch, lease, LEASE_TTL_MS, reserve)
        price = self._prices.price(call.group) if self._prices is not None else None
        prompt, answer = estimate_tokens(call, price, self.answer_lengths.percentile(call.group))
        wants = tuple(_want(check, price, prompt, answer) for check in plan.checks)
        expected = CallEstimate(prompt, answer, cost_nano_usd(price, prompt, 0) if price else 0)
        name = _name(caller, call) if "budget" in plan.kinds else ""
        return LimiterRequest(plan, wants, epoch, lease, LEASE_TTL_MS, reserve, name, expected)

    def status_request(self, caller: Caller, group: str, want: int) -> LimiterRequest:
        """What to ask to see where a caller stands, at a group by any name; no group, no check of one."""
        plan = self._plan(caller, self._prices.resolved(group) if self._prices is not None else group)
        return LimiterRequest(plan, (want,) * len(plan.checks), self._epoch(caller), "", 0, reserve=False)

    def _epoch(self, caller: Caller) -> int:
        if not self._watch.is_enabled:
            return NO_EPOCH
        known = self._watch.epoch_of(caller.tenant or "")
        return known if caller.kind == "internal" else min(known, caller.revocation_epoch)

    def _plan(self, caller: Caller, group: str) -> LimitPlan:
        policies, now_ms = self._watch.policies, self._clock_ms()
        one_slot, (planned_by, planned_for) = self._one_slot(), self._planned_by
        if policies is not planned_by or one_slot is not planned_for or len(self._plans) > MAX_PLANS:
            self._plans.clear()
            self._planned_by = policies, one_slot
        key = (caller.key_id, caller.revocation_epoch, caller.tenant, caller.agent, caller.user, group)
        plan = self._plans.get(key)
        if plan is None or plan.valid_until_ms <= now_ms:
            plan = self._plans[key] = policies.resolve(
                caller, group, now_ms, self._prices, single_slot=one_slot
            )
        return plan


def _want(check: LimitCheck, price: Price | None, prompt: int, answer: int) -> int:
    if check.kind == "tokens":
        return min(prompt + answer, check.limit)
    if check.kind != "budget" or check.unit == "requests":
        return 1
    if check.unit == "tokens":
        return min(prompt + answer, MAX_BUDGET_AMOUNT)
    if price is not None:
        return min(cost_nano_usd(price, prompt, answer), MAX_BUDGET_AMOUNT)
    if check.enforced:
        message = f"This model has no known price, and {check.subject} has a budget."
        refused = Forbidden(message, code="price_unknown")
        refused.reached_limit = reached_limit(check)
        raise refused
    return 0


def _name(caller: Caller, call: Call) -> str:
    """What a call is known by when it is tried again: who makes it, and its size."""
    facts = (
        caller.key_id, caller.tenant, caller.agent, caller.user,
        call.group, call.endpoint, call.prompt_bytes, call.max_tokens, call.choices,
    )  # fmt: skip
    return blake2b(repr(facts).encode("utf-8", "replace"), digest_size=8).hexdigest()
