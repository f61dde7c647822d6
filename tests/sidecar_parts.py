"""Tests that need a part of the sidecar, a patch, are skipped where `LLM_PROXY_SIDECAR_WITHOUT` names it.

A patch's own tests, those that `registry` names, need it. `scripts/litellm_trials.py` has them run all the
same: it looks whether one fails.
"""

import os
from functools import cache

import pytest

from llm_proxy.sidecar.patches.registry import DISABLING_SETTING, PATCHES

RUN_ALL = "LLM_PROXY_TESTS_OF_ABSENT_PARTS"
IDLE_WITHOUT = {"hooks": ("direct_calls",)}
"""A part -> those that do nothing without it: a call that LiteLLM's hooks read is not direct."""


@cache
def absent_parts() -> frozenset[str]:
    """Return the names of the patches that this run's sidecars leave out."""
    named = {name.strip() for name in os.environ.get(DISABLING_SETTING, "").split(",")}
    absent = {one.name for one in PATCHES if named & {one.name, "all"}}
    return frozenset({*absent, *(idle for name in absent for idle in IDLE_WITHOUT.get(name, ()))})


def without(*parts: str) -> dict[str, str]:
    """Return the variable of a sidecar that leaves out these parts and those that the run leaves out."""
    return {DISABLING_SETTING: ",".join(sorted({*parts, *absent_parts()}))}


def needs_parts(*parts: str) -> pytest.MarkDecorator:
    """Return a mark of tests that pass only with these parts."""
    absent = absent_parts() & frozenset(parts)
    is_skipped = bool(absent) and RUN_ALL not in os.environ
    return pytest.mark.skipif(
        is_skipped, reason=f"{DISABLING_SETTING} leaves out {', '.join(sorted(absent))}"
    )


def skip_own_tests(item: pytest.Item) -> None:
    """Skip a test of a patch that is left out."""
    if not absent_parts() or RUN_ALL in os.environ:
        return
    for patch in PATCHES:
        if patch.name in absent_parts() and any(_is_one_of(item.nodeid, test) for test in patch.tests):
            item.add_marker(needs_parts(patch.name))


def _is_one_of(node: str, named: str) -> bool:
    return node == named or node.startswith((f"{named}::", f"{named}["))
