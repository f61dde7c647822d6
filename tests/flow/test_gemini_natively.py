"""Google's API where the provider speaks it: from the caller to the scripted provider and back."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import httpx
import pytest
from loopback import NO_TLS
from running_stack import Json, RunningStack, script

from llm_proxy import sse

MODEL = "/v1beta/models/native-gemini"
TOKENS = {"cached_tokens": 4, "reasoning_tokens": 5}
COST_USD = (13 * 0.3 + 4 * 0.03 + 23 * 2.5) / 1e6
"""Of `TOKENS` in a prompt of 17 and an answer of 23, at the published price."""


def ask(**directive: Any) -> Json:
    """A request that tells the provider what to do."""
    return {
        "contents": [{"role": "user", "parts": [{"text": script(**directive)}]}],
        "system_instruction": {"parts": {"text": "s"}},
        "generationConfig": {"maxOutputTokens": 64, "newSetting": None},
        "tools": [{"googleSearch": {}}],
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}],
        "newField": 1,
    }


async def send(stack: RunningStack, body: Json, operation: str = "generateContent") -> httpx.Response:
    """One request with the credential of Google's clients."""
    headers = {"x-goog-api-key": stack.key, "cookie": "x=y", "x-goog-user-project": "p"}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=60) as client:
        return await client.post(f"{stack.url}{MODEL}:{operation}", json=body, headers=headers)


def chunks_of(reply: httpx.Response) -> list[Json]:
    """The chunks of a stream of either form."""
    if reply.headers["content-type"].startswith("application/json"):
        items: list[Json] = reply.json()
        return items
    return [json.loads(sse.parse_event(one).data or b"") for one in sse.SSEDecoder().feed(reply.content)]


async def test_an_answer_is_the_providers_own(stack: RunningStack) -> None:
    """Body and answer as they were sent, no header of the caller's; cached tokens and thoughts are billed."""
    reply = await send(stack, body := ask(do="ok", **TOKENS))
    assert reply.status_code == 200, reply.text
    assert reply.json()["providerAddition"] == {"kept": None}
    [call] = await stack.calls()
    own = {**body, "systemInstruction": body["system_instruction"]}
    del own["system_instruction"]
    assert {name: value for name, value in call["body"].items() if name != "model"} == own
    assert not {"cookie", "x-goog-user-project"} & call["headers"].keys()
    assert stack.key not in json.dumps(call["headers"])
    story = await stack.story(reply.headers["x-request-id"])
    assert (story["prompt_tokens"], story["completion_tokens"], story["cached_tokens"]) == (17, 23, 4)
    assert story["dialect"] == "gemini"
    assert float(story["cost_usd"]) == pytest.approx(COST_USD)


@pytest.mark.parametrize("operation", ["streamGenerateContent", "streamGenerateContent?alt=sse"])
async def test_a_stream_is_the_providers_own(stack: RunningStack, operation: str) -> None:
    """The same chunks in both forms, and the same figures as for a whole answer."""
    reply = await send(stack, ask(do="ok", form=operation, **TOKENS), operation)
    chunks = chunks_of(reply)
    assert len(chunks) == 8
    assert all("providerAddition" in one for one in chunks)
    assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"
    assert "llmp-cost" not in reply.text
    story = await stack.story(reply.headers["x-request-id"])
    assert (story["prompt_tokens"], story["completion_tokens"], story["cached_tokens"]) == (17, 23, 4)
    assert float(story["cost_usd"]) == pytest.approx(COST_USD)


@pytest.mark.parametrize("how", ["cut", "eof", "half-frame", "garbage", "error-in-200"])
async def test_a_broken_stream_ends_in_an_error(stack: RunningStack, how: str) -> None:
    """In both forms; never as complete."""
    for operation in ("streamGenerateContent", "streamGenerateContent?alt=sse"):
        reply = await send(stack, ask(do=how, after=5), operation)
        chunks = chunks_of(reply)
        assert chunks[-1]["error"]["message"]
        assert len(chunks) >= 5
        assert "finishReason" not in reply.text
        assert (await stack.story(reply.headers["x-request-id"]))["outcome"] == "cut"


@pytest.mark.parametrize(
    ("do", "status", "state"),
    [
        ("status-400", 400, "INVALID_ARGUMENT"),
        ("status-404", 404, "NOT_FOUND"),
        ("status-503", 503, "UNAVAILABLE"),
        ("says-gemini-quota", 429, "RESOURCE_EXHAUSTED"),
        ("says-gemini-key", 502, "UNAVAILABLE"),
        ("context", 400, "INVALID_ARGUMENT"),
    ],
)
async def test_a_providers_error_is_in_googles_envelope(
    stack: RunningStack, do: str, status: int, state: str
) -> None:
    """Before a stream too; without LiteLLM's words."""
    for operation in ("generateContent", "streamGenerateContent?alt=sse"):
        reply = await send(stack, ask(do=do), operation)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["status"]) == (status, status, state), reply.text
        assert "litellm" not in reply.text.lower()


@pytest.mark.parametrize(
    "body",
    [
        {"cachedContent": "cachedContents/a"},
        {"cached_content": "cachedContents/a"},
        {"generationConfig": {"maxOutputTokens": 1, "max_output_tokens": 9}},
        {"contents": [{"parts": [{"file_data": {"file_uri": "http://127.0.0.1/a"}}]}]},
        {"contents": [{"parts": [{"fileData": {"fileUri": "files/abc"}}]}]},
        {"contents": [{"parts": [{"fileData": {"fileUri": "gs://bucket/a.pdf"}}]}]},
        {"systemInstruction": {"parts": [{"file_data": {"file_uri": "GS://bucket/a.pdf"}}]}},
        {"tools": [{"mcpServers": [{"streamableHttpTransport": {"url": "http://10.0.0.1/"}}]}]},
        {"contents": None},
        {"stream": True},
        {"api_base": "https://a.example"},
        {"fallbacks": ["x"]},
    ],
)
async def test_what_no_caller_may_send(stack: RunningStack, body: Json) -> None:
    """What is the operator's, what a private network holds, what LiteLLM would read as its own."""
    reply = await send(stack, ask() | body)
    assert (reply.status_code, reply.json()["error"]["status"]) == (400, "INVALID_ARGUMENT"), reply.text
    assert await stack.calls() == []


@pytest.mark.parametrize(
    "operation", ["generateContent", "streamGenerateContent?alt=sse", "streamGenerateContent"]
)
async def test_the_same_call_is_answered_from_the_cache(stack: RunningStack, operation: str) -> None:
    """Byte for byte, at no cost."""
    body = ask(do="ok", key=str(uuid4()))
    first, again = await send(stack, body, operation), await send(stack, body, operation)
    assert [reply.headers["x-llm-proxy-cache"] for reply in (first, again)] == ["miss", "hit"]
    assert again.content == first.content
    assert len(await stack.calls()) == 1
    story = await stack.story(again.headers["x-request-id"])
    assert (story["cache"], float(story["cost_usd"]), story["completion_tokens"]) == ("hit", 0, 23)


@pytest.mark.parametrize("operation", ["generateContent", "streamGenerateContent?alt=sse"])
async def test_a_caller_who_leaves_ends_the_providers_call(stack: RunningStack, operation: str) -> None:
    """The provider's connection is closed; the record says so."""
    do = {"do": "hang"} if operation == "generateContent" else {"do": "slow", "gap_ms": 300, "frames": 100}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=httpx.Timeout(30, read=1)) as client:
        headers = {"x-goog-api-key": stack.key}
        url = f"{stack.url}{MODEL}:{operation}"
        if operation == "generateContent":
            with pytest.raises(httpx.ReadTimeout):
                await client.post(url, json=ask(**do), headers=headers)
        else:
            async with client.stream("POST", url, json=ask(**do), headers=headers) as reply:
                async for chunk in reply.aiter_bytes():
                    if b"text" in chunk:
                        break
    async with asyncio.timeout(10):
        while not (seen := await stack.calls()) or seen[0]["client_left_s"] is None:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.1)
    assert seen[0]["client_left_s"] < 5


async def test_a_call_can_be_explained(stack: RunningStack) -> None:
    """As one of chats."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        url = f"{stack.url}/v1/explain?path={MODEL}:generateContent"
        reply = await client.post(url, json=ask(do="ok"), headers=stack.auth)
    assert (reply.status_code, reply.json()["verdict"]) == (200, "admitted")
