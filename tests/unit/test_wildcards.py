"""Wildcards, wherever one is taken, cover what they say and never take long about it."""

import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as some

from llm_proxy.dialects.dialect import Models
from llm_proxy.dialects.request.model_resolution import providers, resolve
from llm_proxy.errors import ModelNotFound
from llm_proxy.identity.caller import Caller
from llm_proxy.identity.policies import Kill, allowed, killed_by
from llm_proxy.sidecar.config import MAX_STARS, Broken, effective, served
from llm_proxy.upstream.call_guard import Deadlines, Wait
from llm_proxy.upstream.catalog import Catalog, Group
from llm_proxy.wildcards import covers

SLOW = [
    ("*" * 255 + "z", "a" * 256),
    ("*a" * 127 + "z", "a" * 256),
    ("*-*-*-*-preview", "a" + "-" * 255),
    ("*-" * 120 + "x", "-" * 256),
    ("*ab" * 80 + "c", "ab" * 128),
]
"""Patterns a backtracking reader needs ages for, and names they do not cover."""
MOST_S = 0.2


@given(some.text("ab*?[]", max_size=8), some.text("ab?[]\n", max_size=10))
def test_a_star_is_any_text_and_nothing_else_is_special(pattern: str, name: str) -> None:
    """As a regular expression of that meaning says."""
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))
    assert covers(pattern, name) == (re.fullmatch(expression, name, re.DOTALL) is not None)


def _resolved(pattern: str, name: str) -> bool:
    try:
        return resolve(name, None, Models("d", {}, {pattern: frozenset()}, {})) == name
    except ModelNotFound:
        return False


def _of_deadlines(pattern: str, name: str) -> bool:
    return Deadlines(Wait(total_s=1), [(pattern, Wait(total_s=2))]).of(name).total_s == 2


TAKERS: list[Callable[[str, str], object]] = [
    covers,
    lambda pattern, name: allowed((pattern,), name),
    lambda pattern, name: killed_by(frozenset({Kill("model", pattern)}), Caller("x", "internal"), name),
    lambda pattern, name: Catalog({pattern: Group(pattern, wildcard=True)}).group(name),
    lambda pattern, name: served(name, [pattern]),
    lambda pattern, name: "p" in providers(name, Models("d", {}, {pattern: frozenset("p")}, {})),
    _resolved,
    _of_deadlines,
]


@pytest.mark.parametrize("covered", TAKERS)
@pytest.mark.parametrize(("pattern", "name"), SLOW)
def test_no_pattern_takes_long(covered: Callable[[str, str], object], pattern: str, name: str) -> None:
    """Keys' lists, kill switches, deadlines, groups of a configuration, aliases' targets."""
    began = time.perf_counter()
    assert not covered(pattern, name)
    assert time.perf_counter() - began < MOST_S
    assert covered(pattern, "a" + pattern.replace("*", ""))


def test_litellm_is_given_no_pattern_it_would_take_long_over() -> None:
    """It matches by backtracking: such a group is refused by name."""
    for name in ("a*b*c*", "*-*-*-*-preview"):
        config = {"model_list": [{"model_name": name, "litellm_params": {"model": "openai/*"}}]}
        if name.count("*") <= MAX_STARS:
            assert effective(config, {}).config["model_list"]
        else:
            with pytest.raises(Broken, match="model_name"):
                effective(config, {})
