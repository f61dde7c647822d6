"""Recorded calls against other rules, model lists and prices: what admission would have decided.

The gateway's own planner, its estimates and its in-process store decide, by a clock that shows the recorded
times; a call settles when it ended. Invariants: no model and no shared store is called; calls are played in
the order they began; a call that was refused then is not in the history, and is not played.
Units: milliseconds since 1970, tokens, nano-dollars.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from heapq import heappop, heappush

from llm_proxy.admission.access_policy import AccessPolicy
from llm_proxy.admission.lease import Reservation, SettledUsage, SettlementQueue
from llm_proxy.admission.limit_planner import LEASE_TTL_MS, LimitPlanner, PriceSource
from llm_proxy.admission.limiter import REJECTED, UNKNOWN, LimitCheck, LimiterRequest, LimiterResult
from llm_proxy.admission.memory_limiter import BudgetCounter, MemoryBackend
from llm_proxy.admission.policy_resolver import PolicyResolver
from llm_proxy.admission.policy_watcher import PolicyWatcher
from llm_proxy.admission.rate_limit_response import limit_statuses
from llm_proxy.dialects import Call
from llm_proxy.errors import APIError
from llm_proxy.identity import Caller
from llm_proxy.money import Price, cost_nano_usd

SpendBefore = Callable[[LimitCheck], Awaitable[int]]
"""What a budget's owner had spent of its period before the first call that is played."""
YIELD_INTERVAL = 10
"""So many calls are played before other work of the process has its turn."""


@dataclass(frozen=True, slots=True)
class PastCall:
    """One call as it was recorded.

    Attributes:
        tokens: What limits and budgets counted; None when nobody knows.
        cost_nano_usd: The same for money.
        prompt_tokens: As recorded, for other prices.
        has_answer: It has a whole answer of its own: others are expected to be as long.
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


@dataclass(frozen=True, slots=True)
class ReplayVerdict:
    """What would have become of one call.

    Attributes:
        cost_nano_usd: What it would have cost; None when nobody knows the price.
        code: Why it would have been refused; None when it would not.
        scope: Of the limit that refuses; empty where a model list does.
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
        """`overridden_price` holds, by group, the prices of input and output in pico-dollars per token."""
        self._prices = prices
        self._changed = changed
        self.resolved, self.providers = prices.resolved, prices.providers
        self.fallback_providers = prices.fallback_providers

    @property
    def names(self) -> tuple[str, ...] | None:
        """The groups configured by name; None while nobody knows."""
        return self._prices.names

    def price(self, group: str) -> Price | None:
        """The changed price of a group, else today's highest."""
        known, changed = self._prices.price(group), self.overridden_price(group)
        if changed is None:
            return known
        return replace(changed, max_output_tokens=known.max_output_tokens if known else None)

    def overridden_price(self, group: str) -> Price | None:
        """The changed price of a group; None for one whose price stays."""
        found = self._changed.get(group) or self._changed.get(self.resolved(group))
        return Price(*found) if found is not None else None


class Replay:
    """Plays calls, in the order of their beginning."""

    def __init__(
        self,
        policies: PolicyResolver,
        prices: PriceOverrides,
        default_models: tuple[str, ...],
        before: SpendBefore,
    ) -> None:
        self._now_ms = 0
        watch = PolicyWatcher(policies.defaults, None)
        watch.policies = policies
        self._prices = prices
        self._before = before
        self._permit = AccessPolicy(watch, prices, default_models)
        self._asking = LimitPlanner(watch, prices, lambda: self._now_ms, lambda: False)
        self._store = MemoryBackend(lambda: self._now_ms)
        self._desk = SettlementQueue(self._store, "replay", 0.0)
        self._running: list[tuple[int, int, Reservation, PastCall]] = []
        self._number = self._settlements = 0

    async def play(self, calls: Iterable[PastCall]) -> AsyncIterator[ReplayVerdict]:
        """What would have become of each call."""
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
            self._permit.check(past.caller, past.call)
            ask = self._asking.plan_request(past.caller, past.call, str(self._number), reserve=True)
        except APIError as refused:
            return ReplayVerdict(past, cost, refused.code or "forbidden")
        # Nobody plays the signs of life by which a running call keeps what it holds.
        ask = ask._replace(ttl_ms=max(LEASE_TTL_MS, past.ended_ms - past.started_ms + 1))
        answer = await self._admit(ask)
        if answer.status == REJECTED:
            over = [
                one
                for one in limit_statuses(ask.plan, ask.amounts, answer)
                if one.rejects and one.check.enforced
            ]
            check = over[0].check
            return ReplayVerdict(past, cost, "refused", check.scope, check.subject, check.kind)
        taken = Reservation(ask.plan, ask.amounts, answer, ask.lease_id, self._store, self._desk)
        heappush(self._running, (past.ended_ms, self._number, taken, past))
        return ReplayVerdict(past, cost)

    async def _admit(self, ask: LimiterRequest) -> LimiterResult:
        """The answer of the store, which is told first what was spent before the calls that are played."""
        looked = self._store.limiter.reserve(ask._replace(reserve=False), self._now_ms)
        for check, used in zip(ask.plan.checks, looked.used, strict=True):
            if check.kind == "budget" and used == UNKNOWN:
                self._store.limiter.seed(
                    check.key, BudgetCounter(await self._before(check), check.period_end_ms)
                )
        for check in ask.plan.fallback_checks:
            if check.kind == "budget" and check.key not in self._store.limiter.budgets:
                self._store.limiter.seed(
                    check.key, BudgetCounter(await self._before(check), check.period_end_ms)
                )
        return self._store.limiter.reserve(ask, self._now_ms)

    def _settle_until(self, now_ms: int) -> None:
        """Settle the calls that had ended by then, in the order they did."""
        while self._running and self._running[0][0] <= now_ms:
            ended_ms, _, taken, past = heappop(self._running)
            entries = tuple(
                taken.settlement_entries(SettledUsage(past.tokens, self._cost(past), past.provider))
            )
            self._settlements += 1
            self._store.limiter.settle("replay", self._settlements, entries, ended_ms)
            if past.has_answer:
                self._asking.answer_lengths.add(past.call, past.completion_tokens)

    def _cost(self, past: PastCall) -> int | None:
        """What a call cost, at the changed price where there is one."""
        price = self._prices.overridden_price(past.call.group)
        if price is None or not (past.cost_nano_usd or past.tokens):
            return past.cost_nano_usd
        return cost_nano_usd(price, past.prompt_tokens, past.completion_tokens)
