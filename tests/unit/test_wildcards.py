"""Wildcard patterns match as their regular expression does, in linear time, wherever they are accepted."""

import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as some

from llm_proxy.call_guard import TimeoutPolicy, Timeouts
from llm_proxy.dialects.dialect import ModelIndex
from llm_proxy.dialects.request.model_resolution import providers_for, resolve
from llm_proxy.errors import ModelNotFound
from llm_proxy.identity.caller import Caller
from llm_proxy.identity.policies import KillSwitch, active_kill_switch, is_model_allowed
from llm_proxy.sidecar.config import MAX_WILDCARDS, InvalidConfig, build_effective_config, is_served
from llm_proxy.upstream.catalog import Catalog, ModelGroup
from llm_proxy.wildcards import wildcard_matches

SLOW = [
    ("*" * 255 + "z", "a" * 256),
    ("*a" * 127 + "z", "a" * 256),
    ("*-*-*-*-preview", "a" + "-" * 255),
    ("*-" * 120 + "x", "-" * 256),
    ("*ab" * 80 + "c", "ab" * 128),
]
"""Patterns that take a backtracking matcher exponential time, with names they do not match."""
MOST_S = 0.2


@given(some.text("ab*?[]", max_size=8), some.text("ab?[]\n", max_size=10))
def test_only_the_star_is_special(pattern: str, name: str) -> None:
    """Compared with the equivalent regular expression."""
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))
    assert wildcard_matches(pattern, name) == (re.fullmatch(expression, name, re.DOTALL) is not None)


def _resolved(pattern: str, name: str) -> bool:
    try:
        return resolve(name, None, ModelIndex("d", {}, {pattern: frozenset()}, {})) == name
    except ModelNotFound:
        return False


def _of_deadlines(pattern: str, name: str) -> bool:
    return TimeoutPolicy(Timeouts(total_s=1), [(pattern, {"total_s": 2})]).for_group(name).total_s == 2


TAKERS: list[Callable[[str, str], object]] = [
    wildcard_matches,
    lambda pattern, name: is_model_allowed((pattern,), name),
    lambda pattern, name: active_kill_switch(
        frozenset({KillSwitch("model", pattern)}), Caller("x", "internal"), name
    ),
    lambda pattern, name: Catalog({pattern: ModelGroup(pattern, wildcard=True)}).find_group(name),
    lambda pattern, name: is_served(name, [pattern]),
    lambda pattern, name: "p" in providers_for(name, ModelIndex("d", {}, {pattern: frozenset("p")}, {})),
    _resolved,
    _of_deadlines,
]


@pytest.mark.parametrize("covered", TAKERS)
@pytest.mark.parametrize(("pattern", "name"), SLOW)
def test_matching_takes_linear_time(covered: Callable[[str, str], object], pattern: str, name: str) -> None:
    """In model lists, kill switches, timeouts, model groups and aliases."""
    began = time.perf_counter()
    assert not covered(pattern, name)
    assert time.perf_counter() - began < MOST_S
    assert covered(pattern, "a" + pattern.replace("*", ""))


def test_slow_patterns_do_not_reach_litellm() -> None:
    """LiteLLM matches by backtracking: the configuration check rejects such groups by name."""
    for name in ("a*b*c*", "*-*-*-*-preview"):
        config = {"model_list": [{"model_name": name, "litellm_params": {"model": "openai/*"}}]}
        if name.count("*") <= MAX_WILDCARDS:
            assert build_effective_config(config, {}).config["model_list"]
        else:
            with pytest.raises(InvalidConfig, match="model_name"):
                build_effective_config(config, {})
