"""The models that a caller may use."""

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
def test_a_callers_models_are_its_own_the_default_or_the_configured(
    caller: Caller, default: tuple[str, ...], models: tuple[str, ...]
) -> None:
    """A virtual key without a list has no wildcard deployment; an internal key has every model."""
    assert allowed_models(caller, default, NAMED) == models


def test_the_configured_models_may_be_unknown() -> None:
    """A list of the key's own, or the operator's, needs no catalog."""
    assert allowed_models(Caller("k", "virtual"), (), None) is None
    assert allowed_models(Caller("k", "virtual"), ("b",), None) == ("b",)


def test_an_alias_in_a_list_allows_its_group() -> None:
    """And no other group."""
    aliases = {"nickname": "gpt-4o"}

    def resolved(name: str) -> str:
        return aliases.get(name, name)

    assert is_model_allowed(("nickname",), "gpt-4o", resolved)
    assert not is_model_allowed(("nickname",), "gpt-4o")
    assert not is_model_allowed(("nickname",), "gpt-4o-mini", resolved)
