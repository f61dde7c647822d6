"""The OpenAI dialect: what is sent, and its errors."""

from typing import TYPE_CHECKING, Any

import orjson
import pytest
from unit.dialects.parsing import HELLO, error_of, parse

from llm_proxy.dialects.call import CacheControl
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.request.openai_schema import FIELDS
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.errors import BadRequest

if TYPE_CHECKING:
    from llm_proxy.endpoints import Endpoint


def test_a_plain_chat_is_sent_unchanged() -> None:
    """Nothing is added and nothing is lost."""
    call = parse(temperature=0.5)
    assert call.body == {"model": "gpt", "messages": HELLO, "temperature": 0.5}
    assert (call.model, call.group, call.streaming, call.choices) == ("gpt", "gpt", False, 1)


def test_every_field_is_sent_in_one_order() -> None:
    """The request's own order does not reach the sidecar's cache key."""
    one = parse(seed=1, temperature=1.0, user="u", n=2, zzz=1, aaa=2)
    other = parse(aaa=2, zzz=1, n=2, user="u", temperature=1, seed=1)
    assert orjson.dumps(one.body) == orjson.dumps(other.body)
    assert list(one.body) == ["model", "messages", "n", "seed", "temperature", "user", "extra_body"]


def test_keys_inside_messages_have_one_order_too() -> None:
    """`content` before `role` is the same request."""
    one = parse(
        messages=[{"content": [{"text": "x", "type": "text"}], "role": "user", "zzz": 1, "name": "bob"}]
    )
    other = parse(
        messages=[{"role": "user", "name": "bob", "content": [{"type": "text", "text": "x"}], "zzz": 1}]
    )
    assert orjson.dumps(one.body) == orjson.dumps(other.body)


def test_the_order_of_a_json_schema_is_kept() -> None:
    """Models answer in the order of its properties."""
    schema = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert orjson.dumps(parse(response_format=wanted).body["response_format"]) == orjson.dumps(wanted)


def test_null_means_absent() -> None:
    """Clients may send every field they know."""
    fields = dict.fromkeys(FIELDS["chat.completions"])
    assert parse(**{**fields, "model": "gpt", "messages": HELLO}).body == {"model": "gpt", "messages": HELLO}


def test_a_stream_always_requests_usage() -> None:
    """The caller gets it only when it asked for it."""
    assert parse(stream=True).body["stream_options"] == {"include_usage": True}
    assert parse(stream=True).wants_usage is False
    requested = parse(stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
    assert requested.wants_usage is True
    assert requested.body["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    assert parse(stream=True, stream_options={"include_usage": False}).wants_usage is False
    assert error_of(stream_options={"include_usage": True}).param == "stream_options"
    assert "stream" not in parse(stream=False).body


def test_what_admission_needs_is_on_the_call() -> None:
    """Requested tokens, choices, size without files, attribution, cache control, timeout."""
    call = parse(
        "chat.completions",
        RequestOptions(cache=CacheControl(no_store=True), timeout_s=3.5),
        max_tokens=10,
        max_completion_tokens=20,
        n=3,
        user="u-1",
        metadata={"agent_id": "a", "microdao_id": "t", "session_id": "s", "channel_id": "c", "other": "x"},
    )
    assert (call.max_tokens, call.choices, call.timeout_s, call.cache.no_store) == (20, 3, 3.5, True)
    named = call.attribution
    assert (named.agent, named.tenant, named.session, named.channel, named.user) == (
        "a",
        "t",
        "s",
        "c",
        "u-1",
    )
    assert parse("completions", best_of=4, n=2).choices == 4


def test_a_file_does_not_count_as_prompt() -> None:
    """A megabyte of picture is not a quarter million tokens."""
    url = "data:image/png;base64," + "A" * 1_000_000
    picture = {"type": "image_url", "image_url": {"url": url}}
    call = parse(messages=[{"role": "user", "content": [{"type": "text", "text": "what?"}, picture]}])
    assert call.prompt_bytes < 10_000
    assert call.body["messages"][0]["content"][1] == picture


@pytest.mark.parametrize("own", ["max_output_tokens", "num_predict", "max_new_tokens"])
def test_a_length_in_a_providers_own_field_counts(own: str) -> None:
    """A cap on `max_tokens` cannot be avoided; below zero means unbounded."""
    assert parse(**{own: 500}).max_tokens == 500
    assert parse(options={own: 500}, max_tokens=10).max_tokens == 500
    assert (parse(**{own: -1}).max_tokens or 0) > 10**9


def test_a_length_of_zero_is_no_length_of_a_chat() -> None:
    """A provider may take it for no limit, so a cap must replace it."""
    call = parse(max_completion_tokens=0)
    assert (call.body["max_completion_tokens"], call.max_tokens) == (0, None)
    scored = parse("completions", max_tokens=0, echo=True, best_of=0)
    assert (scored.body["max_tokens"], scored.body["best_of"], scored.max_tokens) == (0, 0, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.5), ("temperature", -1), ("top_p", 1.5), ("presence_penalty", 3), ("max_tokens", 0),
        ("max_tokens", -1), ("top_logprobs", 50), ("logit_bias", {"1": 200}), ("max_completion_tokens", -2),
    ],
)  # fmt: skip
def test_ranges_are_those_of_the_models_provider(field: str, value: Any) -> None:
    """OpenAI's for its own models; types are checked for all."""
    assert error_of(**{field: value}).code in {
        "decimal_above_max_value", "decimal_below_min_value", "integer_above_max_value",
        "integer_below_min_value",
    }  # fmt: skip
    call = parse(model="claude", **{field: value})
    assert call.body[field] == value
    assert call.max_tokens == (2**31 if field in {"max_tokens", "max_completion_tokens"} and value else None)
    assert error_of(model="claude", **{field: "x"}).code == "invalid_type"


@pytest.mark.parametrize(("field", "value"), [("n", 0), ("n", 1000), ("max_tokens", 1e30), ("best_of", 99)])
def test_bounds_of_what_is_reserved_hold_for_every_provider(field: str, value: float) -> None:
    """What is multiplied or reserved is bounded."""
    endpoint: Endpoint = "completions" if field == "best_of" else "chat.completions"
    assert error_of(endpoint, model="claude", **{field: value}).param == field


@pytest.mark.parametrize(
    "answered",
    [
        {"content": None},
        {"content": None, "reasoning_content": "hm"},
        {"reasoning_content": "hm"},
        {"content": None, "tool_calls": [], "refusal": None, "audio": None, "function_call": None},
        {"content": "", "annotations": [], "provider_specific_fields": {"a": [1]}},
        {"content": "x", "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
        {"content": None, "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"content": None, "images": [{"type": "image_url", "image_url": {"url": "data:,"}, "index": 0}]},
        {"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "g", "input": "x"}, "index": 0}]},
        {"tool_calls": [{"id": "", "type": "function", "function": {"name": "f", "arguments": ""}}]},
    ],
)
def test_an_earlier_answer_may_be_sent_back(answered: dict[str, Any]) -> None:
    """As an assistant's message; its nulls are absent."""
    [_, sent, _] = parse(messages=[*HELLO, {"role": "assistant", **answered}, *HELLO]).body["messages"]
    kept = {name: value for name, value in answered.items() if value is not None}
    assert {name: value for name, value in sent.items() if value is not None} == {"role": "assistant", **kept}


@pytest.mark.parametrize(
    ("user", "ours"), [("a\0b", "ab"), ("a\nb", "ab"), ("\0", None), ("", None), ("x" * 300, "x" * 256)]
)
def test_a_user_is_any_text_and_our_copy_is_printable(user: str, ours: str | None) -> None:
    """The provider gets it unchanged; records and limits get what they can hold."""
    call = parse(user=user, metadata={"agent_id": "a\0"})
    assert (call.body["user"], call.attribution.user, call.attribution.agent) == (user, ours, "a")


@pytest.mark.parametrize("name", ["plugins", "priority", "session_id"])
def test_a_providers_field_that_litellm_reads_is_sent_in_extra_body(name: str) -> None:
    """OpenRouter's, vLLM's; it is rejected for a provider without `extra_body`."""
    for requested in ({name: 5}, {"extra_body": {name: 5}}):
        call = parse(**requested)
        assert call.body["extra_body"] == {name: 5}
        assert name not in call.body
    assert error_of(model="claude", **{name: 5}).code == "unknown_parameter"


def test_every_kind_of_tool_choice_is_sent() -> None:
    """Also those newer than LiteLLM."""
    tools = [{"type": "function", "function": {"name": "f"}}, {"type": "custom", "custom": {"name": "g"}}]
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]}
    for choice in ({"type": "allowed_tools", "allowed_tools": allowed}, tools[1], tools[0], "required"):
        assert parse(tools=tools, tool_choice=choice).body["tool_choice"] == choice


@pytest.mark.parametrize("given", ["x", ["x", "y"], [1, 2], [[1, 2], [3]]])
def test_texts_and_tokens_are_sent_unchanged(given: Any) -> None:
    """In all four shapes."""
    assert parse("completions", prompt=given).body["prompt"] == given
    assert parse("embeddings", input=given).body["input"] == given


def test_the_default_model_is_for_callers_that_may_omit_it() -> None:
    """Chats and completions only: embeddings have no default."""
    body = orjson.dumps({"messages": HELLO})
    call = OPENAI.parse(
        "chat.completions", body, RequestOptions(may_omit_model=True), ModelIndex("the-default"), BodyLimits()
    )
    assert (call.model, call.group) == ("the-default", "the-default")
    with pytest.raises(BadRequest):
        OPENAI.parse(
            "embeddings", b'{"input":"x"}', RequestOptions(may_omit_model=True), ModelIndex("d"), BodyLimits()
        )


def test_errors_have_openais_envelope() -> None:
    """The one that its SDKs raise, in a stream too."""
    wrong = error_of(n=0)
    envelope = {"message": wrong.message, "type": "invalid_request_error", "param": "n", "code": wrong.code}
    assert OPENAI.error(wrong) == {"error": envelope}
