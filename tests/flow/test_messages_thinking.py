"""Thinking behind chat completions: Claude's blocks and signatures, and Gemini's, there and back."""

import json

import httpx
import pytest
from loopback import NO_TLS
from messages_events import accumulate, parse_events
from running_stack import Json, RunningStack, script

BLOCKS: list[Json] = [
    {"type": "thinking", "thinking": "Let me see.", "signature": "c2lnbmF0dXJl"},
    {"type": "redacted_thinking", "data": "b3BhcXVl"},
    {"type": "text", "text": "Done.", "citations": None},
]
USAGE = {
    "input_tokens": 11,
    "cache_creation_input_tokens": 3,
    "cache_read_input_tokens": 5,
    "output_tokens": 7,
}
HEAD: Json = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude"}


def whole() -> str:
    """Anthropic's answer."""
    content = [{name: value for name, value in block.items() if value is not None} for block in BLOCKS]
    return json.dumps(
        {**HEAD, "content": content, "stop_reason": "end_turn", "stop_sequence": None, "usage": USAGE}
    )


def streamed() -> str:
    """The same as Anthropic's events."""
    thinking, redacted, _ = BLOCKS
    deltas: list[tuple[Json, list[Json]]] = [
        (
            {"type": "thinking", "thinking": "", "signature": ""},
            [
                {"type": "thinking_delta", "thinking": "Let me "},
                {"type": "thinking_delta", "thinking": "see."},
                {"type": "signature_delta", "signature": thinking["signature"]},
            ],
        ),
        (redacted, []),
        ({"type": "text", "text": ""}, [{"type": "text_delta", "text": "Done."}]),
    ]
    events: list[Json] = [
        {"type": "message_start", "message": {**HEAD, "content": [], "stop_reason": None, "usage": USAGE}}
    ]
    for at, (block, found) in enumerate(deltas):
        events.append({"type": "content_block_start", "index": at, "content_block": block})
        events += [{"type": "content_block_delta", "index": at, "delta": delta} for delta in found]
        events.append({"type": "content_block_stop", "index": at})
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    events += [{"type": "message_delta", "delta": ended, "usage": USAGE}, {"type": "message_stop"}]
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)


@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_comes_and_goes_back_with_its_signature(stack: RunningStack, *, stream: bool) -> None:
    """Blocks in order, unchanged; the provider sees them again in the next turn."""
    asked = {"role": "user", "content": script(do="raw", raw=[streamed() if stream else whole()])}
    body = {"model": "claude", "max_tokens": 4000, "thinking": {"type": "enabled", "budget_tokens": 2000}}
    headers = {**stack.auth, "anthropic-version": "2023-06-01"}
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS, timeout=30) as client:
        first = await client.post(
            "/v1/messages", json={**body, "messages": [asked], "stream": stream}, headers=headers
        )
        assert first.status_code == 200, first.text
        message = accumulate(parse_events(first.content)) if stream else first.json()
        assert message["content"] == BLOCKS
        usage = message["usage"]
        assert [usage[name] for name in USAGE] == [11, 3, 5, 7]
        turns = [
            asked,
            {"role": "assistant", "content": message["content"]},
            {"role": "user", "content": "on"},
        ]
        second = await client.post("/v1/messages", json={**body, "messages": turns}, headers=headers)
        assert second.status_code == 200, second.text
    sent = (await stack.calls())[-1]["body"]
    assert sent["messages"][1]["content"][:2] == BLOCKS[:2]
    assert sent["thinking"] == {"type": "enabled", "budget_tokens": 2000}


async def test_a_call_of_gemini_s_goes_back_with_its_signature(stack: RunningStack) -> None:
    """LiteLLM carries it in the call's id, which the caller gets in Anthropic's form."""
    call: Json = {
        "functionCall": {"name": "look_up", "args": {"city": "Oslo"}},
        "thoughtSignature": "c2lnbmF0dXJl+/==",
    }
    candidate = {"content": {"role": "model", "parts": [call]}, "finishReason": "STOP", "index": 0}
    counted = {"promptTokenCount": 9, "candidatesTokenCount": 2, "totalTokenCount": 11}
    reply = json.dumps({"candidates": [candidate], "usageMetadata": counted, "modelVersion": "gemini"})
    asked = {"role": "user", "content": script(do="raw", raw=[reply])}
    tool = {"name": "look_up", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
    body: Json = {"model": "gemini", "max_tokens": 100, "tools": [tool]}
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS, timeout=30) as client:
        first = await client.post("/v1/messages", json={**body, "messages": [asked]}, headers=stack.auth)
        assert first.status_code == 200, first.text
        message = first.json()
        (used,) = [block for block in message["content"] if block["type"] == "tool_use"]
        assert used["id"].startswith("toolu_")
        assert used["id"].replace("_", "").replace("-", "").isalnum()
        result = {"type": "tool_result", "tool_use_id": used["id"], "content": "sunny"}
        turns = [
            asked,
            {"role": "assistant", "content": message["content"]},
            {"role": "user", "content": [result]},
        ]
        second = await client.post("/v1/messages", json={**body, "messages": turns}, headers=stack.auth)
        assert second.status_code == 200, second.text
    sent = (await stack.calls())[-1]["body"]["contents"]
    assert call["thoughtSignature"] in json.dumps(sent)
