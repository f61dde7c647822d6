"""The dialect as a whole: a body in, a call out; errors named by the caller's fields."""

from typing import Any

import orjson
import pytest

from llm_proxy.dialects import Call
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex
from llm_proxy.dialects.request_options import NO_OPTIONS
from llm_proxy.dialects.responses import responses_dialect
from llm_proxy.dialects.translation.chat_answer import ThinkingPiece
from llm_proxy.errors import BadRequest, ModelNotFound, ProviderRejected
from llm_proxy.sealing import Sealer, SealingKey

MODELS = ModelIndex("gpt", {"gpt": frozenset({"openai"}), "claude": frozenset({"anthropic"})})
DIALECT = responses_dialect(None)


def parse(limits: BodyLimits | None = None, **body: Any) -> Call:
    encoded = orjson.dumps({"model": "claude", "input": "hi", **body})
    return DIALECT.parse("responses", encoded, NO_OPTIONS, MODELS, limits or BodyLimits())


def test_a_translated_call_is_a_chat_with_the_callers_attribution() -> None:
    call = parse(stream=True, metadata={"agent_id": "scout"}, user="u", max_output_tokens=50)
    assert (call.endpoint, call.dialect, call.group) == ("chat.completions", "responses", "claude")
    assert (call.streaming, call.wants_usage, call.max_tokens) == (True, True, 50)
    assert (call.attribution.agent, call.attribution.user) == ("scout", "u")
    assert call.body["messages"] == [{"role": "user", "content": "hi"}]
    assert parse().context != parse().context


def test_a_keys_cap_holds() -> None:
    assert parse(BodyLimits(max_tokens_cap=7)).body["max_tokens"] == 7


def test_the_model_may_be_omitted_where_an_operator_chose_one() -> None:
    models = ModelIndex("claude", MODELS.groups, default_chosen=True)
    call = DIALECT.parse("responses", b'{"input": "hi"}', NO_OPTIONS, models, BodyLimits())
    assert call.group == "claude"
    with pytest.raises(BadRequest, match="model"):
        DIALECT.parse("responses", b'{"input": "hi"}', NO_OPTIONS, MODELS, BodyLimits())


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"api_base": "http://a.example"}, "api_base"),
        ({"metadata": {"litellm_x": "y"}}, "metadata.litellm_x"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://10.0.0.1/x"}]}]},
         "input[0].content[0].image_url"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "http://10.0.0.1/x.pdf"}]}]},
         "input[0].content[0].file_url"),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "a",
                     "output": [{"type": "input_image", "image_url": "http://localhost/x"}]}]},
         "input[1].output[0].image_url"),
        ({"model": "gpt", "temperature": 3}, "temperature"),
    ],
)  # fmt: skip
def test_a_fault_found_in_the_chat_is_named_by_the_callers_field(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as raised:
        parse(**body)
    assert raised.value.param == param
    assert "messages" not in raised.value.message


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "messages", "response_format", "n"])
def test_a_chat_s_own_field_is_unknown_by_its_own_name(name: str) -> None:
    with pytest.raises(BadRequest) as raised:
        parse(None, **{name: 1})
    answered = DIALECT.error(raised.value)["error"]
    assert answered["param"] == name
    assert answered["message"] == f"Unknown parameter: '{name}'."


def test_signed_thoughts_are_kept_in_a_group_that_may_reach_claude() -> None:
    """The sidecar leaves them out of each attempt at another provider."""
    models = ModelIndex("gpt", MODELS.groups, fallback_providers=lambda _group: frozenset({"anthropic"}))
    sealed = responses_dialect(Sealer([SealingKey("k1", "s" * 32)]))
    assert sealed.seal is not None
    thought = sealed.seal.seal([ThinkingPiece("so", "sig"), ThinkingPiece("unsigned")], is_signed=True)
    items: list[Any] = [
        {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": thought},
        {"role": "assistant", "content": "x"},
    ]
    encoded = orjson.dumps({"model": "gpt", "input": items})
    call = sealed.parse("responses", encoded, NO_OPTIONS, models, BodyLimits())
    block = {"type": "thinking", "thinking": "so", "signature": "sig"}
    assert call.body["messages"][0]["thinking_blocks"] == [block]
    assert "thinking_blocks" in call.optional_fields


def test_an_unknown_model_is_404() -> None:
    with pytest.raises(ModelNotFound):
        parse(model="nobody")


@pytest.mark.parametrize(
    ("param", "named"),
    [
        ("messages[2].content", "input"),
        ("reasoning_effort", "reasoning.effort"),
        ("response_format.json_schema", "text.format"),
        ("max_tokens", "max_output_tokens"),
        ("tools[0]", "tools[0]"),
        (None, None),
    ],
)
def test_a_providers_error_is_named_by_the_callers_field(param: str | None, named: str | None) -> None:
    error = DIALECT.error(ProviderRejected(f"Invalid '{param}'.", param=param))["error"]
    assert error["param"] == named
    assert error["message"] == f"Invalid '{named}'."
