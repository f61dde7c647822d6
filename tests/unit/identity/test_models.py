"""Which models a caller may use."""

import pytest

from llm_proxy.identity import Caller, allowed, usable


@pytest.mark.parametrize(
    ("caller", "default", "models"),
    [
        (Caller("k", "virtual", models=("a",)), ("b",), ("a",)),
        (Caller("k", "virtual", models=()), ("b",), ()),
        (Caller("k", "virtual"), ("b", "c-*"), ("b", "c-*")),
        (Caller("k", "virtual"), ("*",), ("*",)),
        (Caller("k", "virtual"), (), None),
        (Caller("s", "internal"), ("b",), ("b",)),
        (Caller("s", "internal"), (), ("*",)),
    ],
)
def test_a_callers_models_are_its_own_or_the_defaults_or_those_configured_by_name(
    caller: Caller, default: tuple[str, ...], models: tuple[str, ...] | None
) -> None:
    """Nobody falls into a wildcard deployment by having no list; a trusted service is trusted."""
    assert usable(caller, default) == models


def test_a_list_that_names_an_alias_names_the_group_it_stands_for() -> None:
    """And nothing else."""
    aliases = {"nickname": "gpt-4o"}

    def resolved(name: str) -> str:
        return aliases.get(name, name)

    assert allowed(("nickname",), "gpt-4o", resolved)
    assert not allowed(("nickname",), "gpt-4o")
    assert not allowed(("nickname",), "gpt-4o-mini", resolved)
