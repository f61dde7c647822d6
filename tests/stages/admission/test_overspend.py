"""How far several replicas can overspend a budget on a real Valkey, whatever calls cost.

The limiter in Python plays the same history and must return the same results as the scripts.
"""

from dataclasses import dataclass, field
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_proxy.admission.limiter import (
    ADMITTED,
    NO_EPOCH,
    LimitCheck,
    LimiterRequest,
    LimiterResult,
    LimitPlan,
    SettlementEntry,
)
from llm_proxy.admission.memory_limiter import BudgetCounter, MemoryLimiter
from llm_proxy.admission.redis.backend import RedisBackend

HANDS = "local function clock() return tonumber(redis.call('GET', 'test-clock-%s')) end"
START_MS, LIFE_MS, LIMIT, REPLICAS = 1_800_000_000_000, 30_000, 500, 3
step = st.one_of(
    st.tuples(st.just("call"), st.integers(0, 4), st.sampled_from([0, 40, 90, 160, 300, 700])),
    st.tuples(st.just("call"), st.integers(0, 4), st.sampled_from([90, 160, 300])),
    st.tuples(st.just("end"), st.integers(0, 9), st.sampled_from([0, 30, 90, 200, 900])),
    st.tuples(st.just("end"), st.integers(0, 9), st.sampled_from([0, 30, 90])),
    st.tuples(st.just("time"), st.sampled_from([10, 2_000, 4_999, 5_000, 29_999]), st.just(0)),
    st.tuples(st.just("keep"), st.integers(0, 9), st.just(0)),
)
histories = st.lists(step, min_size=10, max_size=60)


@dataclass(slots=True)
class Running:
    """A call, what of the budget was free for it, and until when it is held."""

    ask: LimiterRequest
    counted: int
    until_ms: int


@dataclass(slots=True)
class Budget:
    """One budget, counted by the replicas and by the model.

    Attributes:
        together: What was counted for each call that ran when the last one was let in.
        excess: What of them has cost more.
    """

    stores: list[RedisBackend]
    name: str
    model: MemoryLimiter = field(default_factory=MemoryLimiter)
    now_ms: int = START_MS
    turn: int = 0
    running: list[Running] = field(default_factory=list[Running])
    spent: int = 0
    ended: int = 0
    together: dict[str, int] = field(default_factory=dict[str, int])
    excess: int = 0

    @property
    def check(self) -> LimitCheck:
        """The budget."""
        return LimitCheck("budget", "key", "key k", f"test:{{{self.name}}}:m", LIMIT)

    def store(self) -> RedisBackend:
        """The replicas in turn."""
        self.turn += 1
        return self.stores[self.turn % len(self.stores)]

    async def pass_time(self, by_ms: int) -> None:
        """Moves the store's clock."""
        self.now_ms += by_ms
        await self.store().cluster.connection_for("").execute("SET", f"test-clock-{self.name}", self.now_ms)

    async def call(self, who: int, want: int) -> None:
        """A call asks, or retries; none is admitted once the budget is spent."""
        plan = LimitPlan(self.name, f"{{{self.name}}}", (self.check,), 0)
        ask = LimiterRequest(plan, (want,), NO_EPOCH, uuid4().hex, LIFE_MS, retry_id=f"{who} {want}")
        answer: LimiterResult = await self.store().reserve(ask)
        assert answer == self.model.reserve(ask, self.now_ms)
        if answer.status == ADMITTED:
            assert self.spent < LIMIT
            left = LIMIT - self.spent - answer.extra[0]
            self.running.append(Running(ask, min(want, left), self.now_ms + LIFE_MS))
            self.together = {
                one.ask.lease_id: one.counted if one.until_ms > self.now_ms else 0 for one in self.running
            }
            self.excess = 0

    async def end(self, index: int, cost: int) -> None:
        """A call ends, with its cost."""
        if not self.running:
            return
        one = self.running.pop(index % len(self.running))
        entry = SettlementEntry("budget", self.check.key, amount=cost, lease_id=one.ask.lease_id)
        self.ended += 1
        for _ in range(2):  # a batch that is sent again counts once
            await self.store().settle(f"test:{{{self.name}}}:settled", self.ended, (entry,))
        self.model.settle("settled", self.ended, (entry,), self.now_ms)
        self.excess += max(0, cost - self.together[one.ask.lease_id])
        self.spent += cost

    async def keep(self, index: int) -> None:
        """A replica renews a call."""
        if self.running:
            one = self.running[index % len(self.running)]
            entry = SettlementEntry(
                "budget", self.check.key, amount=one.ask.amounts[0], lease_id=one.ask.lease_id
            )
            await self.store().renew((entry,), LIFE_MS)
            self.model.renew((entry,), LIFE_MS, self.now_ms)
            if one.until_ms > self.now_ms:
                one.until_ms = self.now_ms + LIFE_MS


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=histories)
async def test_a_budget_is_overspent_only_by_what_the_last_calls_cost_beyond_their_reservations(
    limits_redis_url: str, history: list[tuple[str, int, int]]
) -> None:
    """A call that runs alone reserves what is left; one whose replica was silent for 30 seconds nothing."""
    name = uuid4().hex
    stores = [RedisBackend(limits_redis_url, timeout_s=5, clock=HANDS % name) for _ in range(REPLICAS)]
    for store in stores:
        await store.start()
    budget = Budget(stores, name)
    try:
        await budget.pass_time(0)
        await budget.store().seed(budget.check.key, 0)
        budget.model.seed(budget.check.key, BudgetCounter(0))
        for what, first, second in history:
            match what:
                case "call":
                    await budget.call(first, second)
                case "end":
                    await budget.end(first, second)
                case "keep":
                    await budget.keep(first)
                case _:
                    await budget.pass_time(first)
        while budget.running:
            await budget.end(0, 250)
        assert budget.spent <= LIMIT + budget.excess
        assert budget.model.budgets[budget.check.key].spent == budget.spent
        assert not budget.model.budgets[budget.check.key].reservations
    finally:
        for store in stores:
            await store.stop()
