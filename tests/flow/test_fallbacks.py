"""A call that another model group answers: its caller, its record and its operators are told."""

import json
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from running_stack import RunningStack, say

ASKED, SERVED = "wrong-key", "plain"
"""A group whose provider refuses the key, and the one its calls fall back to."""
MODES = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


async def called(stack: RunningStack, model: str, *, stream: bool) -> httpx.Response:
    """One chat call."""
    body = {"model": model, "messages": say(f"hello {uuid4()}"), "stream": stream}
    async with httpx.AsyncClient(base_url=stack.url, headers=stack.auth, timeout=30) as client:
        return await client.post("/v1/chat/completions", json=body)


async def metric(stack: RunningStack, line: str) -> float:
    """A series' value; 0 while it is not there."""
    headers = {"Authorization": f"Bearer {stack.admin_key}"}
    async with httpx.AsyncClient(base_url=stack.url, headers=headers) as client:
        page = (await client.get("/metrics")).text
    found = [one.rpartition(" ")[2] for one in page.splitlines() if one.startswith(line)]
    return float(found[0]) if found else 0.0


@MODES
async def test_a_fallback_is_told_to_its_caller_and_on_record(stack: RunningStack, *, stream: bool) -> None:
    """By a header of the answer, and each attempt by name in the record."""
    counted = f'llm_proxy_fallbacks_total{{asked="{ASKED}",served="{SERVED}"}}'
    before = await metric(stack, counted)
    answer = await called(stack, ASKED, stream=stream)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-llm-proxy-fallback-from"] == ASKED
    assert answer.headers["x-llm-proxy-model"] == SERVED
    assert answer.headers["x-llm-proxy-attempts"] == "2"
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["group_asked"], story["model_group"], story["attempts"]) == (ASKED, SERVED, 2)
    assert story["hops"] == [[ASKED, ASKED, 401], [SERVED, SERVED, 200]]
    assert await metric(stack, counted) == before + 1


async def test_a_call_that_is_served_as_asked_says_nothing_of_a_fallback(stack: RunningStack) -> None:
    """Its record has its one attempt."""
    answer = await called(stack, SERVED, stream=False)
    assert "x-llm-proxy-fallback-from" not in answer.headers
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["group_asked"], story["model_group"]) == (SERVED, SERVED)
    assert story["hops"] == [[SERVED, SERVED, 200]]


async def test_refused_credentials_are_an_alarm_whatever_answered(
    stack: RunningStack, service_folder: Path
) -> None:
    """A metric and a line of the log, without the provider's words."""
    counted = f'llm_proxy_provider_auth_failures_total{{deployment="{ASKED}"}}'
    before = await metric(stack, counted)
    ids: list[str] = []
    for model in (ASKED, "p/status-401"):
        answer = await called(stack, model, stream=False)
        ids.append(answer.headers["x-request-id"])
        await stack.story(ids[-1])
    assert await metric(stack, counted) == before + 1
    assert await metric(stack, 'llm_proxy_provider_auth_failures_total{deployment="scripted"}') >= 1
    lines = (service_folder / "logs" / "gateway.log").read_text(encoding="utf-8").splitlines()
    logged = [json.loads(one) for one in lines if "rejected the credentials of this installation" in one]
    logged = [one for one in logged if one["request_id"] in ids]
    assert [(one["deployment"], one["answered"]) for one in logged] == [(ASKED, True), ("scripted", False)]


async def test_a_test_of_a_model_tries_that_group_alone(stack: RunningStack) -> None:
    """A wrong key is found, though a call would have been answered."""
    headers = {"Authorization": f"Bearer {stack.admin_key}"}
    async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=30) as client:
        tried = (await client.post(f"/admin/models/{ASKED}/test")).json()
    assert (tried["ok"], tried["deployment"]) == (False, ASKED)
    assert tried["error"]["code"] == "provider_auth"
    assert [call["model"] for call in await stack.calls()] == ["status-401"]
