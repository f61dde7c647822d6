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
from typing import NamedTuple, Protocol

from llm_proxy.admission.limiter import NO_EPOCH, CallEstimate, LimitCheck, LimiterRequest, LimitPlan
from llm_proxy.admission.policy_resolver import PolicyDefaults, PolicyResolver
from llm_proxy.admission.rate_limit_response import reached_limit
from llm_proxy.admission.run_limits import run_digest, runs_key
from llm_proxy.dialects import BYTES_PER_TOKEN, UNBOUNDED_TOKENS, Call
from llm_proxy.endpoints import OPAQUE_ENDPOINTS
from llm_proxy.errors import Forbidden
from llm_proxy.identity import Caller, PolicyWatcher
from llm_proxy.money import Price, cost_nano_usd
from llm_proxy.quantities import TURNS, Quantities, units_of

DEFAULT_ANSWER_TOKENS = 4096
MAX_LENGTHS, MIN_LENGTHS = 200, 20
MAX_GROUPS = 1_000
PERCENTILE = 0.95
LEASE_TTL_MS = 30_000
"""Slots and reservations that are not renewed within this time are released."""
MAX_PLANS = 10_000
MAX_BUDGET_AMOUNT = 2**53
"""The largest reservation: as much as a budget can allow, and as the scripts count exactly."""


class AnswerLengths:
    """The lengths of each model group's recent answers."""

    def __init__(self) -> None:
        self._lengths: dict[str, deque[int]] = {}
        self._percentile: dict[str, int] = {}

    def add(self, call: Call, completion_tokens: int) -> None:
        """Adds the length of a settled answer."""
        if call.endpoint != "embeddings" and call.operation is None:
            self._lengths_of(call.group).append(-(-completion_tokens // max(1, call.choices)))
            self._percentile.pop(call.group, None)

    def load(self, latest: Iterable[tuple[str, int]]) -> None:
        """Adds older answers, by group, the latest first; answers added since then stay the latest."""
        for group, completion_tokens in latest:
            lengths = self._lengths_of(group)
            if len(lengths) < MAX_LENGTHS:
                lengths.appendleft(completion_tokens)
        self._percentile.clear()

    def _lengths_of(self, group: str) -> deque[int]:
        lengths = self._lengths.get(group)
        if lengths is None:
            if len(self._lengths) >= MAX_GROUPS:
                self._lengths.clear()
                self._percentile.clear()
            lengths = self._lengths[group] = deque(maxlen=MAX_LENGTHS)
        return lengths

    def percentile(self, group: str) -> int | None:
        """Returns the 95th percentile; None while too few answers are known."""
        lengths = self._lengths.get(group)
        if lengths is None or len(lengths) < MIN_LENGTHS:
            return None
        length = self._percentile.get(group)
        if length is None:
            length = self._percentile[group] = sorted(lengths)[ceil(PERCENTILE * len(lengths)) - 1]
        return length


def estimate_tokens(call: Call, price: Price | None, percentile: int | None) -> tuple[int, int]:
    """Prompt and completion tokens to reserve for a call; `percentile` is its group's."""
    prompt_tokens = -(-call.prompt_bytes // BYTES_PER_TOKEN)
    if call.endpoint == "embeddings":
        return prompt_tokens, 0
    if call.endpoint in OPAQUE_ENDPOINTS:  # most answers have none
        return prompt_tokens, (percentile or 0) * max(1, call.choices)
    answer_tokens = call.max_tokens
    if answer_tokens is None or answer_tokens >= UNBOUNDED_TOKENS:
        answer_tokens = DEFAULT_ANSWER_TOKENS if percentile is None else percentile
    if price is not None and price.max_output_tokens is not None:
        answer_tokens = min(answer_tokens, price.max_output_tokens)
    return prompt_tokens, answer_tokens * max(1, call.choices)


class PriceSource(Protocol):
    """The model groups, their providers and prices."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """The groups configured by name; None while unknown."""
        ...

    def resolved(self, name: str) -> str:
        """Returns the group of an alias; any other name unchanged."""
        ...

    def providers(self, group: str) -> tuple[str, ...]:
        """As in `RoutingInfo`."""
        ...

    def fallback_providers(self, group: str) -> tuple[str, ...]:
        """As in `RoutingInfo`."""
        ...

    def price(self, group: str) -> Price | None:
        """Returns the highest price of a group; None while one is unknown."""
        ...

    def most_of_units(self, call: Call, prompt_tokens: int, answer_tokens: int) -> int | None:
        """Returns the most that a call of `OPAQUE_ENDPOINTS` costs, in nano-dollars; None while unknown."""
        ...


class CallNeeds(NamedTuple):
    """What a call may need: cost in nano-dollars (None while unknown), tokens, what else it asks for."""

    cost_nano_usd: int | None
    tokens: int
    quantities: Quantities


class LimitPlanner:
    """Makes requests to the limits store, and caches the plans they need."""

    def __init__(
        self,
        watcher: PolicyWatcher,
        defaults: PolicyDefaults,
        prices: PriceSource | None,
        clock_ms: Callable[[], int],
        single_slot: Callable[[], bool],
    ) -> None:
        """`single_slot` says whether the store's scripts reach only counters of one hash tag."""
        self._watcher = watcher
        self._policies = PolicyResolver.from_snapshot(defaults, watcher.snapshot)
        self._single_slot = single_slot
        self._prices = prices
        self._clock_ms = clock_ms
        self.answer_lengths = AnswerLengths()
        self._plans: dict[tuple[str | int | tuple[str, ...] | None, ...], LimitPlan] = {}
        self._run_plans: dict[tuple[int, str], tuple[LimitPlan, LimitPlan]] = {}
        self._planned_with = self._policies, single_slot()

    @property
    def policies(self) -> PolicyResolver:
        """The policies of the watcher's snapshot, indexed once for each."""
        snapshot = self._watcher.snapshot
        if snapshot is not self._policies.snapshot:
            self._policies = PolicyResolver.from_snapshot(self._policies.defaults, snapshot)
        return self._policies

    def plan_request(
        self, caller: Caller, call: Call, lease_id: str, *, reserve: bool, at_ms: int | None = None
    ) -> LimiterRequest:
        """The request for a call, now or `at_ms`; raises `Forbidden` when a budget needs an unknown price."""
        epoch = self._epoch(caller)
        is_turn = call.operation is None or not call.operation.is_free
        units = units_of(call.endpoint) if is_turn else ()
        if at_ms is None:
            plan = self._plan(caller, call.group, units)
        else:
            single_slot = self._single_slot()
            plan = self.policies.resolve(
                caller, call.group, at_ms, self._prices, single_slot=single_slot
            ).for_units(units)
        if plan.counts_only_requests:
            return LimiterRequest(plan, (1,) * len(plan.checks), epoch, lease_id, LEASE_TTL_MS, reserve)
        price = self._prices.price(call.group) if self._prices is not None else None
        prompt_tokens, answer_tokens = estimate_tokens(
            call, price, self.answer_lengths.percentile(call.group)
        )
        cost = cost_nano_usd(price, prompt_tokens, answer_tokens) if price is not None else None
        if call.endpoint in OPAQUE_ENDPOINTS and self._prices is not None:
            cost = self._prices.most_of_units(call, prompt_tokens, answer_tokens)
        needs = CallNeeds(cost, prompt_tokens + answer_tokens, call.quantities)
        amounts = tuple(_amount(check, needs) for check in plan.checks)
        prompt_cost = cost_nano_usd(price, prompt_tokens, 0) if price else 0
        estimate = CallEstimate(prompt_tokens, answer_tokens, prompt_cost, call.quantities)
        name = _retry_id(caller, call) if "budget" in plan.kinds else ""
        return LimiterRequest(plan, amounts, epoch, lease_id, LEASE_TTL_MS, reserve, name, estimate)

    def status_request(self, caller: Caller, group: str, amount: int) -> LimiterRequest:
        """The request for a caller's status at a group by any name; without a group, without its checks."""
        plan = self._plan(caller, self._prices.resolved(group) if self._prices is not None else group)
        return LimiterRequest(plan, (amount,) * len(plan.checks), self._epoch(caller), "", 0, reserve=False)

    def _epoch(self, caller: Caller) -> int:
        if not self._watcher.is_enabled:
            return NO_EPOCH
        known = self._watcher.epoch_of(caller.tenant or "")
        return known if caller.kind == "internal" else min(known, caller.revocation_epoch)

    def _plan(self, caller: Caller, group: str, units: tuple[str, ...] | None = None) -> LimitPlan:
        """The plan of a caller at a group, for calls that may use these units; None for any call."""
        policies, now_ms = self.policies, self._clock_ms()
        single_slot, (resolver, planned_single_slot) = self._single_slot(), self._planned_with
        if policies is not resolver or single_slot is not planned_single_slot or len(self._plans) > MAX_PLANS:
            self._plans.clear()
            self._run_plans.clear()
            self._planned_with = policies, single_slot
        key = (
            caller.key_id, caller.revocation_epoch, caller.is_raised,
            caller.tenant, caller.agent, caller.user, group, units,
        )  # fmt: skip
        plan = self._plans.get(key)
        if plan is None or plan.valid_until_ms <= now_ms:
            plan = policies.resolve(caller, group, now_ms, self._prices, single_slot=single_slot)
            plan = self._plans[key] = plan if units is None else plan.for_units(units)
        return plan if caller.run_id is None or not plan.run_checks else self._plan_of_run(plan, caller)

    def _plan_of_run(self, plan: LimitPlan, caller: Caller) -> LimitPlan:
        """The plan of a caller's run; no name of a run is in a key of the store."""
        name = caller.run_id or ""
        found = self._run_plans.get((id(plan), name))
        if found is None:
            if len(self._run_plans) > MAX_PLANS:
                self._run_plans.clear()
            of_run = plan.of_run(name, run_digest(caller), runs_key(plan.hash_tag, caller))
            found = self._run_plans[id(plan), name] = plan, of_run  # it keeps the plan, and so its id
        return found[1]


def _amount(check: LimitCheck, needs: CallNeeds) -> int:
    if check.kind == "tokens":
        return min(needs.tokens, check.limit)
    if check.kind != "budget" or check.unit in {"requests", TURNS}:
        return 1
    if check.unit == "tokens":
        return min(needs.tokens, MAX_BUDGET_AMOUNT)
    if check.unit != "usd":
        return needs.quantities.of_unit(check.unit)
    if needs.cost_nano_usd is not None:
        return min(needs.cost_nano_usd, MAX_BUDGET_AMOUNT)
    if check.enforced:
        message = (
            f"This model has no known price, so it cannot be used under the budget of {check.subject}. "
            "Use another model, or ask the operator to set its price."
        )
        error = Forbidden(message, code="price_unknown")
        error.reached_limit = reached_limit(check)
        raise error
    return 0


def _retry_id(caller: Caller, call: Call) -> str:
    """Identifies a call when it is tried again: its caller and its size."""
    facts = (
        caller.key_id, caller.tenant, caller.agent, caller.user,
        call.group, call.endpoint, call.prompt_bytes, call.max_tokens, call.choices, call.quantities,
    )  # fmt: skip
    return blake2b(repr(facts).encode("utf-8", "replace"), digest_size=8).hexdigest()
