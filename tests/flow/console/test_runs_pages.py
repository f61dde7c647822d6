"""Runs: found, followed call by call, and hidden from other tenants."""

import asyncio
import html
import re
from uuid import uuid4

import httpx
import openai
import pytest
from flow.console.test_requests_pages import chat
from flow.test_loop_guard import guarded_agent
from loopback import NO_TLS
from running_console import RunningConsole, post

from llm_proxy.console.pages.runs import tree_of


async def test_a_run_is_found_and_shown_as_a_tree(console: RunningConsole) -> None:
    """Its agents in order, their calls, the hops of one that fell back; another tenant finds nothing."""
    tenant, run = uuid4().hex, f"night/{uuid4().hex[:8]} <b>"
    key = await console.stack.new_key(tenant=tenant, agent="*")
    ids: list[str] = []
    for agent, model in (("planner", "plain"), ("coder", "wrong-key"), ("planner", "plain")):
        answer = await chat(console.stack, key, "same", model, **{"X-Session-Id": run, "X-Agent-Id": agent})
        assert answer.status_code == 200, answer.text
        ids.append(answer.headers["x-request-id"])
    for request_id in ids:
        await console.stack.story(request_id)
    async with console.signed_in() as client, console.signed_in(key) as holder:
        for one in (client, holder):
            listed = (await one.get("/runs", params={"run": run})).text
            assert "&lt;b&gt;" in listed
            assert "coder, planner" in listed
            [address] = re.findall(r'<a href="(/runs/night~2F[^"]*)"', listed)
            address = html.unescape(address)
            shown = await one.get(address)
            assert shown.status_code == 200
            assert shown.text.index("planner: 2 calls") < shown.text.index("coder: 1 call<")
            assert [shown.text.count(f"/requests/{request_id}") for request_id in ids] == [1, 1, 1]
            assert "wrong-key at wrong-key: 401" in shown.text
            assert "<b>" not in shown.text
        request_page = (await client.get(f"/requests/{ids[0]}")).text
        of_run = (await client.get("/requests", params={"run": run})).text
        assert all(f"/requests/{request_id}" in of_run for request_id in ids)
        assert 'href="/runs/night~2F' in request_page
    async with console.admin("tenant", uuid4().hex) as stranger:
        assert run[:10] not in (await stranger.get("/runs")).text
        assert (await stranger.get(address)).status_code in {403, 404}


async def test_a_run_that_the_loop_guard_stopped_is_shown_and_released(console: RunningConsole) -> None:
    """With the reason, the rejection in the run; a viewer sees it and releases nothing; the run goes on."""
    headers = {"Authorization": f"Bearer {console.stack.admin_key}"}
    async with httpx.AsyncClient(base_url=console.stack.url, headers=headers, verify=NO_TLS) as gateway:
        agent = await guarded_agent(console.stack, gateway, mode="stop", quarantine_s=600)
    for _ in range(5):
        await agent.turn()
    with pytest.raises(openai.RateLimitError):
        await agent.turn()
    async with console.admin("viewer") as viewer:
        seen = (await viewer.get("/runs")).text
        assert "called 5 times with the same arguments" in seen
        assert "/runs/release" not in seen
        path = f"/runs/{agent.run}"
        async with asyncio.timeout(20):
            while "agent_loop_detected" not in (shown := await viewer.get(path)).text:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.05)
        assert "1 rejected" in shown.text
        assert ">no agent: 5 calls, 1 rejected<" in shown.text
        listed = (await viewer.get("/runs", params={"run": agent.run})).text
        assert "<small>1 rejected</small>" in listed
        assert (await post(viewer, "/runs/release", run=agent.run, key="x")).status_code == 403
    async with console.signed_in() as client:
        row = (await client.get("/runs")).text.partition(f'name="run" value="{agent.run}"')[2]
        key, tenant = (
            row.partition(f'name="{name}" value="')[2].partition('"')[0] for name in ("key", "tenant")
        )
        await post(client, "/runs/release", run=agent.run, key=key, tenant=tenant)
        assert "may go on" in (await client.get("/runs")).text
        assert f'name="run" value="{agent.run}"' not in (await client.get("/runs")).text
        await agent.turn()
        await post(client, "/runs/release", run=agent.run, key=key, tenant=tenant)
        assert "No run of this name" in (await client.get("/runs")).text


async def test_a_wrong_search_of_runs_is_said_on_the_page(console: RunningConsole) -> None:
    async with console.signed_in() as client:
        answers: list[httpx.Response] = await asyncio.gather(
            *(client.get(f"/runs?{query}") for query in ("since=tomorrow", "key=nobody", "colour=red"))
        )
        assert [one.status_code for one in answers] == [400] * 3
        assert all('role="alert"' in one.text for one in answers)
        assert (await client.get("/runs/nobody-has-this")).status_code == 404


def test_calls_of_the_same_size_are_alike() -> None:
    """Of one model; a size that is not known is like no other."""
    sizes = (10, 10, 11, None, None)
    calls = [
        {"model": "m", "prompt_bytes": size, "agent": None, "started_at": f"2026-11-27T08:00:0{at}+00:00",
         "cost_usd": 0.1, "prompt_tokens": 1, "completion_tokens": None}
        for at, size in enumerate(sizes)
    ]  # fmt: skip
    [branch] = tree_of(calls, "2026-11-27T08:00:00+00:00")
    assert [one["alike"] for one in branch.calls] == [2, 2, 1, 1, 1]
    assert [one["at_ms"] for one in branch.calls] == [0, 1000, 2000, 3000, 4000]
    assert (branch.cost_usd, branch.tokens) == (0.5, 5)
