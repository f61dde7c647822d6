"""The newest Anthropic SDK against the gateway, a real sidecar and a provider that only speaks chat."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic.types import ToolParam
from loopback import NO_TLS
from running_stack import KEY, Json, RunningStack, script

TOOLS: list[ToolParam] = [
    {
        "name": "look_up",
        "description": "Weather of a city.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
]
CHAT_ONLY = "p/ok"


@pytest.fixture
async def sdk(stack: RunningStack) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The SDK, as a client is told to use a gateway."""
    async with anthropic.AsyncAnthropic(
        base_url=stack.url,
        api_key=KEY,
        max_retries=0,
        http_client=anthropic.DefaultAsyncHttpxClient(verify=NO_TLS, timeout=30),
    ) as client:
        yield client


def said(text: str = "hello") -> Any:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


async def test_a_message_is_complete(sdk: anthropic.AsyncAnthropic) -> None:
    """Text, stop reason and usage are the provider's."""
    message = await sdk.messages.create(model=CHAT_ONLY, max_tokens=100, messages=said())
    assert (message.type, message.role, message.model) == ("message", "assistant", CHAT_ONLY)
    (block,) = message.content
    assert block.type == "text"
    assert len(block.text.split()) == 8
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (17, 23)


async def test_a_stream_is_the_same_message(sdk: anthropic.AsyncAnthropic) -> None:
    """In Anthropic's events; the usage of the start is corrected at the end."""
    async with sdk.messages.stream(model=CHAT_ONLY, max_tokens=100, messages=said()) as stream:
        kinds = [event.type async for event in stream]
        message = await stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    (block,) = message.content
    assert block.type == "text"
    assert len(block.text.split()) == 8
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 23)


@pytest.mark.parametrize("model", ["p/tools", "gemini", "claude"])
async def test_a_task_with_parallel_tools(sdk: anthropic.AsyncAnthropic, model: str) -> None:
    """Calls, their outputs with an image and an error, and the answer, as agents do it."""
    asked = said(script(do="helpful"))
    async with sdk.messages.stream(model=model, max_tokens=100, messages=asked, tools=TOOLS) as stream:
        called = await stream.get_final_message()
    assert called.stop_reason == "tool_use"
    calls = [block for block in called.content if block.type == "tool_use"]
    assert [call.input for call in calls] == [{"city": "Oslo"}, {"city": "Turku"}]
    assert all(call.id.startswith("toolu_") for call in calls)
    image: Any = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    results: list[Any] = [
        {
            "type": "tool_result",
            "tool_use_id": calls[0].id,
            "content": [{"type": "text", "text": "sunny"}, {"type": "image", "source": image}],
        },
        {"type": "tool_result", "tool_use_id": calls[1].id, "content": "no such city", "is_error": True},
    ]
    turns: Any = [
        {"role": "assistant", "content": [block.to_dict() for block in called.content]},
        {"role": "user", "content": results},
    ]
    answered = await sdk.messages.create(model=model, max_tokens=100, messages=asked + turns, tools=TOOLS)
    assert answered.stop_reason in {"end_turn", "tool_use"}


async def test_the_provider_sees_a_chat(sdk: anthropic.AsyncAnthropic, stack: RunningStack) -> None:
    """Everything Claude Code sends, at a server that only speaks chat completions."""
    mark: Any = {"type": "ephemeral"}
    async with sdk.beta.messages.stream(
        model=CHAT_ONLY,
        max_tokens=32000,
        system=[
            {"type": "text", "text": "billing"},
            {"type": "text", "text": "rules", "cache_control": mark},
        ],
        messages=[{"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": mark}]}],
        tools=[{**TOOLS[0], "defer_loading": True}],
        metadata={"user_id": '{"device_id":"d1","account_uuid":"","session_id":"s1"}'},
        thinking={"type": "adaptive"},
        output_config={"effort": "high"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        betas=["claude-code-20250219", "interleaved-thinking-2025-05-14", "unknown-2099-01-01"],
    ) as stream:
        message = await stream.get_final_message()
    assert message.stop_reason == "end_turn"
    assert message.context_management is not None
    assert message.context_management.applied_edits == []
    (call,) = await stack.calls()
    body: Json = call["body"]
    assert [one["role"] for one in body["messages"]] == ["system", "user"]
    assert body["messages"][0]["content"] == "billing\n\nrules"
    assert body["tools"][0]["function"]["name"] == "look_up"
    assert (body["max_tokens"], body["reasoning_effort"]) == (32000, "high")
    assert not {"metadata", "context_management", "thinking", "betas"} & body.keys()


@pytest.mark.parametrize("do", ["cut", "eof", "half-frame", "reset", "garbage", "error-in-200"])
async def test_a_truncated_stream_is_an_error(sdk: anthropic.AsyncAnthropic, do: str) -> None:
    """An `error` event, never `end_turn`."""
    kinds: list[str] = []
    asked = said(script(do=do))
    stream = await sdk.messages.create(model=CHAT_ONLY, max_tokens=9, messages=asked, stream=True)
    with pytest.raises(anthropic.APIStatusError) as ended:
        kinds += [event.type async for event in stream]
    body: Any = ended.value.body
    assert body["type"] == "error"
    assert "message_stop" not in kinds


async def test_errors_are_the_sdk_s_own(sdk: anthropic.AsyncAnthropic) -> None:
    """By Anthropic's types and envelope, and told that repeating does not help."""
    empty: Any = [{"role": "user"}]
    with pytest.raises(anthropic.BadRequestError) as bad:
        await sdk.messages.create(model=CHAT_ONLY, max_tokens=9, messages=empty)
    body: Any = bad.value.body
    assert body["type"] == "error"
    assert body["error"] == {"type": "invalid_request_error", "message": "messages.0.content: Field required"}
    with pytest.raises(anthropic.NotFoundError) as gone:
        await sdk.messages.create(model="no-such-model", max_tokens=9, messages=said())
    assert gone.value.type == "not_found_error"
    with pytest.raises(anthropic.AuthenticationError):
        await sdk.with_options(api_key="sk-wrong").messages.create(
            model=CHAT_ONLY, max_tokens=9, messages=said()
        )
    with pytest.raises(anthropic.BadRequestError, match="temperature: Extra inputs are not permitted"):
        await sdk.messages.create(
            model=CHAT_ONLY, max_tokens=9, messages=said(), extra_body={"temperature": 0.5}
        )
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: "):
        await sdk.messages.create(model=CHAT_ONLY, max_tokens=9, messages=said(script(do="context")))


async def test_tokens_are_counted_without_a_call(sdk: anthropic.AsyncAnthropic, stack: RunningStack) -> None:
    """As many as the tokenizer has; errors as those of a message."""
    counted = await sdk.messages.count_tokens(model=CHAT_ONLY, messages=said("word " * 100), tools=TOOLS)
    assert 100 <= counted.input_tokens <= 220
    with pytest.raises(anthropic.BadRequestError, match="messages: at least one message is required"):
        await sdk.messages.count_tokens(model=CHAT_ONLY, messages=[])
    with pytest.raises(anthropic.AuthenticationError):
        await sdk.with_options(api_key="sk-wrong").messages.count_tokens(model=CHAT_ONLY, messages=said())
    assert await stack.calls() == []
