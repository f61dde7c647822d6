"""`/v1/messages` where the provider speaks it: from the caller to the scripted provider and back."""

import asyncio
import json
from uuid import uuid4

import httpx
import pytest
from loopback import NO_TLS
from messages_events import parse_events
from running_stack import Json, RunningStack, say, script

BETAS = "claude-code-20250219,thinking-token-count-2026-05-13,made-up-2030-01-01"
TOKENS = {"cached_tokens": 3, "cache_write_tokens": 5, "cache_write_1h_tokens": 2}


COST_USD = 3.9615e-04
"""Of `TOKENS` in a prompt of 17 and an answer of 23, at the published price."""


def ask(**directive: object) -> Json:
    """A request that tells the provider what to do."""
    return {
        "model": "native-claude",
        "max_tokens": 64,
        "messages": say(script(**directive)),
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "metadata": {"user_id": "somebody"},
    }


async def send(stack: RunningStack, body: Json, **headers: str) -> httpx.Response:
    """One request with the credential of Anthropic's clients."""
    own = {"x-api-key": stack.key, "anthropic-version": "2023-06-01", "cookie": "x=y", "x-app": "cli"}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=60) as client:
        return await client.post(stack.url + "/v1/messages?beta=true", json=body, headers=own | headers)


async def test_a_native_message_is_the_providers_own(stack: RunningStack) -> None:
    """Body and answer as they were sent; of the headers, version and known betas; cache tokens are billed."""
    reply = await send(stack, body := ask(do="ok", **TOKENS), **{"anthropic-beta": BETAS})
    assert reply.status_code == 200
    [call] = await stack.calls()
    for name, value in body.items():
        assert name == "model" or call["body"][name] == value
    assert call["headers"]["anthropic-version"] == "2023-06-01"
    assert call["headers"]["anthropic-beta"] == "claude-code-20250219,thinking-token-count-2026-05-13"
    assert not {"cookie", "x-app"} & call["headers"].keys()
    assert stack.key not in json.dumps(call["headers"])
    assert reply.headers["request-id"] == reply.headers["x-request-id"]
    story = await stack.story(reply.headers["x-request-id"])
    assert (story["prompt_tokens"], story["completion_tokens"], story["cached_tokens"]) == (17, 23, 3)
    assert story["cache_write_tokens"] == 5
    assert float(story["cost_usd"]) == pytest.approx(COST_USD)


async def test_a_native_stream_is_the_providers_own(stack: RunningStack) -> None:
    """The same figures as for a whole message; `message_stop` last."""
    reply = await send(stack, ask(do="ok", **TOKENS) | {"stream": True})
    found = parse_events(reply.content)
    assert [found[0]["type"], found[-1]["type"]] == ["message_start", "message_stop"]
    assert found[0]["message"]["usage"]["cache_creation"]["ephemeral_1h_input_tokens"] == 2
    assert "llmp-cost" not in reply.text
    story = await stack.story(reply.headers["x-request-id"])
    assert (story["prompt_tokens"], story["completion_tokens"], story["cached_tokens"]) == (17, 23, 3)
    assert float(story["cost_usd"]) == pytest.approx(COST_USD)


@pytest.mark.parametrize("how", ["cut", "eof", "half-frame", "garbage", "error-in-200"])
async def test_a_broken_native_stream_is_an_error_event(stack: RunningStack, how: str) -> None:
    """The last one, and no `message_stop`."""
    reply = await send(stack, ask(do=how, after=5) | {"stream": True})
    found = parse_events(reply.content)
    assert found[-1]["type"] == "error"
    assert found[-1]["error"]["message"]
    assert "message_stop" not in {event["type"] for event in found}
    assert (await stack.story(reply.headers["x-request-id"]))["outcome"] == "cut"


@pytest.mark.parametrize(
    ("do", "status", "kind", "retried"),
    [
        ("status-400", 400, "invalid_request_error", "false"),
        ("status-529", 529, "overloaded_error", None),
        ("context", 400, "invalid_request_error", "false"),
    ],
)
async def test_a_providers_error_is_in_anthropics_envelope(
    stack: RunningStack, do: str, status: int, kind: str, retried: str | None
) -> None:
    """With the message that clients look for, and without LiteLLM's words."""
    reply = await send(stack, ask(do=do))
    assert (reply.status_code, reply.json()["error"]["type"]) == (status, kind)
    assert reply.json()["request_id"] == reply.headers["request-id"]
    assert "litellm" not in reply.text.lower()
    if retried is not None:
        assert reply.headers["x-should-retry"] == retried
    if do == "context":
        assert "prompt is too long: 210000 tokens > 200000 maximum" in reply.json()["error"]["message"]


async def test_the_gateways_own_refusals_are_in_anthropics_envelope(stack: RunningStack) -> None:
    """A wrong key, body, version, method and model."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        url = stack.url + "/v1/messages"
        wrong = [
            (await client.post(url, json={}, headers={"x-api-key": "sk-wrong"}), 401, "authentication_error"),
            (await client.post(url, content=b"{", headers=stack.auth), 400, "invalid_request_error"),
            (await client.get(url, headers=stack.auth), 405, "invalid_request_error"),
            (await send(stack, ask() | {"model": "nobody-knows"}), 404, "not_found_error"),
            (await send(stack, ask(), **{"anthropic-version": "2020-01-01"}), 400, "invalid_request_error"),
        ]
    for reply, status, kind in wrong:
        assert (reply.status_code, reply.json()["error"]["type"]) == (status, kind)
        assert reply.json()["request_id"] == reply.headers["request-id"]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_call_is_answered_from_the_cache(stack: RunningStack, stream: bool) -> None:  # noqa: FBT001 -- a parameter
    """Byte for byte, at no cost; another beta is another call."""
    body = ask(do="ok", key=str(uuid4())) | {"stream": stream}
    first = await send(stack, body)
    again = await send(stack, body)
    other = await send(stack, body, **{"anthropic-beta": "context-1m-2025-08-07"})
    states = [reply.headers["x-llm-proxy-cache"] for reply in (first, again, other)]
    assert states == ["miss", "hit", "miss"]
    assert again.content == first.content
    assert len(await stack.calls()) == 2
    story = await stack.story(again.headers["x-request-id"])
    assert (story["cache"], float(story["cost_usd"]), story["completion_tokens"]) == ("hit", 0, 23)


async def test_a_caller_who_leaves_ends_the_providers_call(stack: RunningStack) -> None:
    """The provider's stream is closed; the record says so."""
    body = ask(do="slow", gap_ms=300, frames=100) | {"stream": True}
    headers = {"x-api-key": stack.key}
    async with (
        httpx.AsyncClient(verify=NO_TLS, timeout=30) as client,
        client.stream("POST", stack.url + "/v1/messages", json=body, headers=headers) as reply,
    ):
        async for chunk in reply.aiter_bytes():
            if b"content_block_delta" in chunk:
                break
    async with asyncio.timeout(10):
        while (await stack.calls())[0]["client_left_s"] is None:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.1)
    story = await stack.story(reply.headers["x-request-id"])
    assert story["outcome"] == "client_gone"


async def test_a_call_can_be_explained(stack: RunningStack) -> None:
    """As one of chats."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        url = stack.url + "/v1/explain?path=/v1/messages"
        reply = await client.post(url, json=ask(do="ok"), headers=stack.auth)
    assert reply.status_code == 200, reply.text
    assert reply.json()["verdict"] == "admitted"


async def test_a_caller_who_waits_gets_pings(stack: RunningStack) -> None:
    """Before the provider's first byte too; an error after that is an event."""
    late = await send(stack, ask(do="slow-first", first_ms=1200) | {"stream": True})
    assert parse_events(late.content)[0] == {"type": "ping"}
    assert parse_events(late.content)[-1]["type"] == "message_stop"
    failing = ask(do="status-500", first_ms=1200) | {"stream": True}
    refused = await send(stack, failing)
    assert (refused.status_code, parse_events(refused.content)[0]) == (200, {"type": "ping"})
    assert parse_events(refused.content)[-1]["type"] == "error"
