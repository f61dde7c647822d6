"""Which models a caller may use."""

import pytest

from llm_proxy.identity import Caller, allowed_models, is_model_allowed

NAMED = ("configured", "by-name")


@pytest.mark.parametrize(
    ("caller", "default", "models"),
    [
        (Caller("k", "virtual", models=("a",)), ("b",), ("a",)),
        (Caller("k", "virtual", models=()), ("b",), ()),
        (Caller("k", "virtual"), ("b", "c-*"), ("b", "c-*")),
        (Caller("k", "virtual"), ("*",), ("*",)),
        (Caller("k", "virtual"), (), NAMED),
        (Caller("s", "internal"), ("b",), ("b",)),
        (Caller("s", "internal"), (), ("*",)),
    ],
)
def test_a_callers_models_are_its_own_or_the_defaults_or_those_configured_by_name(
    caller: Caller, default: tuple[str, ...], models: tuple[str, ...]
) -> None:
    """Nobody falls into a wildcard deployment by having no list; a trusted service is trusted."""
    assert allowed_models(caller, default, NAMED) == models


def test_who_may_use_what_is_configured_may_use_nobody_knows_what_while_nobody_knows() -> None:
    """A list of one's own, or the operator's, needs no catalogue."""
    assert allowed_models(Caller("k", "virtual"), (), None) is None
    assert allowed_models(Caller("k", "virtual"), ("b",), None) == ("b",)


def test_a_list_that_names_an_alias_names_the_group_it_stands_for() -> None:
    """And nothing else."""
    aliases = {"nickname": "gpt-4o"}

    def resolved(name: str) -> str:
        return aliases.get(name, name)

    assert is_model_allowed(("nickname",), "gpt-4o", resolved)
    assert not is_model_allowed(("nickname",), "gpt-4o")
    assert not is_model_allowed(("nickname",), "gpt-4o-mini", resolved)
