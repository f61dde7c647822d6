"""The Lua scripts and the limiter in Python: any history, the same results, on a real Valkey."""

from collections.abc import AsyncIterator, Iterable
from typing import cast
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
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
from llm_proxy.admission.policy_resolver import PolicyDefaults, PolicyResolver
from llm_proxy.admission.redis.backend import RedisBackend
from llm_proxy.identity import Budget, Caller, Limits, PolicySnapshot
from llm_proxy.identity.caller import KeyAbove

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
    "N": ("budget", 300),
    "n": ("budget", 70),
    "D": ("duration", 70_000),
    "d": ("duration", 900),
}
RUN_IDLE_MS, MAX_RUNS = 100_000, 2
RUNS = ["run1", "run2", "run3"]
letters = st.one_of(
    st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=5, unique=True),
    st.sampled_from([["R"], ["r"], ["R", "r"]]),  # a script of their own
)
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
        st.tuples(st.just("run"), st.sampled_from(RUNS)),
        st.tuples(
            st.just("try"), st.sampled_from(["BT", "B", "Bb", "b", "BP", "N", "BNn", "D"]), st.integers(0, 3)
        ),
        st.tuples(st.just("epoch"), st.integers(0, 4)),
        st.tuples(st.just("ask epoch"), st.integers(0, 4)),
    ),
    max_size=40,
)


class Pair:
    """A store and the limiter in Python, given the same requests."""

    def __init__(self, store: RedisBackend, name: str) -> None:
        self.store, self.model, self.name = store, MemoryLimiter(RUN_IDLE_MS, MAX_RUNS), name
        self.run = RUNS[0]
        self.now_ms, self.number = START_MS, 0
        self.taken: list[tuple[LimiterRequest, LimiterResult]] = []

    async def turn_clock(self, by_ms: int) -> None:
        """Moves the clock."""
        self.now_ms += by_ms
        await self.store.cluster.connection_for("").execute("SET", f"test-clock-{self.name}", self.now_ms)

    def check(self, letter: str) -> LimitCheck:
        """The check of a letter; of the present run for a run's."""
        kind, limit = KINDS[letter]
        key = f"test:{{{self.name}}}:{letter}"
        scope, key = ("run", f"{key}:{self.run}") if letter in "NnDd" else ("key", key)
        return LimitCheck(kind, scope, letter, key, limit, letter.isupper())  # type: ignore[arg-type]  # from the table

    def plan(self, checks: tuple[LimitCheck, ...]) -> LimitPlan:
        """The plan of these checks, in the present run if one of them is a run's."""
        tag = f"{{{self.name}}}"
        run = self.run if any(check.scope == "run" for check in checks) else ""
        return LimitPlan(self.name, tag, checks, 0, run=run, runs_key=f"test:{tag}:runs")

    async def admit(
        self, wanted: Iterable[str], size: int, *, take: bool, epoch: int = NO_EPOCH, name: str = ""
    ) -> None:
        """Both admit, or both reject, with the same figures."""
        checks = tuple(self.check(letter) for letter in wanted)
        wants = tuple(size if check.kind in {"tokens", "budget"} else 1 for check in checks)
        await self.ask(LimiterRequest(self.plan(checks), wants, epoch, uuid4().hex, 30_000, take, name))

    async def ask(self, ask: LimiterRequest) -> LimiterResult:
        """Both answer alike; what is admitted can be settled."""
        answer = await self.store.reserve(ask)
        assert answer == self.model.reserve(ask, self.now_ms)
        if answer.status == 0 and ask.reserve:
            self.taken.append((ask, answer))
        return answer

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
                kind = check.settlement_kind
                entries.append(SettlementEntry(kind, check.key, amount=truth, lease_id=ask.lease_id))
            elif check.kind == "parallel":
                entries.append(SettlementEntry("parallel", check.key, lease_id=ask.lease_id))
        self.number += 1
        for _ in range(1 + twice):
            await self.store.settle(f"test:{{{self.name}}}:settled", self.number, tuple(entries))
            self.model.settle("settled", self.number, tuple(entries), self.now_ms)

    async def correct(self, amount: int, ago_ms: int) -> None:
        """Both correct a budget by what the ledger did not know so long ago."""
        entries = tuple(
            SettlementEntry(check.settlement_kind, check.key, self.now_ms - ago_ms, amount)
            for check in map(self.check, "BbNn")
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
                check.settlement_kind,
                check.key,
                amount=want if check.kind == "budget" else 0,
                lease_id=ask.lease_id,
            )
            for check, want in zip(ask.plan.checks, ask.amounts, strict=True)
            if check.kind in {"parallel", "budget", "duration"}
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
        """Both lose their budget counters, and the present run's."""
        for letter in "BbNnDd":
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
            case ("wait", int() as ms):
                await self.turn_clock(ms)
            case ("lose",):
                await self.lose()
            case ("run", str() as run):
                self.run = run
            case _:
                await self._play_call(step)

    async def _play_call(self, step: tuple[object, ...]) -> None:
        match step:
            case ("admit", wanted, int() as size, bool() as take):
                await self.admit(cast("list[str]", wanted), size, take=take)
            case ("settle", int() as index, int() as truth, bool() as twice):
                await self.settle(index, truth, twice=twice)
            case ("try", str() as wanted, int() as who):
                await self.admit(wanted, 120 * (who + 1), take=True, name=f"call {who}")
            case ("correct", int() as amount, int() as ago_ms):
                await self.correct(amount, ago_ms)
            case ("keep", int() as index):
                await self.keep(self.held(index))
            case ("seed", int() as spent):
                await self.seed(spent)
            case (("epoch" | "ask epoch") as what, int() as epoch):
                await self.epoch(epoch, asks=what == "ask epoch")
            case _:
                raise AssertionError(step)

    async def look(self) -> tuple[LimiterResult, LimiterResult]:
        """Everything the store and the limiter have."""
        checks = tuple(self.check(letter) for letter in sorted(KINDS))
        plan = self.plan(checks)
        ask = LimiterRequest(plan, (1,) * len(checks), NO_EPOCH, "look", 30_000, reserve=False)
        return await self.store.reserve(ask), self.model.reserve(ask, self.now_ms)


def _store(url: str, name: str) -> RedisBackend:
    return RedisBackend(url, timeout_s=5, clock=HANDS % name, run_idle_ms=RUN_IDLE_MS, max_runs=MAX_RUNS)


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
    store = _store(limits_redis_url, name)
    await store.start()
    pair = Pair(store, name)
    try:
        await pair.turn_clock(0)
        await pair.play(("seed", 0))
        for step in history:
            await pair.play(step)
        for pair.run in RUNS:
            stored, modelled = await pair.look()
            assert stored == modelled
    finally:
        await store.stop()


async def test_the_scripts_of_windows_and_the_limiter_agree_on_any_amount(limits_redis_url: str) -> None:
    """Also on none, which asks when a window is empty."""
    name = uuid4().hex
    store = _store(limits_redis_url, name)
    await store.start()
    pair = Pair(store, name)
    try:
        for letters in ("R", "r", "Rr", "RP"):
            plan = pair.plan(tuple(map(pair.check, letters)))
            for amount in (1, 0, 2, 1, 2):
                for take in (False, True):
                    await pair.turn_clock(7_000)
                    amounts = (amount,) * len(letters)
                    await pair.ask(LimiterRequest(plan, amounts, NO_EPOCH, uuid4().hex, 30_000, take))
    finally:
        await store.stop()


ABOVE = {"root": (), "first": ("root",), "second": ("root",), "deep": ("root", "first")}
"""The keys of a family, and those above each, the root first."""


def _amount(check: LimitCheck, size: int) -> int:
    return size if check.kind == "tokens" or (check.kind == "budget" and check.unit == "usd") else 1


def _family(tenant: str) -> dict[str, Caller]:
    """A key, two keys below it, and one below the first of them; each with limits of its own."""
    limits = {
        "root": Limits(5, 400, 6),
        "first": Limits(3, 250, 2),
        "second": Limits(4),
        "deep": Limits(2, 90),
    }
    budgets = (Budget(900, "total"), Budget(12, "total", unit="requests"))
    keys = {name: KeyAbove(name, "", tenant, limits=limit, budgets=budgets) for name, limit in limits.items()}
    return {
        name: Caller(
            name,
            "virtual",
            tenant,
            limits=limits[name],
            budgets=budgets,
            above=tuple(keys[one] for one in ids),
        )
        for name, ids in ABOVE.items()
    }


calls_of_a_family = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["root", "first", "second", "deep"]), st.integers(1, 120), st.booleans()),
        st.tuples(st.just("settle"), st.integers(0, 30), st.integers(0, 200)),
        st.tuples(st.just("wait"), st.sampled_from([1, 999, 15_000, 59_999, 61_000])),
    ),
    max_size=40,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=calls_of_a_family)
@example(
    history=[(name, 1, True) for name in ("root", "root", "first", "first", "second", "second", "second")]
)
async def test_scripts_and_limiter_agree_on_chains_of_child_keys(
    limits_redis_url: str, history: list[tuple[str, int, int]]
) -> None:
    """Each call counts for its key and all above it, and none has more of them in a minute than it may."""
    tenant = uuid4().hex
    store, callers = _store(limits_redis_url, tenant), _family(tenant)
    resolver = PolicyResolver.from_snapshot(PolicyDefaults(agent_rpm=0), PolicySnapshot())
    plans = {name: resolver.resolve(caller, "", START_MS, None) for name, caller in callers.items()}
    await store.start()
    pair = Pair(store, tenant)
    admitted: list[tuple[int, str]] = []
    try:
        await pair.turn_clock(0)
        for key in {one.key for plan in plans.values() for one in plan.checks if one.kind == "budget"}:
            await store.seed(key, 0)
            pair.model.seed(key, BudgetCounter(0, seeded_ms=START_MS))
        for what, *numbers in history:
            if what == "wait":
                await pair.turn_clock(numbers[0])
            elif what == "settle":
                await pair.settle(numbers[0], numbers[1], twice=False)
            else:
                plan, (size, take) = plans[what], numbers
                amounts = tuple(_amount(one, size) for one in plan.checks)
                ask = LimiterRequest(plan, amounts, NO_EPOCH, uuid4().hex, 30_000, bool(take))
                if (await pair.ask(ask)).status == 0 and take:
                    admitted.append((pair.now_ms, what))
    finally:
        await store.stop()
    for name, caller in callers.items():
        below = {name, *(one for one, of in ABOVE.items() if name in of)}
        times = [at for at, by in admitted if by in below]
        for begin in times:
            assert sum(begin <= at < begin + 60_000 for at in times) <= (caller.limits.rpm or 0)


@pytest.fixture
async def pair(limits_redis_url: str) -> AsyncIterator[Pair]:
    """A store and the limiter, both empty."""
    name = uuid4().hex
    store = _store(limits_redis_url, name)
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


async def test_a_run_that_is_not_known_has_used_nothing_and_ends_when_it_was_idle(pair: Pair) -> None:
    """Its time too; a settlement that comes after that begins it anew."""
    await pair.admit("ND", 200, take=True)
    await pair.turn_clock(60_000)
    await pair.admit("ND", 200, take=True)
    await pair.settle(0, 150, twice=True)
    ask = LimiterRequest(
        pair.plan((pair.check("N"), pair.check("D"))), (1, 1), NO_EPOCH, "x", 1, reserve=False
    )
    assert (await pair.store.reserve(ask)).used == (150, 60_000)
    await pair.turn_clock(RUN_IDLE_MS)
    assert (await pair.store.reserve(ask)).used == (0, 0)
    late = SettlementEntry("run", pair.check("N").key, amount=40, lease_id="late")
    await pair.store.settle(f"test:{{{pair.name}}}:settled", 9, (late,))
    assert (await pair.store.reserve(ask)).used == (40, 0)


async def test_one_run_too_many_of_a_key_ends_the_one_that_was_idle_for_longest(pair: Pair) -> None:
    """Its counters leave the store."""
    for run in RUNS:
        pair.run = run
        await pair.admit("Nd", 90, take=True)
        await pair.turn_clock(1_000)
    connection = pair.store.cluster.connection_for("")
    kept = [await connection.execute("EXISTS", f"test:{{{pair.name}}}:N:{run}") for run in RUNS]
    assert kept == [0, 1, 1]
    assert await connection.execute("ZCARD", f"test:{{{pair.name}}}:runs") == MAX_RUNS
