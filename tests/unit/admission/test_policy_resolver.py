"""Which limits and budgets cover a call."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.admission.limiter import quote_name, tenant_tag
from llm_proxy.admission.policy_resolver import PolicyDefaults, PolicyResolver
from llm_proxy.identity import (
    Budget,
    Caller,
    KillSwitch,
    LimitPolicy,
    Limits,
    PolicySnapshot,
    active_kill_switch,
    is_model_allowed,
)
from llm_proxy.identity.caller import PolicyMode, ScopeKind

NOW_MS = 1_800_000_000_000


class FixedModels:
    """A sidecar's models: an alias, and two providers of every group."""

    def resolved(self, name: str) -> str:
        """One group has another name."""
        return "fake-a" if name == "nick" else name

    def providers(self, group: str) -> tuple[str, ...]:  # noqa: ARG002 -- the protocol's
        """The same two."""
        return "one", "two"

    def fallback_providers(self, group: str) -> tuple[str, ...]:  # noqa: ARG002 -- the same
        """One that serves the group itself, and one that does not."""
        return "two", "three"


def checks(
    caller: Caller, *rules: LimitPolicy, group: str = "gpt-4o", defaults: PolicyDefaults | None = None
) -> dict[str, int]:
    """The checks of a caller, by scope and kind."""
    policies = PolicyResolver.from_snapshot(defaults or PolicyDefaults(), PolicySnapshot(rules))
    return {f"{one.scope} {one.kind}": one.limit for one in policies.resolve(caller, group, NOW_MS).checks}


def test_only_agents_have_a_default_limit() -> None:
    """Ten requests a minute."""
    assert checks(Caller("k", "internal", agent="scout")) == {"agent requests": 10}
    assert checks(Caller("k", "internal", tenant="t", user="u")) == {}


def test_zero_means_no_limit() -> None:
    """By the setting, or by a policy for one agent."""
    caller = Caller("k", "internal", agent="scout")
    assert checks(caller, defaults=PolicyDefaults(agent_rpm=0)) == {}
    assert checks(caller, LimitPolicy("agent", subject="scout", limits=Limits(rpm=0))) == {}


def test_a_specific_value_replaces_only_the_default_of_its_own_scope_and_field() -> None:
    """More tokens for an agent change neither its requests nor its tenant or key."""
    caller = Caller("k", "virtual", tenant="t", agent="scout", limits=Limits(rpm=99))
    found = checks(
        caller,
        LimitPolicy("agent", limits=Limits(tpm=100)),
        LimitPolicy("agent", "t", "scout", limits=Limits(tpm=5_000)),
        LimitPolicy("tenant", limits=Limits(rpm=7)),
    )
    assert found == {"agent requests": 10, "agent tokens": 5_000, "tenant requests": 7, "key requests": 99}


def test_every_scope_that_matches_is_checked() -> None:
    """Key, agent, tenant, user at a model, model within a tenant."""
    caller = Caller("k", "virtual", tenant="t", agent="a", user="u")
    rules = [
        LimitPolicy(scope, limits=Limits(rpm=5))
        for scope in ("key", "agent", "tenant", "user_model", "tenant_group")
    ]
    assert set(checks(caller, *rules)) == {
        "key requests",
        "agent requests",
        "tenant requests",
        "user_model requests",
        "tenant_group requests",
    }


@pytest.mark.parametrize(
    ("tenant", "subject", "group", "limit"),
    [("t", "u", "m", 1), ("t", "u", "*", 2), ("t", "*", "m", 3), ("*", "u", "m", 4), ("*", "*", "*", 5)],
)
def test_the_most_specific_policy_wins(tenant: str, subject: str, group: str, limit: int) -> None:
    """Each alone holds; all together, the first of the list does."""
    caller = Caller("k", "internal", tenant="t", user="u")
    rule = LimitPolicy("user_model", tenant, subject, group, Limits(rpm=limit))
    assert checks(caller, rule, group="m") == {"user_model requests": limit}
    assert checks(caller, rule, LimitPolicy("user_model", "t", "u", "m", Limits(rpm=1)), group="m") == {
        "user_model requests": 1
    }


def test_a_keys_own_budget_replaces_only_the_default_of_its_period() -> None:
    """A day's budget of its own, the default month's beside it."""
    caller = Caller("k", "virtual", budgets=(Budget(5, "day"),))
    policies = PolicyResolver.from_snapshot(
        PolicyDefaults(),
        PolicySnapshot((LimitPolicy("key", budgets=(Budget(9, "day"), Budget(70, "month"))),)),
    )
    found = {one.period: one.limit for one in policies.resolve(caller, "m", NOW_MS).checks}
    assert found == {"day": 5, "month": 70}


def test_off_is_not_checked_and_shadow_is_not_enforced() -> None:
    """Per policy or by the setting for all."""
    caller = Caller("k", "internal", agent="a", tenant="t")
    rules = (
        LimitPolicy("agent", subject="a", limits=Limits(tpm=1), mode="off"),
        LimitPolicy("tenant", limits=Limits(rpm=1), mode="shadow"),
    )
    policies = PolicyResolver.from_snapshot(PolicyDefaults(), PolicySnapshot(rules))
    assert [(one.scope, one.kind, one.enforced) for one in policies.resolve(caller, "m", NOW_MS).checks] == [
        ("agent", "requests", True),
        ("tenant", "requests", False),
    ]
    assert checks(caller, *rules, defaults=PolicyDefaults(limits_mode="off")) == {"tenant requests": 1}


@pytest.mark.parametrize("mode", ["shadow", "off"])
def test_shadow_and_disabled_policies_do_not_change_enforced_ones(mode: PolicyMode) -> None:
    """Shadow policies are counted apart."""
    caller = Caller("k", "virtual", tenant="t", limits=Limits(rpm=99), budgets=(Budget(5, "day"),))
    watching = LimitPolicy("key", limits=Limits(rpm=7, tpm=70), budgets=(Budget(9, "day"),), mode=mode)
    policies = PolicyResolver.from_snapshot(
        PolicyDefaults(), PolicySnapshot((watching, LimitPolicy("key", limits=Limits(parallel=2))))
    )
    found = policies.resolve(caller, "m", NOW_MS).checks
    assert {(one.kind, one.limit) for one in found if one.enforced} == {
        ("requests", 99),
        ("parallel", 2),
        ("budget", 5),
    }
    watched = {(one.kind, one.limit) for one in found if not one.enforced}
    assert watched == ({("requests", 7), ("tokens", 70), ("budget", 9)} if mode == "shadow" else set())
    assert len({one.key for one in found}) == len(found)


@pytest.mark.parametrize(
    ("named", "group", "covered"),
    [
        ("fake-*", "fake-a", True),
        ("fake-*", "fak", False),
        ("*-a", "fake-a", True),
        ("f*-*", "fake-a", True),
        ("nick", "fake-a", True),
        ("[f]ake-a", "fake-a", False),
    ],
)
@pytest.mark.parametrize("scope", ["user_model", "tenant_group"])
def test_a_policy_names_models_as_a_key_does(
    scope: ScopeKind, named: str, group: str, *, covered: bool
) -> None:
    """By name, wildcard or alias; each group is counted by itself."""
    caller = Caller("k", "internal", tenant="t", user="u")
    rule = LimitPolicy(scope, group=named, limits=Limits(rpm=1))
    policies = PolicyResolver.from_snapshot(PolicyDefaults(), PolicySnapshot((rule,)))

    def key(at: str) -> list[str]:
        plan = policies.resolve(caller, at, NOW_MS, FixedModels())
        return [one.key for one in plan.checks]

    assert len(key(group)) == covered
    assert not set(key(group)) & set(key("fake-b"))


def test_a_longer_wildcard_wins_and_a_name_wins_over_both() -> None:
    """The longer pattern is the narrower one."""
    caller = Caller("k", "internal", tenant="t")
    laid = [
        LimitPolicy("tenant_group", group=named, limits=Limits(rpm=at))
        for at, named in enumerate(("*", "gpt-*", "gpt-4*", "gpt-4o"), 1)
    ]
    for known in range(1, 5):
        assert checks(caller, *reversed(laid[:known])) == {"tenant_group requests": known}


@pytest.mark.parametrize("one_slot", [False, True])
def test_shared_policies_cover_every_caller_under_one_key(*, one_slot: bool) -> None:
    """Each provider that may be chosen; one that serves only as a fallback counts without rejecting."""
    rules = LimitPolicy("global", limits=Limits(rpm=3)), LimitPolicy("provider", limits=Limits(tpm=5))
    policies = PolicyResolver.from_snapshot(
        PolicyDefaults(agent_rpm=0), PolicySnapshot((*rules, LimitPolicy("tenant", limits=Limits(rpm=9))))
    )
    plans = [
        policies.resolve(
            Caller("k", "internal", tenant=name), "m", NOW_MS, FixedModels(), single_slot=one_slot
        )
        for name in ("t", "u")
    ]
    for plan in plans:
        assert [(one.scope, one.subject) for one in plan.checks if one.is_shared] == [
            ("global", "all callers together"),
            ("provider", "provider one"),
            ("provider", "provider two"),
        ]
        assert [one.subject for one in plan.fallback_checks] == ["provider three"]
        assert [check.scope for _, check in plan.windows] == ["tenant"]
        assert len({key.split("}")[0] for key in plan.keys}) == 1 + (not one_slot)
    shared = set(plans[0].keys) & set(plans[1].keys)
    assert shared == {one.key for one in plans[0].checks if one.is_shared}


def test_limits_of_different_tenants_never_share_a_key() -> None:
    """The same agent in two tenants is two agents."""
    policies = PolicyResolver()
    keys = {
        policies.resolve(Caller("k", "internal", tenant=t, agent="a"), "m", 0).checks[0].key
        for t in ("t", "u")
    }
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("caller", "spent_in"),
    [
        (Caller("k", "virtual", tenant="t"), {"key": None, "agent": "t", "tenant": "t"}),
        (Caller("k", "virtual"), {"key": None, "agent": ""}),
        (Caller("s", "internal", tenant="t"), {"key": "t", "agent": "t", "tenant": "t"}),
    ],
)
def test_a_budget_is_spent_in_one_tenant_except_a_virtual_keys(
    caller: Caller, spent_in: dict[str, str | None]
) -> None:
    """A key that moves to another tenant keeps its spend."""
    money = (Budget(1, "day"),)
    rules = tuple(LimitPolicy(scope, budgets=money) for scope in ("key", "agent", "tenant"))
    plan = PolicyResolver.from_snapshot(PolicyDefaults(agent_rpm=0), PolicySnapshot(rules)).resolve(
        replace(caller, agent="a"), "m", 0
    )
    assert {check.scope: check.spender_tenant for check in plan.checks} == spent_in


names = st.text(min_size=1, max_size=12)


@given(names, names, names, names)
def test_no_name_can_forge_another_key(tenant: str, agent: str, other_tenant: str, other_agent: str) -> None:
    """Braces, colons and stars are quoted; a tenant's keys are in one cluster slot."""
    policies = PolicyResolver()

    def key(of_tenant: str, of_agent: str) -> str:
        return (
            policies.resolve(Caller("k", "internal", tenant=of_tenant, agent=of_agent), "m", 0).checks[0].key
        )

    same = (tenant, agent) == (other_tenant, other_agent)
    assert (key(tenant, agent) == key(other_tenant, other_agent)) is same
    assert key(tenant, agent).split("}")[0].split("{")[1] == quote_name(tenant)
    assert tenant_tag(tenant) != tenant_tag(None)


@pytest.mark.parametrize(
    ("kill", "stopped"),
    [
        (KillSwitch("key", "k"), True),
        (KillSwitch("agent", "a"), True),
        (KillSwitch("agent", "a", "t"), True),
        (KillSwitch("agent", "a", "other"), False),
        (KillSwitch("tenant", "t"), True),
        (KillSwitch("model", "m"), True),
        (KillSwitch("model", "n"), False),
        (KillSwitch("model", "m*"), True),
        (KillSwitch("model", "*", "other"), False),
        (KillSwitch("model", "n*"), False),
        (KillSwitch("agent", "m"), False),
    ],
)
def test_a_kill_switch_stops_what_it_names_and_nothing_else(kill: KillSwitch, *, stopped: bool) -> None:
    """Per key, agent, tenant and model, everywhere or in one tenant."""
    caller = Caller("k", "internal", tenant="t", agent="a")
    assert (active_kill_switch(frozenset({kill}), caller, "m") == kill) is stopped


@pytest.mark.parametrize(
    ("patterns", "group", "may"),
    [
        (("gpt-4o",), "gpt-4o", True),
        (("gpt-4o",), "gpt-4o-mini", False),
        (("gpt-*",), "gpt-4o-mini", True),
        (("*",), "anything/at all", True),
        ((), "gpt-4o", False),
        (("g.t-4o",), "gpt-4o", False),
        (("openai/*",), "openai/gpt-4o", True),
        (("[a-z]*",), "gpt", False),
    ],
)
def test_models_are_allowed_by_name_or_wildcard(patterns: tuple[str, ...], group: str, *, may: bool) -> None:
    """A star is any text; nothing else is special."""
    assert is_model_allowed(patterns, group) is may
