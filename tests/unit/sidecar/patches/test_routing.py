"""Deployments in turn."""

from collections import Counter
from typing import Any

from llm_proxy.sidecar.patches.routing import RoundRobin


def deployments(*names: str) -> list[Any]:
    return [{"model_info": {"id": name}} for name in names]


def chosen(turns: RoundRobin, *names: str, group: str = "group") -> str:
    found: str = turns(healthy_deployments=deployments(*names), model=group)["model_info"]["id"]
    return found


def test_each_has_its_turn() -> None:
    """Whatever order LiteLLM lists them in; groups do not disturb each other."""
    turns = RoundRobin()
    order = [chosen(turns, "c", "a", "b") for _ in range(7)]
    assert order == ["a", "b", "c", "a", "b", "c", "a"]
    assert chosen(turns, "x", "y", group="other") == "x"
    assert chosen(turns, "b", "a", "c") == "b"


def test_who_cools_down_is_passed_over_and_the_others_share_evenly() -> None:
    """And has its turn again afterwards."""
    turns = RoundRobin()
    without = Counter(chosen(turns, "a", "c") for _ in range(10))
    assert without == {"a": 5, "c": 5}
    assert {chosen(turns, "a", "b", "c") for _ in range(3)} == {"a", "b", "c"}
