"""Rules of the loop guard: parsed, written, merged over each other."""

import pytest

from llm_proxy.admission.loop_guard import DEFAULT_RULE
from llm_proxy.admission.policy_resolver import PolicyDefaults, PolicyResolver
from llm_proxy.admission.run_guard import guard_rule
from llm_proxy.errors import BadRequest
from llm_proxy.identity import Caller, LimitPolicy
from llm_proxy.identity.admin_documents import parse_policy, policy_document
from llm_proxy.identity.guard_rules import GuardRule, guard_document, parse_guard_rule
from llm_proxy.identity.policies import PolicySnapshot

FULL = {
    "mode": "stop", "notice": True, "quarantine_s": 60, "repeats": 6, "cycles": 3, "max_period": 4,
    "stalled_turns": 10, "burst": 0, "usd_per_minute": "2.5",
}  # fmt: skip


def test_a_rule_is_read_as_it_is_written() -> None:
    """All fields, some, or the mode alone."""
    rule = parse_guard_rule(FULL)
    assert rule is not None
    assert (rule.mode, rule.burst, rule.nano_usd_per_minute) == ("stop", 0, 2_500_000_000)
    assert guard_document(rule) == FULL
    assert parse_guard_rule("warn") == parse_guard_rule({"mode": "warn"}) == GuardRule(mode="warn")
    assert parse_guard_rule(None) is None
    assert guard_document(None) is None


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ("loud", "loop_guard.mode"), (7, "loop_guard"), ({"mode": 1}, "loop_guard.mode"),
        ({"notice": "yes"}, "loop_guard.notice"), ({"repeats": -1}, "loop_guard.repeats"),
        ({"repeats": True}, "loop_guard.repeats"), ({"max_period": 1}, "loop_guard.max_period"),
        ({"usd_per_minute": "NaN"}, "loop_guard.usd_per_minute"),
        ({"usd_per_minute": "-1"}, "loop_guard.usd_per_minute"),
        ({"usd_per_minute": True}, "loop_guard.usd_per_minute"), ({"loops": 5}, "loop_guard.loops"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(given: object, param: str) -> None:
    """By its path."""
    with pytest.raises(BadRequest) as wrong:
        parse_guard_rule(given)
    assert wrong.value.param == param


def test_a_policy_may_state_the_guard_alone_in_three_scopes() -> None:
    """Tenants, agents, keys."""
    for scope in ("tenant", "agent", "key"):
        policy = parse_policy({"scope": scope, "loop_guard": {"mode": "stop"}})
        assert policy_document(policy)["loop_guard"] == {"mode": "stop"}
    with pytest.raises(BadRequest, match="loop_guard"):
        parse_policy({"scope": "global", "loop_guard": "stop"})


def rule_of(*policies: LimitPolicy, caller: Caller | None = None, default: str = "observe") -> GuardRule:
    """The rule that covers a caller under these policies."""
    resolver = PolicyResolver.from_snapshot(PolicyDefaults(), PolicySnapshot(policies))
    caller = caller or Caller("key_1", "virtual", tenant="acme", agent="scout")
    return guard_rule(resolver, caller, default)  # type: ignore[arg-type]  # from the tests


def test_a_keys_rule_goes_over_its_agents_and_that_over_its_tenants_field_by_field() -> None:
    """What none sets is the default."""
    found = rule_of(
        LimitPolicy("key", subject="key_1", loop_guard=GuardRule(mode="stop")),
        LimitPolicy("agent", "acme", "scout", loop_guard=GuardRule(mode="warn", repeats=9)),
        LimitPolicy("agent", loop_guard=GuardRule(repeats=3, cycles=2)),
        LimitPolicy("tenant", "acme", "acme", loop_guard=GuardRule(mode="off", quarantine_s=7)),
        LimitPolicy("tenant", "zeta", "zeta", loop_guard=GuardRule(burst=1)),
    )
    assert (found.mode, found.repeats, found.cycles, found.quarantine_s) == ("stop", 9, 2, 7)
    assert found.burst == DEFAULT_RULE.burst
    assert rule_of().mode == "observe"
    assert rule_of(default="off").mode == "off"
    nobody = Caller("key_1", "virtual")
    agents = LimitPolicy("agent", loop_guard=GuardRule(mode="stop"))
    assert rule_of(agents, caller=nobody).mode == "observe"


def test_a_policy_that_is_off_says_nothing_and_one_in_shadow_only_observes() -> None:
    """As its limits."""
    stop = GuardRule(mode="stop")
    assert rule_of(LimitPolicy("tenant", "acme", "acme", mode="off", loop_guard=stop)).mode == "observe"
    assert rule_of(LimitPolicy("tenant", "acme", "acme", mode="shadow", loop_guard=stop)).mode == "observe"
