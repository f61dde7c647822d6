"""Operations that are left for later, as their clients hear of them."""

import asyncio
import json

import anthropic
import httpx
import openai
import pytest
from loopback import NO_TLS
from raw_http import send_raw
from raw_requests import SOCKET, request
from running_stack import RunningStack


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "/v1/files", "files"),
        ("GET", "/openai/v1/files/file-1", "files"),
        ("POST", "/openai/batches?api-version=2024-10-21", "batches"),
        ("POST", "/v1/uploads", "uploads"),
        ("GET", "/v1/chat/completions/chatcmpl-1", "stored chat completions"),
        ("POST", "/v1/realtime/client_secrets", "realtime"),
        ("POST", "/v1/assistants", "assistants"),
        ("DELETE", "/v1/vector_stores/vs_1", "vector stores"),
    ],
)
async def test_an_operation_that_is_not_served_says_so(
    stack: RunningStack, method: str, path: str, words: str
) -> None:
    """404 in OpenAI's envelope, whoever asks, whatever the body is."""
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS) as client:
        answer = await client.request(method, path, content=b"--x\r\n" if method == "POST" else None)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (404, "unknown_url", "invalid_request_error")
    assert f"The gateway does not serve {words}" in error["message"]


async def test_the_sdks_raise_their_own_error(stack: RunningStack) -> None:
    """OpenAI's of files, Anthropic's of batches."""
    with pytest.raises(openai.NotFoundError, match="does not serve files"):
        await stack.openai.files.list()
    async with anthropic.AsyncAnthropic(base_url=stack.url, api_key=stack.key) as client:
        with pytest.raises(anthropic.NotFoundError, match="does not serve batches of messages"):
            await client.messages.batches.create(requests=[])


@pytest.mark.parametrize("path", ["/v2/chat", "/v1/chat", "/v1/tokenize"])
async def test_cohere_s_clients_read_the_message(stack: RunningStack, path: str) -> None:
    """In Cohere's envelope."""
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS) as client:
        answer = await client.post(path, json={"message": "hi"})
    body = answer.json()
    assert (answer.status_code, body["id"]) == (404, answer.headers["x-request-id"])
    assert "does not serve Cohere's" in body["message"]


@pytest.mark.parametrize(
    "path", [b"/v1/realtime?model=gpt-realtime", b"/openai/realtime", b"/openai/v1/realtime"]
)
async def test_a_websocket_of_realtime_is_404(stack: RunningStack, path: bytes) -> None:
    """And not the 400 of any other upgrade; the connection ends."""
    sent = request(path, SOCKET, method=b"GET", body=b"")
    answer = await asyncio.to_thread(send_raw, stack.port, sent)
    assert (answer.statuses, answer.closed) == ([404], True)
    assert "does not serve realtime" in json.loads(answer.body)["error"]["message"]
    other = await asyncio.to_thread(
        send_raw, stack.port, request(b"/v1/nothing", SOCKET, method=b"GET", body=b"")
    )
    assert (other.statuses, other.code) == ([400], "no_upgrade")
