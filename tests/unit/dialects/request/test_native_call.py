"""Bodies of Responses and Messages on their way to a provider that speaks them."""

from dataclasses import replace
from typing import Any

import pytest
from unit.dialects.parsing import MODELS

from llm_proxy.dialects import Call
from llm_proxy.dialects.dialect import BodyLimits
from llm_proxy.dialects.request import ParseContext
from llm_proxy.dialects.request.native_call import NATIVE_FIELDS, build_native_call
from llm_proxy.dialects.request_options import NO_OPTIONS
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import BadRequest, ModelNotFound

SIZE = 5000
LIMITS = BodyLimits(max_messages=3)
PRIVATE = "http://10.0.0.1/x.png"


def _call(endpoint: Endpoint, body: dict[str, Any], limits: BodyLimits = LIMITS) -> Call:
    required: dict[str, Any] = (
        {"input": "x"} if endpoint == "responses" else {"messages": [], "max_tokens": 9}
    )
    models = replace(
        MODELS, aliases={"nickname": "gpt"}, groups={**(MODELS.groups or {}), "nickname": frozenset()}
    )
    context = ParseContext(endpoint, endpoint, SIZE)
    return build_native_call({"model": "gpt", **required, **body}, context, NO_OPTIONS, models, limits)


@pytest.mark.parametrize("endpoint", ["responses", "messages"])
def test_a_body_stays_as_it_was_sent(endpoint: Endpoint) -> None:
    """Fields nobody knows too; the model is its group."""
    sent = {"new_field": {"a": [1]}, "stream": True, "metadata": {"user_id": "u"}, "tools": [{"type": "new"}]}
    call = _call(endpoint, {**sent, "model": "nickname"})
    assert sent.items() <= call.body.items()
    assert (call.endpoint, call.model, call.group, call.streaming) == (endpoint, "nickname", "gpt", True)
    assert call.body["model"] == "nickname"
    assert call.prompt_bytes == SIZE


WRONG: list[tuple[Endpoint, dict[str, Any], str]] = [
    ("responses", {"input": None}, "input"),
    ("messages", {"messages": None}, "messages"),
    ("messages", {"messages": [{}] * 4}, "messages"),
    ("responses", {"input": [{}] * 4}, "input"),
    ("responses", {"api_base": "https://elsewhere.example"}, "api_base"),
    ("messages", {"stream_options": {}}, "stream_options"),
    ("messages", {"litellm_metadata": {}}, "litellm_metadata"),
    ("responses", {"mock_response": "x"}, "mock_response"),
    ("responses", {"stream": 1}, "stream"),
    ("responses", {"model": 5}, "model"),
    ("responses", {"max_output_tokens": "9"}, "max_output_tokens"),
    ("messages", {"max_tokens": -1}, "max_tokens"),
    (
        "responses",
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": PRIVATE}]}]},
        "input[0].content[0].image_url",
    ),
    ("responses", {"tools": [{"type": "mcp", "server_url": PRIVATE}]}, "tools[0].server_url"),
    (
        "messages",
        {"messages": [{"content": [{"type": "image", "source": {"type": "url", "url": PRIVATE}}]}]},
        "messages[0].content[0].source.url",
    ),
    ("messages", {"mcp_servers": [{"url": PRIVATE}]}, "mcp_servers[0].url"),
]


@pytest.mark.parametrize(("endpoint", "body", "param"), WRONG)
def test_a_wrong_field_is_named(endpoint: Endpoint, body: dict[str, Any], param: str) -> None:
    """What LiteLLM would read, links into private networks, sizes and types the gateway itself reads."""
    with pytest.raises(BadRequest) as refused:
        _call(endpoint, body)
    assert refused.value.param == param


def test_links_that_nobody_fetches_pass() -> None:
    """In texts, and in what a tool was called with."""
    used = {"type": "tool_use", "input": {"url": PRIVATE}}
    asked: list[dict[str, Any]] = [{"content": [used, {"type": "text", "text": PRIVATE}]}]
    assert _call("messages", {"messages": asked}).body["messages"] == asked
    called = {"type": "function_call", "arguments": f'{{"image_url": "{PRIVATE}"}}'}
    asked = [called, {"role": "user", "content": PRIVATE}]
    assert _call("responses", {"input": asked}).body["input"] == asked
    asked = [{"content": [{"type": "input_image", "image_url": PRIVATE}]}]
    assert _call("responses", {"input": asked}, BodyLimits(private_urls=True)).body["input"] == asked


def test_the_first_of_several_links_is_named() -> None:
    """Deep in what has other links, beside fields that hold none, whatever else has such a name."""
    image = {"type": "input_image", "image_url": {"image_url": PRIVATE}}
    good = {"type": "input_image", "image_url": "https://example.com/a.png", "detail": ["x", {"a": 1}]}
    tool = {"type": "mcp", "server_url": PRIVATE, "parameters": {"server_url": PRIVATE}}
    with pytest.raises(BadRequest) as refused:
        _call(
            "responses", {"input": [good, {"content": [good, image]}], "tools": [{"parameters": image}, tool]}
        )
    assert refused.value.param == "tools[1].server_url"
    with pytest.raises(BadRequest) as refused:
        _call("responses", {"input": [good, {"content": [good, image]}], "tools": [{"parameters": image}]})
    assert refused.value.param == "input[1].content[1].image_url.image_url"
    kept = {"input": [good, {"action": image}], "tools": [{"parameters": image}]}
    assert kept.items() <= _call("responses", kept).body.items()


def test_files_count_little_as_a_prompt() -> None:
    """As images and files of chats."""
    image = {"type": "base64", "data": "A" * 1000}
    call = _call("messages", {"messages": [{"content": [{"type": "image", "source": image}]}]})
    assert call.prompt_bytes == SIZE - 1000


@pytest.mark.parametrize("endpoint", ["responses", "messages"])
def test_a_keys_cap_bounds_the_answer(endpoint: Endpoint) -> None:
    """In the endpoint's own field; a smaller request stays."""
    (name,) = NATIVE_FIELDS[endpoint].max_tokens
    capped = BodyLimits(max_tokens_cap=100)
    assert _call(endpoint, {name: 500}, capped).body[name] == 100
    assert _call(endpoint, {name: 50}, capped).max_tokens == 50
    assert _call("responses", {}, capped).body["max_output_tokens"] == 100


def test_a_model_nobody_serves_is_not_found() -> None:
    """As everywhere."""
    with pytest.raises(ModelNotFound):
        _call("responses", {"model": "nobody/knows"})
