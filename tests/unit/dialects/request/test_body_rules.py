"""What a body may not ask for: more tokens than the key's cap, a conversation with an embedding model."""

import json

import pytest

from llm_proxy.dialects import Call
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.request.build_call import apply_max_tokens_cap
from llm_proxy.dialects.request_options import NO_OPTIONS
from llm_proxy.endpoints import MODES
from llm_proxy.errors import BadRequest

MODELS = ModelIndex(endpoints=lambda group: MODES["embedding"] if group == "vectors" else None)
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("body", "requested", "expected"),
    [
        ({}, None, {"max_tokens": 100}),
        ({"max_tokens": 500}, 500, {"max_tokens": 100}),
        ({"max_completion_tokens": 500}, 500, {"max_completion_tokens": 100}),
        ({"max_tokens": 50}, 50, {"max_tokens": 50}),
        (
            {"max_tokens": 50, "max_completion_tokens": 500},
            500,
            {"max_tokens": 50, "max_completion_tokens": 100},
        ),
        ({"max_completion_tokens": 0}, None, {"max_completion_tokens": 100}),
    ],
)
def test_a_cap_lowers_what_is_asked_and_never_raises_it(
    body: dict[str, int], requested: int | None, expected: dict[str, int]
) -> None:
    """In the fields the request itself uses."""
    call_before = Call("chat.completions", "openai", "m", "m", {**body}, max_tokens=requested)
    call = apply_max_tokens_cap(call_before, 100)
    assert call.body == expected
    assert call.max_tokens == min(requested or 100, 100)


@pytest.mark.parametrize(
    "extra",
    [
        {"extra_body": {"max_output_tokens": 101}},
        {"num_predict": 5_000},
        {"extra_body": {"generationConfig": {"maxOutputTokens": 101}}},
        {"options": {"num_predict": -1}},
    ],
)
def test_a_cap_is_not_gone_round_in_a_providers_own_words(extra: dict[str, object]) -> None:
    """Nobody here knows which of two maxima a provider would take."""
    call = Call("chat.completions", "openai", "m", "m", {"max_tokens": 50, **extra}, max_tokens=101)
    with pytest.raises(BadRequest):
        apply_max_tokens_cap(call, 100)
    assert apply_max_tokens_cap(call, 2**31) == call


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model": "vectors"}, "model_not_supported"),
        ({"max_tokens": 5, "options": {"num_predict": 101}}, "integer_above_max_value"),
        ({"tools": [{"type": "mcp", "server_url": "http://10.0.0.1/"}]}, "invalid_url"),
    ],
)
def test_parsing_a_body_applies_the_rules(changes: dict[str, object], code: str) -> None:
    """Whoever parses a body gets a call that may be admitted, or the error."""
    limits, body = BodyLimits(max_tokens_cap=100), json.dumps(CHAT | changes).encode()
    with pytest.raises(BadRequest) as raised:
        OPENAI.parse("chat.completions", body, NO_OPTIONS, MODELS, limits)
    assert raised.value.code == code
    call = OPENAI.parse("chat.completions", json.dumps(CHAT).encode(), NO_OPTIONS, MODELS, limits)
    assert (call.max_tokens, call.body["max_tokens"]) == (100, 100)
