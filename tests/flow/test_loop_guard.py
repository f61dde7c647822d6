"""A small agent that repeats itself, by two SDKs: observed, warned, stopped, released."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import anthropic
import httpx
import openai
import pytest
from commands import run
from loopback import NO_TLS
from running_stack import RunningStack, say

QUESTION = "Is it open?"
TOOL: Any = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture
async def client(stack: RunningStack) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the admin's."""
    headers = {"Authorization": f"Bearer {stack.admin_key}"}
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS, timeout=20, headers=headers) as opened:
        yield opened


class Agent:
    """An agent that calls one tool for ever, by OpenAI's SDK; each call is a whole turn of a real loop."""

    def __init__(self, stack: RunningStack, key: str) -> None:
        self.run, self.key, self.url = f"run-{uuid4().hex[:8]}", key, stack.url
        self.messages: list[Any] = [{"role": "system", "content": "You help."}, *say(QUESTION)]

    async def turn(self, model: str = "plain", *, stream: bool = False) -> dict[str, str]:
        """One call of the model, whose answer is a call of the tool, and the tool's result."""
        async with openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=self.key,
            max_retries=0,
            default_headers={"X-Run-Id": self.run},
            http_client=openai.DefaultAsyncHttpxClient(verify=NO_TLS, timeout=30),
        ) as sdk:
            made = await sdk.chat.completions.with_raw_response.create(
                model=model,
                messages=self.messages,
                tools=[TOOL],
                stream=stream,
                max_tokens=16,
            )
            if stream:
                frames: Any = made.parse()
                async for _ in frames:
                    pass
        called = f"call_{uuid4().hex}"
        function = {"name": "look_up", "arguments": f'{{"what": "door", "attempt": {len(self.messages)}}}'}
        self.messages += [
            {
                "role": "assistant",
                "content": f"Again: {called}",
                "tool_calls": [{"id": called, "type": "function", "function": function}],
            },
            {
                "role": "tool",
                "tool_call_id": called,
                "content": f"[12:0{len(self.messages) % 9}:07] door: closed",
            },
        ]
        return dict(made.headers)


async def guarded_agent(stack: RunningStack, client: httpx.AsyncClient, **rule: object) -> Agent:
    """An agent with a key of its own, whose tenant has this rule; without one the default holds."""
    tenant = f"t-{uuid4().hex[:8]}"
    if rule:
        body = {"scope": "tenant", "tenant": tenant, "loop_guard": rule}
        made = await client.put("/admin/limits", json=body)
        assert made.status_code == 200, made.text
        assert made.json()["loop_guard"] == rule
        assert made.json()["idle"] is None
    return Agent(stack, await stack.new_key(tenant=tenant, name=f"k-{uuid4().hex[:8]}"))


async def test_a_virtual_keys_run_is_observed_unless_told_otherwise(
    stack: RunningStack, client: httpx.AsyncClient
) -> None:
    """A header, a record, a metric; nothing is stopped; whole and streamed."""
    agent = await guarded_agent(stack, client)
    headers = [await agent.turn(stream=at % 2 == 1) for at in range(7)]
    findings = [one.get("x-llm-proxy-loop") for one in headers]
    assert findings == [
        *[None] * 5,
        *(f"observe; signal=repeat; times={n}; tool=look_up" for n in (5, 6)),
    ]
    story = await stack.story(headers[5]["x-request-id"])
    assert (story["guard_action"], story["guard_signal"], story["guard_times"]) == ("observe", "repeat", 5)
    assert "the loop guard found: repeat, 5 times" in str(story)
    story = await stack.story(headers[4]["x-request-id"])
    assert story["guard_action"] is None
    page = (await client.get("/metrics")).text
    assert 'llm_proxy_loops_total{action="observe",signal="repeat"}' in page


async def test_a_warned_model_is_told_in_its_system_text(
    stack: RunningStack, client: httpx.AsyncClient
) -> None:
    """Only from the threshold on, and only where the rule says so."""
    agent = await guarded_agent(stack, client, mode="warn", notice=True, repeats=3)
    headers = [await agent.turn("claude") for _ in range(4)]
    assert headers[3]["x-llm-proxy-loop"] == "warn; signal=repeat; times=3; tool=look_up"
    bodies = [
        one["body"] for one in (await stack.calls()) if agent.messages[2]["content"] in str(one["body"])
    ]
    systems = [str(one.get("system")) for one in bodies[-3:]]
    assert ["was called 3 times with the same arguments" in one for one in systems] == [False, False, True]
    assert all("You help." in one for one in systems)


async def test_a_run_is_stopped_with_evidence_and_released(
    stack: RunningStack, client: httpx.AsyncClient
) -> None:
    """A 429 that tells SDKs not to repeat it; another run of the key goes on; the audit log has both ends."""
    agent = await guarded_agent(stack, client, mode="stop", quarantine_s=600)
    for _ in range(5):
        await agent.turn()
    with pytest.raises(openai.RateLimitError) as stopped:
        await agent.turn()
    error, headers = stopped.value, stopped.value.response.headers
    assert (error.code, headers["x-should-retry"]) == ("agent_loop_detected", "false")
    assert headers["x-llm-proxy-loop"] == "stop; signal=repeat; times=5; tool=look_up"
    assert headers["x-llm-proxy-refused-by"] == "limit"
    assert (
        "the tool `look_up` was called 5 times with the same arguments and the same result" in error.message
    )
    assert "door" not in error.message
    other = Agent(stack, agent.key)
    await other.turn()
    for named, verdict in ((agent.run, "refused"), (other.run, "admitted")):
        sender = {"Authorization": f"Bearer {agent.key}", "X-Run-Id": named}
        asked = {"model": "plain", "messages": say(QUESTION)}
        explained = (await client.post("/v1/explain", json=asked, headers=sender)).json()
        assert explained["verdict"] == verdict, explained
        assert ("agent_loop_detected" in str(explained)) == (verdict == "refused")
    listed = (await client.get("/admin/runs/quarantined")).json()["data"]
    [one] = [one for one in listed if one["run"] == agent.run]
    assert (one["signal"], one["times"], one["tool"]) == ("repeat", 5, "look_up")

    async def command(*words: str, code: int = 0) -> str:
        return await run(
            "", "runs", *words, "--url", stack.url, code=code, LLM_PROXY__ADMIN_KEY=stack.admin_key
        )

    assert agent.run in await command("stopped")
    assert "may go on" in await command("release", agent.run, "--yes")
    assert "No run of this name" in await command("release", agent.run, "--yes", code=1)
    await agent.turn()
    entries = (await client.get("/admin/audit", params={"limit": 50})).json()["data"]
    actions = [one["action"] for one in entries if one["target"] == f"run {agent.run}"]
    assert {"runs.quarantine", "runs.release"} <= {*actions}


async def test_anthropics_sdk_is_stopped_in_its_own_words(
    stack: RunningStack, client: httpx.AsyncClient
) -> None:
    """Messages with tool_use and tool_result, native and translated; the run is named in a header."""
    for model in ("native-claude", "p/ok"):
        agent = await guarded_agent(stack, client, mode="stop", repeats=3)
        messages: list[Any] = say(QUESTION)
        async with anthropic.AsyncAnthropic(
            base_url=stack.url,
            api_key=agent.key,
            default_headers={"X-Run-Id": agent.run},
            http_client=anthropic.DefaultAsyncHttpxClient(verify=NO_TLS, timeout=30),
        ) as sdk:
            for step in range(4):
                if step == 3:
                    with pytest.raises(anthropic.RateLimitError, match="called 3 times"):
                        await sdk.messages.create(model=model, max_tokens=50, messages=messages)
                    break
                await sdk.messages.create(model=model, max_tokens=50, messages=messages)
                used = f"toolu_{uuid4().hex}"
                messages += [
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": used, "name": "ls", "input": {}}],
                    },
                    {
                        "role": "user",
                        "content": [{"type": "tool_result", "tool_use_id": used, "content": "a b"}],
                    },
                ]


async def test_calls_that_failed_and_are_sent_again_are_no_loop(
    stack: RunningStack, client: httpx.AsyncClient
) -> None:
    """Each of these fails at the provider, as often as an SDK tries."""
    agent = await guarded_agent(stack, client, mode="stop", repeats=2, burst=3)
    for _ in range(5):
        with pytest.raises(openai.APIStatusError) as failed:
            await agent.turn("p/status-503")
        assert failed.value.code != "agent_loop_detected"
