"""Azure OpenAI's spelling: its paths and its key, through the whole stack."""

import asyncio
import json

import httpx
import pytest
from loopback import NO_TLS
from raw_http import send_raw
from raw_requests import request
from running_stack import RunningStack, say

VERSION = {"api-version": "2024-10-21"}


def client_of(stack: RunningStack) -> httpx.AsyncClient:
    """A client with the key as Azure's clients send it."""
    headers = {"api-key": stack.key, "Cache-Control": "no-store, no-cache"}
    return httpx.AsyncClient(base_url=stack.url, headers=headers, verify=NO_TLS, timeout=30)


@pytest.mark.parametrize("name", ["p/ok", "p%2Fok", "p%2fok", "%70/ok"])
@pytest.mark.parametrize("body", [{}, {"model": "plain"}, {"model": None}])
async def test_the_path_s_model_serves_a_call(
    stack: RunningStack, name: str, body: dict[str, object]
) -> None:
    """It counts before the body's; the record names model and endpoint, not the path."""
    async with client_of(stack) as client:
        answer = await client.post(
            f"/openai/deployments/{name}/chat/completions",
            params=VERSION,
            json={"messages": say("hello"), **body},
        )
    assert answer.status_code == 200, answer.text
    [call] = await stack.calls()
    assert call["body"]["model"] == "ok"
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["model"], story["door"]) == ("p/ok", "chat.completions")


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("nobody-has-this", 404, "model_not_found"),
        ("..", 404, "model_not_found"),
        ("%2e%2e%2f%2e%2e", 404, "model_not_found"),
        ("p/..", 404, "model_not_found"),
        ("p/%00", 404, "model_not_found"),
        ("p/a%0d%0aX-Y:%20z", 404, "model_not_found"),
        ("p%252Fok", 404, "model_not_found"),
        ("p/%ff", 400, "invalid_value"),
        ("p/%zz", 400, "invalid_value"),
        ("p/" + "x" * 300, 400, "string_above_max_length"),
    ],
)
async def test_a_name_that_no_model_has_is_an_error(
    stack: RunningStack, name: str, status: int, code: str
) -> None:
    """In OpenAI's envelope, naming the model; nothing reaches the sidecar."""
    sent = request(f"/openai/deployments/{name}/chat/completions".encode())
    answer = await asyncio.to_thread(send_raw, stack.port, sent)
    error = json.loads(answer.body)["error"]
    assert (answer.statuses, error["code"], error["param"]) == ([status], code, "model")
    assert await stack.calls() == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_another_method_is_405_with_allow(stack: RunningStack, method: str) -> None:
    """Without a look at the name or the key."""
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS) as client:
        answer = await client.request(method, "/openai/deployments/nobody-has-this/chat/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_an_unknown_caller_learns_nothing_of_a_name(stack: RunningStack) -> None:
    """401 for a served name, an unknown and a malformed one."""
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS, headers={"api-key": "sk-no"}) as client:
        for name in ("p/ok", "nobody-has-this", "%zz"):
            answer = await client.post(f"/openai/deployments/{name}/embeddings", json={"input": "x"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("path", ["p/ok/chat/completions", "p%2Fok/chat/completions?api-version=x"])
async def test_explain_takes_such_a_path(stack: RunningStack, path: str) -> None:
    """The explained call is of the path's model."""
    async with client_of(stack) as client:
        answer = await client.post(
            "/v1/explain", params={"path": f"/openai/deployments/{path}"}, json={"messages": say("hello")}
        )
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "p/ok"
