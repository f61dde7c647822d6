"""When a call may fall back to other models, and when the sidecar is told not to."""

from typing import Any

import pytest

from llm_proxy.dialects import Call
from llm_proxy.identity import Caller
from llm_proxy.telemetry.privacy import PayloadPolicy
from llm_proxy.upstream.catalog import Catalog, parse_model_info, parse_sidecar_catalog
from llm_proxy.upstream.litellm_protocol import LiteLLMControls

CATALOG = parse_sidecar_catalog(
    {
        "groups": [
            {"name": "a", "fallbacks": ["b"]},
            {"name": "b", "fallbacks": ["nickname"]},
            {"name": "nickname", "alias_of": "c"},
            {"name": "c", "fallbacks": ["a"]},
            {"name": "alone"},
            {"name": "wild/*"},
            {"name": "plain"},
        ],
        "fallback_rules": {"bare": ["b"], "wild/whole": ["b"], "vendor/plain": ["b"]},
    }
)
UNTOLD = parse_model_info({"data": [{"model_name": "a", "model_info": {"id": "1"}}]})


def caller(*models: str) -> Caller:
    """Somebody who may use these."""
    return Caller("k", "virtual", tenant="t", models=models or None)


def told(who: Caller, group: str, catalog: Catalog | None, controls: LiteLLMControls | None = None) -> bool:
    """Whether the sidecar is told not to fall back."""
    call = Call("chat.completions", "openai", group, group, {"model": group})
    body: dict[str, Any] = (controls or LiteLLMControls()).body(call, who, catalog)
    return body.get("disable_fallbacks") is True


@pytest.mark.parametrize(
    ("models", "group", "switched_off"),
    [
        (("a", "b", "c"), "a", False),
        (("*",), "a", False),
        (("a", "b"), "a", True),
        (("a", "b", "nickname"), "a", False),
        (("a",), "a", True),
        (("c", "a"), "nickname", True),
        (("alone",), "alone", False),
        (("wild/*",), "wild/x", False),
        (("wild/*",), "wild/bare", True),
        (("wild/*",), "wild/whole", True),
        (("plain",), "plain", True),
        (("plain", "a", "b", "c"), "plain", False),
        ((), "a", False),
    ],
)
def test_a_call_falls_back_only_where_its_caller_may_go(
    models: tuple[str, ...], group: str, *, switched_off: bool
) -> None:
    """To fallbacks of fallbacks too, and to what an alias stands for."""
    assert told(caller(*models), group, CATALOG) is switched_off


@pytest.mark.parametrize("catalog", [None, UNTOLD])
def test_where_nobody_tells_of_fallbacks_only_who_may_use_everything_falls_back(
    catalog: Catalog | None,
) -> None:
    """An unmodified LiteLLM keeps its fallbacks to itself."""
    assert told(caller("a"), "a", catalog)
    assert told(caller(), "a", catalog)
    assert not told(caller("*"), "a", catalog)
    assert not told(Caller("s", "internal"), "a", catalog)


def test_no_call_falls_back_to_a_model_that_is_switched_off() -> None:
    """A kill switch stops the model, whatever led to it."""
    controls = LiteLLMControls(is_disabled=lambda _, group: group == "c")
    assert told(caller("*"), "a", CATALOG, controls)
    assert not told(caller("*"), "alone", CATALOG, controls)


WHO = Caller(
    "key-1",
    "virtual",
    tenant="acme",
    agent="agent:sofia",
    user="u",
    session="s",
    channel="c",
    run="r",
    tags=("nightly",),
)
CALL = Call("chat.completions", "openai", "a", "a", {"model": "a"})


def test_whose_a_call_is_is_told_only_where_somebody_watches() -> None:
    """Tags in a field by which nobody chooses deployments; nothing to an unmodified LiteLLM."""
    tags = ["tenant:acme", "agent:sofia", "channel:c", "run:r", "key:key-1", "nightly"]
    whose = {"session_id": "s", "trace_user_id": "u", "llm_proxy_tags": tags}
    controls = LiteLLMControls()
    for catalog, metadata in (
        (parse_sidecar_catalog({"groups": [], "watched": True}), whose),
        (parse_sidecar_catalog({"groups": []}), None),
        (UNTOLD, None),
        (None, None),
    ):
        assert controls.body(CALL, WHO, catalog).get("metadata") == metadata


@pytest.mark.parametrize(
    ("words", "shown"), [(("off",), False), (("full",), True), (("acme",), True), (("zeta",), False)]
)
def test_text_is_shown_of_those_alone_whose_text_is_kept(words: tuple[str, ...], *, shown: bool) -> None:
    """And only to somebody who watches."""
    controls = LiteLLMControls(payload_policy=PayloadPolicy(words))
    assert controls.shows_text(WHO, parse_sidecar_catalog({"groups": [], "watched": True})) is shown
    assert not controls.shows_text(WHO, parse_sidecar_catalog({"groups": []}))
    assert not controls.shows_text(WHO, None)
