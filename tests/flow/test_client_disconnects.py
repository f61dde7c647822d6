"""Clients that disconnect, and providers that do."""

import asyncio
import json

import httpx
import pytest
from running_stack import RunningStack, say, script


async def _seconds_until_disconnect(stack: RunningStack, model: str, seconds: float = 2.0) -> float | None:
    """Returns after how many seconds the provider saw the disconnect; None within `seconds`."""
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        for call in await stack.calls():
            if call["model"] == model and call["client_left_s"] is not None:
                return float(call["client_left_s"])
        await asyncio.sleep(0.05)
    return None


async def _disconnect_after(seconds: float, stack: RunningStack, body: object) -> None:
    """Sends a request and disconnects in the middle of it."""
    async with httpx.AsyncClient(timeout=None) as client:  # noqa: S113 -- the point is to leave by ourselves
        request = client.post(stack.url + "/v1/chat/completions", json=body, headers=stack.auth)
        asking = asyncio.create_task(request)
        _, pending = await asyncio.wait([asking], timeout=seconds)
        assert pending == {asking}
        asking.cancel()


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_disconnect_frees_the_provider_within_a_second(
    stack: RunningStack,
    streamed: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """For JSON and streams: the provider's connection closes soon after the client's."""
    model = f"left-{streamed}"
    text = script(do="slow", gap_ms=300, frames=40) if streamed else script(do="slow-first", first_ms=8000)
    body = {"model": f"p/{model}", "messages": say(text), "stream": streamed}
    await _disconnect_after(1.0, stack, body)
    left_s = await _seconds_until_disconnect(stack, model)
    assert left_s is not None
    assert left_s < 2.5


@pytest.mark.parametrize("play", ["cut", "reset", "eof", "half-frame", "garbage", "error-in-200"])
async def test_a_truncated_stream_is_never_a_complete_one(stack: RunningStack, play: str) -> None:
    """What came so far, one error event, no `[DONE]`, no invented finish reason."""
    body = {"model": f"p/{play}", "messages": say("hello"), "stream": True}
    async with httpx.AsyncClient(timeout=20) as client:
        response = await client.post(stack.url + "/v1/chat/completions", json=body, headers=stack.auth)
    assert response.status_code == 200
    frames = [part[6:] for part in response.text.strip().split("\n\n")]
    assert "[DONE]" not in frames
    events = [json.loads(part) for part in frames]
    assert [event["error"]["type"] for event in events if "error" in event] == ["server_error"]
    assert "error" in events[-1]
    choices = [choice for event in events for choice in event.get("choices", [])]
    assert any(choice.get("delta", {}).get("content") for choice in choices)
    assert not any(choice.get("finish_reason") for choice in choices)
