"""The Lua scripts and the limiter in Python: any history, the same results, on a real Valkey."""

from collections.abc import AsyncIterator, Iterable
from typing import cast
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_proxy.admission.limiter import (
    NO_EPOCH,
    UNKNOWN,
    LimitCheck,
    LimiterRequest,
    LimiterResult,
    LimitPlan,
    SettlementEntry,
)
from llm_proxy.admission.memory_limiter import BudgetCounter, MemoryLimiter
from llm_proxy.admission.redis.backend import RedisBackend

HANDS = "local function clock() return tonumber(redis.call('GET', 'test-clock-%s')) end"
START_MS = 1_800_000_000_000
KINDS = {
    "R": ("requests", 3),
    "r": ("requests", 2),
    "T": ("tokens", 100),
    "t": ("tokens", 40),
    "P": ("parallel", 2),
    "p": ("parallel", 1),
    "B": ("budget", 500),
    "b": ("budget", 90),
}
letters = st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=5, unique=True)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), letters, st.integers(0, 60), st.booleans()),
        st.tuples(
            st.just("wait"), st.sampled_from([1, 400, 999, 1_000, 15_000, 59_999, 60_000, 61_000, 130_000])
        ),
        st.tuples(st.just("settle"), st.integers(0, 30), st.integers(0, 120), st.booleans()),
        st.tuples(st.just("keep"), st.integers(0, 30)),
        st.tuples(st.just("correct"), st.integers(-400, 200), st.sampled_from([0, 1, 1_000, 61_000])),
        st.tuples(st.just("seed"), st.integers(0, 400)),
        st.tuples(st.just("lose")),
        st.tuples(st.just("try"), st.sampled_from(["BT", "B", "Bb", "b", "BP"]), st.integers(0, 3)),
        st.tuples(st.just("epoch"), st.integers(0, 4)),
        st.tuples(st.just("ask epoch"), st.integers(0, 4)),
    ),
    max_size=40,
)


class Pair:
    """A store and the limiter in Python, given the same requests."""

    def __init__(self, store: RedisBackend, name: str) -> None:
        self.store, self.model, self.name = store, MemoryLimiter(), name
        self.now_ms, self.number = START_MS, 0
        self.taken: list[tuple[LimiterRequest, LimiterResult]] = []

    async def turn_clock(self, by_ms: int) -> None:
        """Moves the clock."""
        self.now_ms += by_ms
        await self.store.cluster.connection_for("").execute("SET", f"test-clock-{self.name}", self.now_ms)

    def check(self, letter: str) -> LimitCheck:
        """The check of a letter."""
        kind, limit = KINDS[letter]
        key = f"test:{{{self.name}}}:{letter}"
        return LimitCheck(kind, "key", letter, key, limit, letter.isupper())  # type: ignore[arg-type]  # from the table

    async def admit(
        self, wanted: Iterable[str], size: int, *, take: bool, epoch: int = NO_EPOCH, name: str = ""
    ) -> None:
        """Both admit, or both reject, with the same figures."""
        checks = tuple(self.check(letter) for letter in wanted)
        wants = tuple(size if check.kind in {"tokens", "budget"} else 1 for check in checks)
        plan = LimitPlan(self.name, f"{{{self.name}}}", checks, 0)
        ask = LimiterRequest(plan, wants, epoch, uuid4().hex, 30_000, take, name)
        answer = await self.store.reserve(ask)
        assert answer == self.model.reserve(ask, self.now_ms)
        if answer.status == 0 and take:
            self.taken.append((ask, answer))

    async def settle(self, index: int, truth: int, *, twice: bool) -> None:
        """Both settle a call, a repeated batch once."""
        if not self.taken:
            return
        ask, answer = self.taken.pop(index % len(self.taken))
        entries: list[SettlementEntry] = []
        for check, want in zip(ask.plan.checks, ask.amounts, strict=True):
            if check.kind == "tokens":
                entries.append(
                    SettlementEntry("tokens", check.key, answer.now_ms // 1000, truth - want, ask.lease_id)
                )
            elif check.kind == "budget":
                entries.append(SettlementEntry("budget", check.key, amount=truth, lease_id=ask.lease_id))
            elif check.kind == "parallel":
                entries.append(SettlementEntry("parallel", check.key, lease_id=ask.lease_id))
        self.number += 1
        for _ in range(1 + twice):
            await self.store.settle(f"test:{{{self.name}}}:settled", self.number, tuple(entries))
            self.model.settle("settled", self.number, tuple(entries), self.now_ms)

    async def correct(self, amount: int, ago_ms: int) -> None:
        """Both correct a budget by what the ledger did not know so long ago."""
        entries = tuple(
            SettlementEntry("budget", self.check(letter).key, self.now_ms - ago_ms, amount) for letter in "Bb"
        )
        self.number += 1
        await self.store.settle(f"test:{{{self.name}}}:settled", self.number, entries)
        self.model.settle("settled", self.number, entries, self.now_ms)

    def held(self, index: int) -> tuple[SettlementEntry, ...]:
        """The slots and the money a running call holds."""
        if not self.taken:
            return ()
        ask, _ = self.taken[index % len(self.taken)]
        return tuple(
            SettlementEntry(
                check.kind, check.key, amount=want if check.kind == "budget" else 0, lease_id=ask.lease_id
            )
            for check, want in zip(ask.plan.checks, ask.amounts, strict=True)
            if check.kind in {"parallel", "budget"}
        )

    async def keep(self, entries: tuple[SettlementEntry, ...]) -> None:
        """Both renew what a call holds."""
        if entries:
            await self.store.renew(entries, 20_000)
            self.model.renew(entries, 20_000, self.now_ms)

    async def seed(self, spent: int) -> None:
        """Both seed the missing counters."""
        for letter in "Bb":
            await self.store.seed(self.check(letter).key, spent)
            self.model.seed(self.check(letter).key, BudgetCounter(spent, seeded_ms=self.now_ms))

    async def lose(self) -> None:
        """Both lose their budget counters."""
        for letter in "Bb":
            await self.store.cluster.connection_for("").execute("DEL", self.check(letter).key)
            self.model.budgets.pop(self.check(letter).key, None)

    async def epoch(self, epoch: int, *, asks: bool) -> None:
        """Both raise an epoch, or compare one."""
        if asks:
            await self.admit(["R"], 1, take=True, epoch=epoch)
            return
        key = LimitPlan(self.name, "", (), 0).epoch_key
        await self.store.raise_epoch(key, epoch)
        self.model.raise_epoch(key, epoch)

    async def play(self, step: tuple[object, ...]) -> None:
        """One step of a history."""
        match step:
            case ("admit", wanted, int() as size, bool() as take):
                await self.admit(cast("list[str]", wanted), size, take=take)
            case ("wait", int() as ms):
                await self.turn_clock(ms)
            case ("settle", int() as index, int() as truth, bool() as twice):
                await self.settle(index, truth, twice=twice)
            case ("try", str() as wanted, int() as who):
                await self.admit(wanted, 120 * (who + 1), take=True, name=f"call {who}")
            case ("correct", int() as amount, int() as ago_ms):
                await self.correct(amount, ago_ms)
            case ("keep", int() as index):
                await self.keep(self.held(index))
            case ("lose",):
                await self.lose()
            case ("seed", int() as spent):
                await self.seed(spent)
            case (("epoch" | "ask epoch") as what, int() as epoch):
                await self.epoch(epoch, asks=what == "ask epoch")
            case _:
                raise AssertionError(step)

    async def look(self) -> tuple[LimiterResult, LimiterResult]:
        """Everything the store and the limiter have."""
        checks = tuple(self.check(letter) for letter in sorted(KINDS))
        plan = LimitPlan(self.name, f"{{{self.name}}}", checks, 0)
        ask = LimiterRequest(plan, (1,) * len(checks), NO_EPOCH, "look", 30_000, reserve=False)
        return await self.store.reserve(ask), self.model.reserve(ask, self.now_ms)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=steps)
async def test_scripts_and_limiter_agree_on_any_history(
    limits_redis_url: str, history: list[tuple[object, ...]]
) -> None:
    """Whatever is reserved, settled, released, renewed, seeded or expired."""
    name = uuid4().hex
    store = RedisBackend(limits_redis_url, timeout_s=5, clock=HANDS % name)
    await store.start()
    pair = Pair(store, name)
    try:
        await pair.turn_clock(0)
        await pair.play(("seed", 0))
        for step in history:
            await pair.play(step)
        stored, modelled = await pair.look()
        assert stored == modelled
    finally:
        await store.stop()


@pytest.fixture
async def pair(limits_redis_url: str) -> AsyncIterator[Pair]:
    """A store and the limiter, both empty."""
    name = uuid4().hex
    store = RedisBackend(limits_redis_url, timeout_s=5, clock=HANDS % name)
    await store.start()
    made = Pair(store, name)
    await made.turn_clock(0)
    yield made
    await store.stop()


async def test_a_request_fits_after_the_scripts_wait_and_not_a_millisecond_earlier(pair: Pair) -> None:
    """On the store's clock."""
    for gap_ms in (0, 700, 19_000):
        await pair.turn_clock(gap_ms)
        await pair.admit(["R"], 1, take=True)
    ask = LimiterRequest(LimitPlan("t", "{t}", (pair.check("R"),), 0), (1,), NO_EPOCH, "x", 30_000)
    refused = await pair.store.reserve(ask)
    assert (refused.status, refused.used) == (4, (3,))
    await pair.turn_clock(refused.extra[0] - 1)
    assert (await pair.store.reserve(ask)).extra == (1,)
    await pair.turn_clock(1)
    assert (await pair.store.reserve(ask)).status == 0


async def test_a_rejected_call_is_counted_by_no_check(pair: Pair) -> None:
    """All are checked, then all are counted."""
    await pair.admit(["P", "R"], 1, take=True)
    await pair.admit(["P"], 1, take=True)
    await pair.admit(["R", "T", "P"], 50, take=True)
    ask = LimiterRequest(
        LimitPlan("t", "{t}", (pair.check("R"), pair.check("T")), 0),
        (1, 1),
        NO_EPOCH,
        "x",
        30_000,
        reserve=False,
    )
    assert (await pair.store.reserve(ask)).used == (1, 0)


async def test_a_missing_budget_is_unknown_and_settling_does_not_make_it_known(pair: Pair) -> None:
    """Never 0, whatever was settled on it."""
    budget = pair.check("B")
    ask = LimiterRequest(LimitPlan("t", "{t}", (budget,), 0), (1,), NO_EPOCH, "x", 30_000)
    await pair.store.settle(
        f"test:{{{pair.name}}}:settled", 1, (SettlementEntry("budget", budget.key, amount=5, lease_id="x"),)
    )
    assert (await pair.store.reserve(ask)).used == (UNKNOWN,)
    await pair.store.seed(budget.key, 100)
    await pair.store.seed(budget.key, 0)
    assert (await pair.store.reserve(ask)).used == (100,)


async def test_a_call_reserved_in_a_lost_counter_settles_in_full_in_the_new_one(pair: Pair) -> None:
    """The rebuilt counter has no reservation of it."""
    budget = pair.check("B")
    await pair.store.seed(budget.key, 100)
    ask = LimiterRequest(LimitPlan("t", "{t}", (budget,), 0), (30,), NO_EPOCH, "x", 30_000)
    assert (await pair.store.reserve(ask)).status == 0
    await pair.store.cluster.connection_for("").execute("DEL", budget.key)
    await pair.store.seed(budget.key, 100)
    entry = SettlementEntry("budget", budget.key, amount=50, lease_id="x")
    await pair.store.settle(f"test:{{{pair.name}}}:settled", 1, (entry,))
    assert (await pair.store.reserve(ask)).used == (150,)
