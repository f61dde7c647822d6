"""Limits of runs: which rule holds, what is counted where, and what the caller gets."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.admission.fallback import FallbackLimiter
from llm_proxy.admission.lease import Reservation, SettledUsage
from llm_proxy.admission.limit_planner import MAX_PLANS, LimitPlanner
from llm_proxy.admission.limiter import ADMITTED, REJECTED, LimitCheck, LimiterRequest, LimiterResult
from llm_proxy.admission.memory_backend import MemoryBackend
from llm_proxy.admission.policy_resolver import PolicyDefaults, PolicyResolver
from llm_proxy.admission.rate_limit_response import (
    RUN_WARNING_HEADER,
    rate_limit_error,
    rate_limit_headers,
)
from llm_proxy.admission.settlements import SettlementQueue
from llm_proxy.dialects import Call
from llm_proxy.errors import RateLimited, RunBudgetExceeded
from llm_proxy.identity import Budget, Caller, LimitPolicy, Limits, PolicySnapshot, PolicyWatcher

CALLER = Caller("key_1", "virtual", tenant="acme", agent="scout", run_id="night-7")
CHAT = Call("chat.completions", "openai", "m", "m", {}, prompt_bytes=400, max_tokens=50)
EMBED = Call("embeddings", "openai", "m", "m", {}, prompt_bytes=400)


def rule(subject: str = "*", tenant: str = "*", **limits: int) -> LimitPolicy:
    """A rule of runs, such as `rule("agent:scout", turns=3, duration_s=60)`."""
    duration_s, parallel = limits.pop("duration_s", None), limits.pop("parallel", None)
    budgets = tuple(Budget(limit, "total", unit=unit) for unit, limit in limits.items())  # type: ignore[arg-type]  # units by name
    return LimitPolicy("run", tenant, subject, "*", Limits(parallel=parallel), budgets, duration_s=duration_s)


def planner(*policies: LimitPolicy, defaults: PolicyDefaults | None = None) -> LimitPlanner:
    """A planner under these rules."""
    watcher = PolicyWatcher()
    watcher.snapshot = PolicySnapshot(policies)
    return LimitPlanner(watcher, defaults or PolicyDefaults(agent_rpm=0), None, lambda: 0, lambda: False)


def request(by: LimitPlanner, caller: Caller = CALLER, call: Call = CHAT, lease: str = "l") -> LimiterRequest:
    """The request of one call."""
    return by.plan_request(caller, call, lease, reserve=True)


def limits_of(by: LimitPlanner, caller: Caller, call: Call = CHAT) -> dict[str, int]:
    """The limits of a caller's run, by unit or kind."""
    checks = request(by, caller, call).plan.checks
    return {one.unit if one.kind == "budget" else one.kind: one.limit for one in checks if one.scope == "run"}


def test_a_key_s_rule_holds_before_its_agent_s_and_that_before_the_tenant_s() -> None:
    """Each limit by itself, as in every scope."""
    by = planner(
        rule(turns=1, requests=1, tokens=1, parallel=1, duration_s=1),
        rule(tenant="acme", turns=2, requests=2, tokens=2, parallel=2),
        rule("agent:scout", turns=3, requests=3, tokens=3),
        rule("agent:scout", "acme", turns=4, requests=4),
        rule("key:key_1", turns=5),
        rule("key:key_2", turns=9, requests=9, tokens=9, parallel=9, duration_s=9),
        rule("agent:other", turns=8, duration_s=8),
    )
    assert limits_of(by, CALLER) == {"turns": 5, "requests": 4, "tokens": 3, "parallel": 2, "duration": 1000}
    of_another_tenant = replace(CALLER, tenant="b", key_id="k", agent=None)
    assert limits_of(by, of_another_tenant) == {
        "turns": 1,
        "requests": 1,
        "tokens": 1,
        "parallel": 1,
        "duration": 1000,
    }
    assert limits_of(by, replace(CALLER, run_id=None)) == {}


def test_a_turn_is_an_answer_of_a_model_that_writes() -> None:
    """An embedding is a call and no turn, and passes where the turns are used up."""
    assert limits_of(planner(rule(turns=1, requests=2)), CALLER, EMBED) == {"requests": 2}


@pytest.mark.parametrize("name", ["a:b", "{x}", "*", "é" * 256, "n\ud800", "key_1", "../..", "a b"])
def test_no_name_of_a_run_is_in_a_key_of_the_store(name: str) -> None:
    """Only a digest of 32 digits, which another key or tenant does not have."""
    by = planner(rule(turns=1, parallel=2, duration_s=3))
    plan = request(by, replace(CALLER, run_id=name)).plan
    keys = [one.key for one in plan.checks]
    assert all(key.startswith("lp:{acme}:") and key.endswith(f":{plan.run}") for key in keys[1:])
    assert len(plan.run) == 32
    assert set(plan.run) <= set("0123456789abcdef")
    others = [replace(CALLER, key_id="key_2", run_id=name), replace(CALLER, tenant="b", run_id=name)]
    assert plan.run not in {request(by, other).plan.run for other in others}


def test_names_that_are_put_together_alike_are_different_runs() -> None:
    """The lengths are in the digest."""
    by = planner(rule(turns=1))
    pairs = [("ab", "c"), ("a", "bc"), ("abc", ""), ("2:ab", "c")]
    runs = {request(by, Caller(key, "virtual", tenant="t", run_id=run)).plan.run for key, run in pairs}
    assert len(runs) == len(pairs)


def test_the_limits_of_a_raise_end_with_it_though_no_epoch_says_so() -> None:
    """It ends by the clock, also while no database can announce it."""
    by, own = planner(), replace(CALLER, run_id=None, limits=Limits(rpm=3))
    raised = replace(own, limits=Limits(rpm=30), is_raised=True)
    for caller, rpm in ((raised, 30), (own, 3), (raised, 30), (own, 3)):
        assert [one.limit for one in request(by, caller).plan.checks if one.scope == "key"] == [rpm]


def test_plans_of_runs_are_kept_and_bounded() -> None:
    """A storm of new names does not push out other callers' plans."""
    by = planner(rule(turns=1))
    assert request(by).plan is request(by).plan
    other = request(by, replace(CALLER, run_id=None)).plan
    for number in range(MAX_PLANS + 5):
        request(by, replace(CALLER, run_id=f"r{number}"))
    assert request(by, replace(CALLER, run_id=None)).plan is other


class Store:
    """A limits store in memory, whose clock is turned by hand."""

    def __init__(self, by: LimitPlanner) -> None:
        self.now_ms, self.number, self.by = 1_000_000, 0, by
        self.backend = MemoryBackend(lambda: self.now_ms)

    def admit(self, caller: Caller = CALLER, call: Call = CHAT) -> tuple[LimiterRequest, LimiterResult]:
        """Admits a call, or rejects it."""
        self.number += 1
        wanted = request(self.by, caller, call, f"lease{self.number}")
        return wanted, self.backend.limiter.reserve(wanted, self.now_ms)

    def settle(self, wanted: LimiterRequest, result: LimiterResult, used: SettledUsage) -> None:
        """Settles a call."""
        queue = SettlementQueue(self.backend, "r", 0.0)
        entries = tuple(Reservation(wanted, result, self.backend, queue).settlement_entries(used))
        self.number += 1
        self.backend.limiter.settle("settled", self.number, entries, self.now_ms)


calls = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from(["key_1", "key_2"]),
        st.sampled_from([CHAT, EMBED]),
        st.sampled_from([0, 1, 80, 400]),
        st.sampled_from([0, 10, 30_000]),
    ),
    max_size=40,
)


@given(calls)
async def test_no_run_gets_more_than_its_limits(
    history: list[tuple[str, str, Call, int, int]],
) -> None:
    """Whatever runs and keys do beside it; of tokens one call's more, which was alone with what was left."""
    store = Store(planner(rule(turns=3, requests=5, tokens=600, duration_s=100)))
    used: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    for name, key, call, tokens, passes_ms in history:
        store.now_ms += passes_ms
        wanted, result = store.admit(replace(CALLER, run_id=name, key_id=key), call)
        before = used.setdefault((key, name), [])
        turns = sum(one[1] for one in before)
        spent, began_ms = sum(one[2] for one in before), before[0][0] if before else store.now_ms
        over = (
            len(before) >= 5
            or (turns >= 3 and call is CHAT)
            or spent >= 600
            or store.now_ms - began_ms >= 100_000
        )
        assert (result.status == REJECTED) == over
        if result.status == ADMITTED:
            store.settle(wanted, result, SettledUsage(tokens, 0))
            before.append((store.now_ms, int(call is CHAT and tokens > 0), tokens))
        else:
            assert isinstance(rate_limit_error(wanted, result, "enforced"), RunBudgetExceeded)


def test_an_exceeded_run_says_what_it_used_and_that_asking_again_is_vain() -> None:
    """By what was reached: turns, time, money."""
    store = Store(planner(rule(turns=1, duration_s=60)))
    wanted, result = store.admit()
    store.settle(wanted, result, SettledUsage(10, 0))
    error = rate_limit_error(*store.admit(), "enforced")
    assert (error.status, error.code, error.retryable, error.origin) == (
        429,
        "run_budget_exceeded",
        False,
        "budget",
    )
    assert error.message.startswith("The run night-7 has reached its limit: it used 1 turn of 1 turn.")
    assert error.reached_limit is not None
    assert (error.reached_limit.scope, error.reached_limit.unit, error.reached_limit.wait_ms) == (
        "run",
        "turns",
        None,
    )
    store.now_ms += 61_000
    error = rate_limit_error(*store.admit(call=EMBED), "enforced")
    assert "it began 1m1s ago, 1m0s are allowed" in error.message
    assert error.reached_limit is not None
    assert error.reached_limit.unit == "seconds"


def test_calls_of_a_run_at_once_wait_for_each_other() -> None:
    """They may be sent again: the run goes on."""
    store = Store(planner(rule(parallel=1)))
    store.admit()
    error = rate_limit_error(*store.admit(), "enforced")
    assert isinstance(error, RateLimited)
    assert error.retry_after_s
    assert "run night-7" in error.message


def test_from_80_percent_on_a_header_warns() -> None:
    """It names each limit that is near; not those of a rule in shadow mode."""
    store = Store(planner(rule(turns=5, requests=100, duration_s=100)))
    warnings: list[bytes | None] = []
    for _ in range(5):
        wanted, result = store.admit()
        warnings.append(dict(rate_limit_headers(wanted, result, "enforced")).get(RUN_WARNING_HEADER))
        store.settle(wanted, result, SettledUsage(10, 0))
        store.now_ms += 20_000
    assert warnings == [None, None, None, b"turns 4/5", b"seconds 80/100, turns 5/5"]
    shadow = Store(planner(replace(rule(turns=1), mode="shadow")))
    wanted, result = shadow.admit()
    assert RUN_WARNING_HEADER not in dict(rate_limit_headers(wanted, result, "enforced"))


def test_a_failed_call_is_no_turn_and_a_cached_answer_is_one() -> None:
    """Both used no tokens; as calls they count."""
    store = Store(planner(rule(turns=2, requests=9)))
    for from_cache in (False, True, False):
        wanted, result = store.admit()
        store.settle(wanted, result, SettledUsage(0, 0, from_cache=from_cache))
    assert store.admit()[1].used == (1, 3)


async def test_without_the_store_a_replica_gives_a_run_its_share() -> None:
    """Of what was left when last known; all of it to a run that is not known here; time is not shared."""
    by = planner(rule(turns=9, duration_s=60))
    wanted = request(by)
    fallback = FallbackLimiter(1.0)
    fallback.replicas = 3
    local, _, state = await fallback.reserve(wanted)
    assert ([one.limit for one in local.plan.checks], state) == ([60_000, 3], "local")
    fallback.record_result(wanted, LimiterResult(ADMITTED, 0, 0, (1, 2), (0, 0)))
    local, _, _ = await fallback.reserve(wanted)
    assert [one.limit for one in local.plan.checks] == [60_000, 2]
    fallback.record_result(wanted, LimiterResult(ADMITTED, 0, 0, (1, 7), (0, 1)))
    local, result, _ = await fallback.reserve(wanted)
    assert ([one.limit for one in local.plan.checks], result.status) == ([60_000, 0], REJECTED)


def test_the_reaction_to_an_absent_store_is_that_of_limits_not_of_budgets() -> None:
    """A run's limits are a guard; a rule may state another reaction."""
    reactions = {one.on_store_failure for one in request(planner(rule(turns=1, duration_s=1))).plan.checks}
    assert reactions == {"local"}
    strict = planner(replace(rule(turns=1), on_store_failure="deny"))
    assert [one.on_store_failure for one in request(strict).plan.checks] == ["deny"]


def test_rules_without_runs_cost_no_plan_of_their_own() -> None:
    """A call that names a run has the plan of one that does not."""
    by = planner(LimitPolicy("key", limits=Limits(rpm=5)))
    assert request(by).plan is request(by, replace(CALLER, run_id=None)).plan
    assert PolicyResolver.from_snapshot(PolicyDefaults(), PolicySnapshot()).has_runs is False
    assert LimitCheck("budget", "run", "run r", "k", 1).script_code == "N"
