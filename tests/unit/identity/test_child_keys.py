"""A child key is never wider than any key above it, whatever was requested, and was changed since."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_proxy.admission.policy_resolver import PolicyResolver
from llm_proxy.errors import BadRequest, Forbidden
from llm_proxy.identity import Budget, Caller, KeySpec, Limits, ServedNames, may_use_model
from llm_proxy.identity.caller import KeyAbove, Period
from llm_proxy.identity.child_keys import DEFAULT_LIFE, child_spec
from llm_proxy.identity.key_chain import MAX_DEPTH, is_bound_within
from llm_proxy.identity.virtual_keys import StoredKey, caller_from_key

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
GROUPS = ("gpt-4o", "gpt-4o-mini", "claude-sonnet", "llama", "hidden/any")
CONFIGURED = GROUPS[:4]
ALIASES = {"fast": "gpt-4o-mini", "gpt-fast": "llama"}
LISTS = (None, ("*",), ("gpt-*",), ("gpt-4o",), ("fast",), ("gpt-fast", "claude-*"), ("hidden/*",), ())


class Names:
    """The served models."""

    names = CONFIGURED

    def resolved(self, name: str) -> str:
        """An alias's group."""
        return ALIASES.get(name, name)


SERVED = ServedNames(Names())
PERIODS: tuple[tuple[Period, ...], ...] = ((), ("day",), ("day", "total"))
ROOT = KeySpec("root", "acme", agent="*", models=("gpt-*",), limits=Limits(60, None, 4), tags=("team",))


def caller_of(number: int, spec: KeySpec, above: tuple[KeyAbove, ...] = (), run: str | None = None) -> Caller:
    """The caller of a stored key."""
    return caller_from_key(
        StoredKey(f"k{number}", spec, b"", None, None, 1, run=run, above=above), f"look{number}"
    )


def as_above(number: int, spec: KeySpec, run: str | None = None) -> KeyAbove:
    """A key as it stands above others."""
    return KeyAbove(
        f"k{number}", f"p{number}", spec.tenant, spec.agent, spec.user, spec.models, spec.limits,
        spec.budgets, spec.max_tokens_cap, spec.cache, spec.tags, run,
    )  # fmt: skip


def random_spec(random: Random, name: str) -> KeySpec:
    """Any specification: as an operator may change a key to at any time."""
    maybe = random.choice
    return KeySpec(
        name, maybe(["acme", "acme", "acme", "zeta"]), maybe([None, "a", "b", "*"]), maybe([None, "u"]),
        maybe(LISTS), Limits(maybe([None, 0, 5, 50]), maybe([None, 100]), maybe([None, 0, 2])),
        tuple(Budget(maybe([1, 100]), period) for period in maybe(PERIODS)),
        maybe([None, 10, 1000]), maybe([True, False]), None, maybe([(), ("x",), ("y", "z")]),
    )  # fmt: skip


def require_not_wider(child: Caller, parent: Caller) -> None:
    """Whatever the child may do, its parent may; every limit of the parent's key counts the child's calls."""
    for group in GROUPS:
        for default in ((), ("llama", "gpt-4o")):
            allowed = may_use_model(child, default, CONFIGURED, group, Names().resolved)
            assert not allowed or may_use_model(parent, default, CONFIGURED, group, Names().resolved)
    if parent.max_tokens_cap is not None:
        assert child.max_tokens_cap is not None
        assert child.max_tokens_cap <= parent.max_tokens_cap
    assert parent.cache or not child.cache
    assert child.tags[: len(parent.tags)] == parent.tags
    assert child.root_key_id == parent.root_key_id
    if child.tenant != parent.tenant:
        return  # it has ended
    resolver = PolicyResolver()
    of_child = {(one.key, one.limit) for one in resolver.resolve(child, "gpt-4o", 0).checks}
    of_parent = resolver.resolve(parent, "gpt-4o", 0).checks
    assert {(one.key, one.limit) for one in of_parent if one.scope == "key"} <= of_child


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**9))
def test_no_key_of_a_chain_is_wider_than_one_above_it_however_each_was_changed(seed: int) -> None:
    """Specifications at random, without any check at their creation."""
    random = Random(seed)  # noqa: S311 -- repeatable
    specs = [random_spec(random, f"k{number}") for number in range(random.randint(2, MAX_DEPTH + 1))]
    above, callers = tuple[KeyAbove, ...](), list[Caller]()
    for number, spec in enumerate(specs):
        caller = caller_of(number, spec, above)
        for other in callers:
            require_not_wider(caller, other)
        if is_bound_within(caller, above):
            for other in callers:
                assert caller.tenant == other.tenant
                assert other.agent in {"*", caller.agent}
                assert other.user in {None, caller.user}
        callers.append(caller)
        above = (*above, as_above(number, spec))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**9))
def test_what_a_child_gets_is_within_its_parent_or_rejected_by_name(seed: int) -> None:
    """Random requests, child below child; an accepted one is bound within, ends in time, and is not wider."""
    random = Random(seed)  # noqa: S311 -- repeatable
    maybe, spec, run = random.choice, ROOT, None
    above: tuple[KeyAbove, ...] = ()
    ends_at: datetime | None = maybe([None, NOW + timedelta(minutes=10)])
    for number in range(MAX_DEPTH):
        parent = caller_of(number, spec, above, run)
        asked: dict[str, Any] = {
            "models": maybe([None, ["gpt-4o"], ["fast"], ["gpt-*"], ["*"], ["gpt-4*"], ["gpt-fast"]]),
            "rpm": maybe([None, 0, 10, 60, 61]), "parallel": maybe([None, 1, 9]),
            "agent": maybe([None, "a", "*"]),
            "max_tokens_cap": maybe([None, 100, 1000]), "run": maybe([None, "r-1", "r-2"]),
            "budgets": [{"limit_usd": maybe([1, 9]), "period": "total"}],
            "expires_in_s": maybe([None, 60, 86_400]),
        }  # fmt: skip
        asked = {name: value for name, value in asked.items() if value is not None}
        try:
            child, child_run = child_spec(parent, ends_at, asked, NOW, SERVED)
        except Forbidden as wider:
            if wider.param not in asked:
                raise
            return
        above = (*above, as_above(number, spec, run))
        caller = caller_of(number + 1, child, above, child_run)
        assert is_bound_within(caller, above)
        assert child.expires_at is not None
        assert NOW < child.expires_at <= (ends_at or NOW + timedelta(days=7))
        require_not_wider(caller, parent)
        spec, run, ends_at = child, child_run, child.expires_at


@pytest.mark.parametrize(
    ("asked", "at_fault"),
    [
        ({"models": ["*"]}, "models"),
        ({"models": ["claude-sonnet"]}, "models"),
        ({"models": ["gpt-fast"]}, None),
        ({"rpm": 0}, "rpm"),
        ({"rpm": 61}, "rpm"),
        ({"parallel": 5}, "parallel"),
        ({"user": "u"}, None),
        ({"expires_in_s": 3601}, "expires_in_s"),
        ({"expires_in_s": 604_801}, "expires_in_s"),
        ({"expires_in_s": True}, "expires_in_s"),
        ({"tenant": "zeta"}, "tenant"),
        ({"run": "a\n"}, "run"),
        ({"tags": [f"t{one}" for one in range(10)]}, "tags"),
    ],
)
def test_each_way_to_be_wider_is_rejected(asked: dict[str, Any], at_fault: str | None) -> None:
    """By its name; a name that the parent's wildcard covers is held to its group when it is called."""
    ends_at = NOW + DEFAULT_LIFE
    if at_fault is not None:
        with pytest.raises((BadRequest, Forbidden)) as error:
            child_spec(caller_of(0, ROOT), ends_at, asked, NOW, SERVED)
        assert error.value.param == at_fault
        return
    spec, _ = child_spec(caller_of(0, ROOT), ends_at, asked, NOW, SERVED)
    caller = caller_of(1, spec, (as_above(0, ROOT),))
    assert not may_use_model(caller, (), CONFIGURED, "llama", Names().resolved)


def test_a_chain_has_an_end() -> None:
    """Not one key more than allowed."""
    above = tuple(as_above(number, ROOT) for number in range(MAX_DEPTH))
    with pytest.raises(Forbidden) as error:
        child_spec(caller_of(9, ROOT, above), None, {}, NOW, SERVED)
    assert error.value.code == "too_deep"
    spec, _ = child_spec(caller_of(9, ROOT, above[1:]), None, {}, NOW, SERVED)
    assert spec.expires_at == NOW + DEFAULT_LIFE
    assert (
        replace(spec, expires_at=None, name="root", tags=ROOT.tags, models=ROOT.models, limits=ROOT.limits)
        == ROOT
    )
