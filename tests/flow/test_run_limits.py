"""Limits of runs from outside: set, counted, warned of, exceeded in every dialect, explained, recorded."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from commands import run
from loopback import NO_TLS
from running_stack import RunningStack, say, script

from llm_proxy.json_access import as_object

Json = dict[str, Any]
CHAT = "/v1/chat/completions"
PROMPT: Json = {"model": "plain", "messages": say("hello"), "max_tokens": 16}
IN_EVERY_DIALECT: dict[str, Json] = {
    CHAT: PROMPT,
    "/v1/completions": {"model": "plain", "prompt": "hello"},
    "/v1/embeddings": {"model": "all-minilm-l6-v2", "input": "hello"},
    "/v1/responses": {"model": "plain", "input": "hello"},
    "/v1/messages": {"model": "claude", "max_tokens": 16, "messages": say("hello")},
    "/v1beta/models/gemini:generateContent": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
    "/v2/rerank": {"model": "ranker", "query": "q", "documents": ["d"]},
    "/internal/llm/proxy": PROMPT,
    "/llm-proxy/generate": {"model": "plain", "messages": say("hello")},
}


@dataclass(frozen=True)
class Agent:
    """A key, and the operator who limits its runs."""

    stack: RunningStack
    client: httpx.AsyncClient
    name: str
    key: str

    async def limit(self, **limits: Any) -> Json:
        """Sets the rule of this key's runs."""
        rule = {"scope": "run", "subject": f"key:{self.name}", **limits}
        headers = {"Authorization": f"Bearer {self.stack.admin_key}"}
        answer = await self.client.put("/admin/limits", json=rule, headers=headers)
        assert answer.status_code == 200, answer.text
        document: Json = answer.json()
        return document

    async def call(self, named: str | None, path: str = CHAT, body: Json | None = None) -> httpx.Response:
        """One call in the run of this name."""
        headers = {"Authorization": f"Bearer {self.key}"} | ({"X-Run-Id": named} if named else {})
        return await self.client.post(path, json=body or IN_EVERY_DIALECT[path], headers=headers)


async def new_agent(stack: RunningStack, client: httpx.AsyncClient) -> Agent:
    """A key with no limits of its own."""
    name = uuid4().hex
    return Agent(stack, client, name, await stack.new_key(name=name))


@pytest.fixture
async def agent(stack: RunningStack) -> AsyncIterator[Agent]:
    """A new key."""
    async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url, timeout=20) as client:
        yield await new_agent(stack, client)


def code_of(answer: httpx.Response) -> str:
    """The code of an error, in whatever shape the dialect has."""
    body: Json = answer.json()
    error = as_object(body.get("error"))
    details = as_object(next(iter(error.get("details", ())), None))
    code = error.get("code", body.get("code"))
    return str(details["reason"] if details else code)


async def test_a_run_that_used_its_calls_is_stopped_in_every_dialect(agent: Agent) -> None:
    """With what it used; another run, another key's run of its name and a call in no run go on."""
    await agent.limit(budgets=[{"limit_requests": len(IN_EVERY_DIALECT)}])
    for path in IN_EVERY_DIALECT:
        answer = await agent.call("night", path)
        assert answer.status_code == 200, (path, answer.text)
    for path in IN_EVERY_DIALECT:
        refused = await agent.call("night", path)
        headers = refused.headers
        assert (refused.status_code, headers["x-should-retry"]) == (429, "false"), path
        assert "retry-after" not in headers
        assert headers["x-llm-proxy-refused-by"] == "budget"
        assert headers["x-llm-proxy-run-warning"] == "requests 10/9"
        assert "The run night has reached its limit: it used 9 requests of 9 requests." in refused.text, path
        if path != "/v1/messages":  # Anthropic's errors have a type and no code
            assert code_of(refused).lower() == "run_budget_exceeded", (path, refused.text)
    other = await new_agent(agent.stack, agent.client)
    await other.limit(budgets=[{"limit_requests": 1}])
    for who, named in ((agent, "day"), (agent, None), (other, "night")):
        assert (await who.call(named)).status_code == 200


async def test_every_limit_of_a_run_holds_and_is_told(agent: Agent) -> None:
    """An embedding is no turn, an answer from the cache is one; status, explanation and record agree."""
    document = await agent.limit(
        budgets=[{"limit_turns": 2}, {"limit_tokens": 100_000}, {"limit_usd": "1"}],
        duration_s=3600,
        parallel=3,
    )
    assert (document["duration_s"], document["idle"]) == (3600, None)
    answers = [await agent.call("r", path) for path in (CHAT, "/v1/embeddings", CHAT)]
    assert [one.status_code for one in answers] == [200] * 3
    assert "x-llm-proxy-run-warning" not in answers[0].headers
    assert answers[2].headers["x-llm-proxy-run-warning"] == "turns 2/2"
    refused = await agent.call("r")
    assert refused.json()["error"]["code"] == "run_budget_exceeded"
    assert (await agent.call("r", "/v1/embeddings")).status_code == 200
    headers = {"Authorization": f"Bearer {agent.key}", "x-claude-code-session-id": "r"}
    shown = (await agent.client.get("/v1/limits", headers=headers)).json()
    assert shown["caller"]["run"] == "r"
    of_run = {one.get("unit", one["kind"]): one for one in shown["limits"] if one["scope"] == "run"}
    assert of_run["turns"] | {"used": 2, "limit": 2, "would_refuse": True} == of_run["turns"]
    money = next(one for one in of_run.values() if "used_usd" in one)
    assert float(money["used_usd"]) > 0
    assert 0 <= of_run["seconds"]["used"] < 3600
    assert of_run["parallel"]["used"] == 0
    explained = (await agent.client.post("/v1/explain", json=PROMPT, headers=headers)).json()
    assert explained["refusal"]["code"] == "run_budget_exceeded"
    assert explained["refusal"]["refused_by"] == "budget"
    story = await agent.stack.story_of_rejection(lambda: agent.call("r"))
    assert (story["reached"]["scope"], story["reached"]["unit"], story["reached"]["used"]) == (
        "run",
        "turns",
        2,
    )
    assert "budget of run r (scope run); 2 of 2 turns used" in "\n".join(story["story"])
    record = await agent.stack.story(answers[0].headers["x-request-id"])
    assert (record["run_name"], record["run_id"]) == ("r", "r")


async def test_calls_of_a_run_at_once_are_limited_and_may_be_sent_again(agent: Agent) -> None:
    """One runs, the second gets a time to wait."""
    await agent.limit(parallel=1)
    slow = {**PROMPT, "messages": say(script(do="slow", gap_ms=300, frames=4)), "stream": True}
    headers = {"Authorization": f"Bearer {agent.key}", "X-Run-Id": "r"}
    async with agent.client.stream("POST", CHAT, json=slow, headers=headers) as running:
        assert running.status_code == 200
        refused = await agent.call("r")
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.headers["retry-after"] == "1"
        assert (await agent.call("other")).status_code == 200
        await running.aread()
    assert (await agent.call("r")).status_code == 200


async def test_a_rule_in_shadow_mode_stops_nothing_and_is_recorded(agent: Agent) -> None:
    """As `run:budget`."""
    await agent.limit(budgets=[{"limit_turns": 1}], mode="shadow")
    answers = [await agent.call("r") for _ in range(2)]
    assert [one.status_code for one in answers] == [200, 200]
    stories = [await agent.stack.story(one.headers["x-request-id"]) for one in answers]
    assert [one["would_refuse"] for one in stories] == [None, "run:budget"]


async def test_hostile_names_are_runs_like_others_or_rejected_by_their_field(agent: Agent) -> None:
    """Nothing of them breaks an answer, a header or a key of the store."""
    await agent.limit(budgets=[{"limit_requests": 1}])
    for named in ("a:b{c}", "'; DROP TABLE requests; --", "*", "x" * 256, "../../etc", "é"):
        body = {**PROMPT, "metadata": {"run_id": named}}
        assert (await agent.call(None, CHAT, body)).status_code == 200, named
        refused = await agent.call(None, CHAT, body)
        assert refused.json()["error"]["code"] == "run_budget_exceeded", named
    no_names: list[Any] = ["", "x" * 257, "a\nb", 7, ["a"], "\u2028"]
    for no_name in no_names:
        wrong = await agent.call(None, CHAT, {**PROMPT, "metadata": {"run_id": no_name}})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "metadata.run_id"), no_name


async def test_what_a_run_was_rejected_is_found_by_the_run(
    agent: Agent, stack_ports: dict[str, int], postgres_url: str
) -> None:
    """By its limit, and by one of its key, the second time before the body was read; by every reader."""
    await asyncio.sleep(1 - time.time() % 1)  # ten rejections of a second are kept
    await agent.limit(budgets=[{"limit_requests": 1}])
    path, admin = f"/admin/keys/{agent.name}", {"Authorization": f"Bearer {agent.stack.admin_key}"}
    one, other = uuid4().hex, uuid4().hex
    answers = [await agent.call(one) for _ in range(2)]
    assert (await agent.client.patch(path, json={"rpm": 1}, headers=admin)).status_code == 200
    answers += [await agent.call(name) for name in (None, one, other, other)]
    assert [code_of(answer) for answer in answers] == [
        "None", "run_budget_exceeded", "None", "run_budget_exceeded", *2 * ["rate_limit_exceeded"]
    ]  # fmt: skip
    ids = [answer.headers["x-request-id"] for answer in answers]
    mine = {"Authorization": f"Bearer {agent.key}"}

    async def found(path: str, **params: str) -> list[str]:
        answer = await agent.client.get(path, params=params, headers=mine)
        return [row["request_id"] for row in answer.json()["data"]]

    async with asyncio.timeout(20):
        while len(await found("/v1/requests")) < len(ids):  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.05)
    assert await found("/v1/requests", run=one) == [ids[3], ids[1], ids[0]]
    assert await found("/v1/requests", run=other) == [ids[5], ids[4]]
    assert await found("/v1/requests", run=one, cause="run:budget") == [ids[3], ids[1]]
    assert await found(f"/v1/runs/{one}") == [ids[0], ids[1], ids[3]]
    assert await found(f"/v1/runs/{other}") == [ids[4], ids[5]]
    shown = (await agent.client.get("/v1/runs", params={"run": one}, headers=mine)).json()["data"]
    assert [(row["calls"], row["rejected"], row["failed"]) for row in shown] == [(1, 2, 0)]
    printed = await run(
        postgres_url,
        "runs",
        "show",
        one,
        columns=250,
        LLM_PROXY__ADMIN_KEY=agent.stack.admin_key,
        PORT=str(stack_ports["gateway"]),
    )
    assert "rejected: run_budget_exceeded" in printed


async def test_the_command_line_sets_shows_and_drops_rules_of_runs(agent: Agent, postgres_url: str) -> None:
    """In the words of the admin API."""
    target = ("--scope", "run", "--subject", f"key:{agent.name}")
    limits = ("--duration-s", "60", "--budget", "7turns/total", "--parallel", "2")
    assert "duration_s" in await run(postgres_url, "limits", "set", *target, *limits)
    listed = await run(postgres_url, "limits", columns=200)
    assert all(text in listed for text in ("7turns/total", "60 duration_s", "2 parallel"))
    assert "removed" in await run(postgres_url, "limits", "drop", *target, "--yes")


async def test_runs_and_their_calls_are_listed_for_their_key_and_for_admins(
    agent: Agent, stack_ports: dict[str, int], postgres_url: str
) -> None:
    """With what they cost; another key sees nothing of them; the name may be any."""
    named = f"{uuid4().hex}/a b?é"
    for path in (CHAT, "/v1/embeddings"):
        body = {**IN_EVERY_DIALECT[path], "metadata": {"run_id": named}}
        answer = await agent.call(None, path, body)
        await agent.stack.story(answer.headers["x-request-id"])
    mine, admin = ({"Authorization": f"Bearer {key}"} for key in (agent.key, agent.stack.admin_key))
    listed = (await agent.client.get("/v1/runs", headers=mine)).json()
    (run_of_mine,) = listed["data"]
    assert (run_of_mine["run"], run_of_mine["calls"], run_of_mine["turns"]) == (named, 2, 1)
    assert run_of_mine["cost_usd"] > 0
    path = f"/v1/runs/{quote(named, safe='')}"
    for headers, query in ((mine, {}), (admin, {"key": agent.name})):
        shown = (await agent.client.get(path, headers=headers, params=query)).json()
        assert [one["door"] for one in shown["data"]] == ["chat.completions", "embeddings"]
        assert shown["run"] | {"key_name": agent.name, "calls": 2} == shown["run"]
    other = await new_agent(agent.stack, agent.client)
    theirs = {"Authorization": f"Bearer {other.key}"}
    hidden = await agent.client.get(path, headers=theirs)
    assert (hidden.status_code, hidden.json()["error"]["code"]) == (404, "run_not_found")
    assert (await agent.client.get("/v1/runs", headers=theirs)).json()["data"] == []
    wrong = await agent.client.get("/v1/runs", headers=theirs, params={"user": "x"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "user")
    for words, expected in (
        (("list", "--key", agent.name), named),
        (("show", named), "chat.completions"),
    ):
        shown_text = await run(
            postgres_url,
            "runs",
            *words,
            columns=250,
            LLM_PROXY__ADMIN_KEY=agent.stack.admin_key,
            PORT=str(stack_ports["gateway"]),
        )
        assert expected in shown_text
        assert f"{run_of_mine['cost_usd']:.6f}" in shown_text
