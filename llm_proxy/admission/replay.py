"""Replays recorded calls under other policies, prices or model lists: what would be rejected, at what cost.

Pure but for the spend before the first call. Invariants: the checks are the ones of real calls, in the order
the calls began; a call that was rejected then is not in the history, and is not replayed.
Units: milliseconds since 1970, tokens, nano-dollars.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from heapq import heappop, heappush

from llm_proxy.admission.lease import Reservation, SettledUsage
from llm_proxy.admission.limit_planner import LEASE_TTL_MS, LimitPlanner, PriceSource
from llm_proxy.admission.limiter import REJECTED, UNKNOWN, LimitCheck, LimiterRequest, LimiterResult
from llm_proxy.admission.memory_backend import MemoryBackend
from llm_proxy.admission.memory_limiter import BudgetCounter
from llm_proxy.admission.policy_resolver import PolicyResolver
from llm_proxy.admission.rate_limit_response import rejecting_statuses
from llm_proxy.admission.settlements import SettlementQueue
from llm_proxy.dialects import Call
from llm_proxy.endpoints import OPAQUE_ENDPOINTS
from llm_proxy.errors import APIError
from llm_proxy.identity import AccessPolicy, Caller, PolicyWatcher
from llm_proxy.money import Price, cost_nano_usd
from llm_proxy.quantities import NOTHING, Quantities

SpendBefore = Callable[[LimitCheck], Awaitable[int]]
"""What a budget's spender had spent of its period before the first call."""
YIELD_INTERVAL = 10
"""Calls replayed before other tasks of the process run."""


@dataclass(frozen=True, slots=True)
class PastCall:
    """One call as it was recorded.

    Attributes:
        tokens: What limits and budgets counted; None when unknown.
        cost_nano_usd: The same for money.
        prompt_tokens: As recorded, for other prices.
        has_answer: It has a complete answer of its own: later ones are expected to be as long.
        quantities: What it used beside tokens; None when unknown.
    """

    request_id: str
    caller: Caller
    call: Call
    started_ms: int
    ended_ms: int
    tokens: int | None
    cost_nano_usd: int | None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    provider: str | None = None
    has_answer: bool = False
    quantities: Quantities | None = NOTHING


@dataclass(frozen=True, slots=True)
class ReplayVerdict:
    """What would have become of one call.

    Attributes:
        cost_nano_usd: What it would have cost; None when the price is unknown.
        code: The code of its error; None when it would have been admitted.
        scope: The scope of the limit that rejects; empty where a model list does.
    """

    past: PastCall
    cost_nano_usd: int | None
    code: str | None = None
    scope: str = ""
    subject: str = ""
    kind: str = ""


class PriceOverrides:
    """Today's model groups, some at other prices."""

    def __init__(self, prices: PriceSource, changed: Mapping[str, tuple[int, int]]) -> None:
        """`changed` has, by group, the prices of input and output in pico-dollars per token."""
        self._prices = prices
        self._changed = changed
        self.resolved, self.providers = prices.resolved, prices.providers
        self.fallback_providers = prices.fallback_providers
        self.most_of_units = prices.most_of_units

    @property
    def names(self) -> tuple[str, ...] | None:
        """The groups configured by name; None while unknown."""
        return self._prices.names

    def price(self, group: str) -> Price | None:
        """Returns the changed price of a group, else today's highest."""
        known, changed = self._prices.price(group), self.overridden_price(group)
        if changed is None:
            return known
        return replace(changed, max_output_tokens=known.max_output_tokens if known else None)

    def overridden_price(self, group: str) -> Price | None:
        """Returns the changed price of a group; None for one whose price stays."""
        found = self._changed.get(group) or self._changed.get(self.resolved(group))
        return Price(*found) if found is not None else None


class Replay:
    """Replays calls, in the order they began."""

    def __init__(
        self,
        policies: PolicyResolver,
        prices: PriceOverrides,
        default_models: tuple[str, ...],
        spend_before: SpendBefore,
    ) -> None:
        self._now_ms = 0
        watcher = PolicyWatcher()
        watcher.snapshot = policies.snapshot
        self._prices = prices
        self._spend_before = spend_before
        self._access_policy = AccessPolicy(watcher, prices, default_models)
        self._planner = LimitPlanner(watcher, policies.defaults, prices, lambda: self._now_ms, lambda: False)
        self._backend = MemoryBackend(lambda: self._now_ms)
        self._settlements = SettlementQueue(self._backend, "replay", 0.0)
        self._running: list[tuple[int, int, Reservation, PastCall]] = []
        self._number = self._batch_number = 0

    async def play(self, calls: Iterable[PastCall]) -> AsyncIterator[ReplayVerdict]:
        """Yields what would have become of each call."""
        for past in calls:
            self._settle_until(past.started_ms)
            self._now_ms = past.started_ms
            self._number += 1
            if self._number % YIELD_INTERVAL == 0:
                await asyncio.sleep(0)
            yield await self._decide(past)

    async def _decide(self, past: PastCall) -> ReplayVerdict:
        cost = self._cost(past)
        try:
            self._access_policy.check(past.caller, past.call.model, past.call.group)
            request = self._planner.plan_request(past.caller, past.call, str(self._number), reserve=True)
        except APIError as error:
            return ReplayVerdict(past, cost, error.code or "forbidden")
        # The renewals that keep what a running call holds are not replayed.
        request = request._replace(ttl_ms=max(LEASE_TTL_MS, past.ended_ms - past.started_ms + 1))
        result = await self._admit(request)
        if result.status == REJECTED:
            rejecting = rejecting_statuses(request, result)
            check = rejecting[0].check
            return ReplayVerdict(past, cost, "refused", check.scope, check.subject, check.kind)
        reservation = Reservation(request, result, self._backend, self._settlements)
        heappush(self._running, (past.ended_ms, self._number, reservation, past))
        return ReplayVerdict(past, cost)

    async def _admit(self, request: LimiterRequest) -> LimiterResult:
        """Returns the result of the backend, after seeding what was spent before the first call."""
        status = self._backend.limiter.reserve(request._replace(reserve=False), self._now_ms)
        for check, used in zip(request.plan.checks, status.used, strict=True):
            if check.kind == "budget" and used == UNKNOWN:
                self._backend.limiter.seed(
                    check.key, BudgetCounter(await self._spend_before(check), check.period_end_ms)
                )
        for check in request.plan.fallback_checks:
            if check.kind == "budget" and check.key not in self._backend.limiter.budgets:
                self._backend.limiter.seed(
                    check.key, BudgetCounter(await self._spend_before(check), check.period_end_ms)
                )
        return self._backend.limiter.reserve(request, self._now_ms)

    def _settle_until(self, now_ms: int) -> None:
        """Settles the calls that had ended by then, in the order they did."""
        while self._running and self._running[0][0] <= now_ms:
            ended_ms, _, reservation, past = heappop(self._running)
            used = SettledUsage(past.tokens, self._cost(past), past.provider, past.quantities)
            entries = tuple(reservation.settlement_entries(used))
            self._batch_number += 1
            self._backend.limiter.settle("replay", self._batch_number, entries, ended_ms)
            if past.has_answer:
                self._planner.answer_lengths.add(past.call, past.completion_tokens)

    def _cost(self, past: PastCall) -> int | None:
        """Returns the cost of a call, at the changed price where there is one."""
        price = self._prices.overridden_price(past.call.group)
        units_billed = past.call.endpoint in OPAQUE_ENDPOINTS  # at prices that are not changed
        if price is None or units_billed or not (past.cost_nano_usd or past.tokens):
            return past.cost_nano_usd
        return cost_nano_usd(price, past.prompt_tokens, past.completion_tokens)
