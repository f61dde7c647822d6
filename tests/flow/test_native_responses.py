"""`/v1/responses` where the provider speaks it: from the caller to the scripted provider and back."""

from uuid import uuid4

import httpx
import pytest
from loopback import NO_TLS
from messages_events import parse_events
from running_stack import Json, RunningStack, script

ASKED: Json = {
    "model": "native-gpt",
    "client_metadata": {"x": "y"},
    "metadata": {"run_id": "r"},
    "store": False,
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}],
    "max_output_tokens": 64,
}


def ask(**directive: object) -> Json:
    """A request that tells the provider what to do."""
    said = {"role": "user", "content": [{"type": "input_text", "text": script(**directive)}]}
    return ASKED | {"input": [said]}


async def send(stack: RunningStack, body: Json, path: str = "/v1/responses") -> httpx.Response:
    """One request."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        return await client.post(stack.url + path, json=body, headers=stack.auth)


async def test_a_native_response_is_the_providers_own(stack: RunningStack) -> None:
    """The body as it was sent; what it used and cost is recorded."""
    body = ask(do="ok", cached_tokens=4, reasoning_tokens=3, service_tier="priority")
    reply = await send(stack, body, "/responses")
    assert reply.status_code == 200
    [call] = await stack.calls()
    assert call["body"] == body | {"model": "gpt-4.1"}
    assert reply.json()["provider_addition"] == {"kept": True}
    story = await stack.story(reply.headers["x-request-id"])
    assert (story["prompt_tokens"], story["completion_tokens"]) == (17, 23)
    assert (story["cached_tokens"], story["reasoning_tokens"]) == (4, 3)
    assert float(reply.headers["x-llm-proxy-cost-usd"]) > 0
    assert float(story["cost_usd"]) == pytest.approx(float(reply.headers["x-llm-proxy-cost-usd"]))


async def test_a_native_stream_is_the_providers_own(stack: RunningStack) -> None:
    """Numbered events with their names, no end mark; the record has the stated usage and its cost."""
    reply = await send(stack, ask(do="ok", frames=5) | {"stream": True})
    found = parse_events(reply.content)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert found[-1]["type"] == "response.completed"
    assert found[-1]["response"]["usage"]["output_tokens"] == 23
    assert "llmp-cost" not in reply.text
    story = await stack.story(reply.headers["x-request-id"])
    assert (story["outcome"], story["completion_tokens"], story["usage_source"]) == ("ok", 23, "provider")
    assert float(story["cost_usd"]) == pytest.approx(6.3e-05)


@pytest.mark.parametrize("how", ["cut", "eof", "half-frame", "garbage", "error-in-200", "silence"])
async def test_a_broken_native_stream_fails(stack: RunningStack, how: str) -> None:
    """The last event is `response.failed`, with the next number, and never `completed`."""
    reply = await send(stack, ask(do=how, after=4) | {"stream": True})
    found = parse_events(reply.content)
    assert found[-1]["type"] == "response.failed"
    assert found[-1]["response"]["error"]["message"]
    assert "response.completed" not in {event["type"] for event in found}
    numbers = [event["sequence_number"] for event in found]
    assert numbers == sorted(set(numbers))
    story = await stack.story(reply.headers["x-request-id"])
    assert story["outcome"] == "cut"


async def test_an_incomplete_response_says_why(stack: RunningStack) -> None:
    """Neither completed nor failed."""
    reply = await send(stack, ask(do="ok", finish="length") | {"stream": True})
    last = parse_events(reply.content)[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_a_providers_error_keeps_its_status_and_parameter(stack: RunningStack) -> None:
    """In OpenAI's envelope, without LiteLLM's words."""
    reply = await send(stack, ask(do="status-400"))
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["message"] == "Invalid value for 'top_logprobs'."
    assert "litellm" not in reply.text.lower()


async def test_a_providers_limit_says_when_to_try_again(stack: RunningStack) -> None:
    """In seconds, as the provider does."""
    reply = await send(stack, ask(do="status-429", retry_after="7"))
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "7")
    assert reply.json()["error"]["code"] == "rate_limit_exceeded"


async def test_only_what_nobody_stores_is_cached(stack: RunningStack) -> None:
    """An id that the provider keeps is told once."""
    kept, passing = (ask(do="ok", key=str(uuid4())) | {"store": stored} for stored in (True, False))
    for body, states in ((kept, ["off", "off"]), (passing, ["miss", "hit"])):
        replies = [await send(stack, body | {"stream": True}) for _ in range(2)]
        assert [reply.headers["x-llm-proxy-cache"] for reply in replies] == states
        assert parse_events(replies[1].content)[-1]["type"] == "response.completed"


async def test_a_websocket_is_refused_in_a_word(stack: RunningStack) -> None:
    """Codex then sends a POST at once; on 404 it would try seven times."""
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        for path in ("/v1/responses", "/responses"):
            reply = await client.get(stack.url + path, headers=stack.auth | upgrade)
            assert reply.status_code == 426
            assert reply.json()["error"]["code"] == "upgrade_required"
            assert reply.headers["x-should-retry"] == "false"
        other = await client.get(stack.url + "/v1/responses", headers=stack.auth)
        assert (other.status_code, other.headers["allow"]) == (405, "POST")
        assert (await client.head(stack.url + "/api/hello")).status_code == 200
