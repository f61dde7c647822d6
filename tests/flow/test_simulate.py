"""A simulated change rejects what the change rejects: it is applied, and the calls are made."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from running_stack import ADMIN_KEY, Json, RunningStack, script

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
TOKENS = {"prompt_tokens": 17, "completion_tokens": 23}
Made = tuple[int, str]
"""A call's status, and its id."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Calls that are made twice, and the change between.

    Attributes:
        change: Of the key.
        at_once: They are made together, not one after the other.
        played: What the provider is told.
        body: What the requests hold beside it.
    """

    change: Json
    calls: int = 12
    at_once: bool = False
    played: Json = field(default_factory=lambda: {"do": "ok"})
    body: Json = field(default_factory=dict[str, Any])

    def request(self, text: str) -> tuple[str, Json]:
        """The path of a call that says this, and its body; one with documents ranks them."""
        if "documents" in self.body:
            return "/v1/rerank", {"model": "ranker", "query": text} | self.body
        messages = [{"role": "user", "content": text}]
        return "/v1/chat/completions", {"model": "plain", "messages": messages} | self.body


RANKED: Json = {"documents": ["a document"] * 101}
SCENES = {
    "requests": Scenario({"rpm": 5}),
    "tokens": Scenario({"tpm": 250}, body={"max_tokens": 30}),
    "tokens-unbounded": Scenario({"tpm": 4500}),
    "budget": Scenario({"budgets": [{"limit_usd": "0.0003", "period": "day"}]}, body={"max_tokens": 40}),
    "budget-of-requests": Scenario({"budgets": [{"limit_requests": 4, "period": "day"}]}),
    "budget-of-searches": Scenario({"budgets": [{"limit_search_units": 5, "period": "day"}]}, body=RANKED),
    "budget-for-searches": Scenario({"budgets": [{"limit_usd": "0.011", "period": "day"}]}, body=RANKED),
    "searches-are-no-chats": Scenario({"budgets": [{"limit_search_units": 0, "period": "day"}]}, calls=3),
    "nothing-to-spend": Scenario({"budgets": [{"limit_usd": 0, "period": "day"}]}, calls=3),
    "parallel": Scenario(
        {"parallel": 2}, calls=5, at_once=True, played={"do": "slow-first", "first_ms": 700}
    ),
    "models": Scenario({"models": ["p/*"]}, calls=3),
    "failures-cost-nothing": Scenario(
        {"budgets": [{"limit_usd": "0.0001", "period": "day"}]}, played={"do": "status-400"}, calls=4
    ),
    "several": Scenario({"rpm": 8, "tpm": 250, "parallel": 3}, body={"max_tokens": 30}),
}


class Simulator:
    """An admin and a caller in front of the stack."""

    def __init__(self, stack: RunningStack) -> None:
        self.url = stack.url

    async def admin(self, method: str, path: str, body: Json | None = None) -> httpx.Response:
        """An admin's request."""
        async with httpx.AsyncClient(headers=ADMIN, timeout=30) as client:
            return await client.request(method, self.url + path, json=body)

    async def key(self, **spec: Any) -> Json:
        """A new key."""
        answer = await self.admin("POST", "/admin/keys", {"name": uuid4().hex, "models": ["*"]} | spec)
        assert answer.status_code == 201, answer.text
        found: Json = answer.json()
        return found

    async def make(self, key: Json, scene: Scenario) -> list[Made]:
        """The scene's calls with this key, in the order they were begun."""
        headers = {"Authorization": f"Bearer {key['key']}"}
        async with httpx.AsyncClient(headers=headers, timeout=30) as client:

            async def one(at: int) -> Made:
                await asyncio.sleep(at * 0.02 if scene.at_once else 0)
                text = script(**scene.played, **TOKENS, key=uuid4().hex)
                path, body = scene.request(text)
                answer = await client.post(self.url + path, json=body)
                return answer.status_code, answer.headers["x-request-id"]

            if scene.at_once:
                return list(await asyncio.gather(*map(one, range(scene.calls))))
            return [await one(at) for at in range(scene.calls)]

    async def simulated(self, since: datetime, calls: int, **changes: Any) -> Json:
        """The simulation, as soon as so many calls are on record."""
        async with asyncio.timeout(15):
            while True:
                answer = await self.admin("POST", "/admin/simulate", {"since": since.isoformat()} | changes)
                assert answer.status_code == 200, answer.text
                found: Json = answer.json()
                if found["calls"] >= calls:
                    return found
                await asyncio.sleep(0.05)


@pytest.fixture
async def simulator(stack: RunningStack) -> Simulator:
    """Returns a simulator in front of the stack."""
    return Simulator(stack)


def rejected_calls(made: Sequence[Made]) -> list[int]:
    """Returns the indices of calls that a limit or a model list rejected."""
    return [at for at, (status, _) in enumerate(made) if status in {404, 429}]


@pytest.mark.parametrize("name", SCENES)
async def test_what_is_simulated_is_what_happens(simulator: Simulator, name: str) -> None:
    """As many calls are rejected, the same one first."""
    scene, since = SCENES[name], datetime.now(UTC)
    free = await simulator.key()
    before = await simulator.make(free, scene)
    assert rejected_calls(before) == []
    found = await simulator.simulated(since, scene.calls, keys={free["name"]: scene.change})
    truth = rejected_calls(await simulator.make(await simulator.key(**scene.change), scene))
    assert (found["calls"], found["refused"]) == (scene.calls, len(truth))
    assert {one["key"]: one["calls"] for one in found["refused_callers"]} == (
        {free["id"]: len(truth)} if truth else {}
    )
    if truth:
        assert min(one["first_request_id"] for one in found["refused_by"]) == before[truth[0]][1]


async def test_policies_prices_and_model_lists_replace_today_s(simulator: Simulator) -> None:
    """A tenant's policy counts its keys together; another price changes what the calls would have cost."""
    since, tenant = datetime.now(UTC), uuid4().hex
    keys = [await simulator.key(tenant=tenant) for _ in range(2)]
    for key in keys:
        await simulator.make(key, Scenario({}, calls=3))
    rule = {"scope": "tenant", "tenant": tenant, "rpm": 4}
    found = await simulator.simulated(since, 6, rules=[rule])
    [limit] = found["refused_by"]
    assert (limit["code"], limit["scope"], limit["kind"], limit["calls"]) == (
        "refused",
        "tenant",
        "requests",
        2,
    )
    assert [(one["key"], one["tenant"], one["calls"]) for one in found["refused_callers"]] == [
        (keys[1]["id"], tenant, 2)
    ]
    each = Decimal("0.000063")
    assert (Decimal(found["recorded_cost_usd"]), Decimal(found["would_cost_usd"])) == (6 * each, 4 * each)
    prices = {"plain": {"input_usd_per_million": "2", "output_usd_per_million": 10}}
    dearer = await simulator.simulated(since, 6, prices=prices)
    assert Decimal(dearer["would_cost_usd"]) == 6 * Decimal("0.000264")
    budget = {"scope": "tenant", "tenant": tenant, "budgets": [{"limit_usd": "0.0006", "period": "day"}]}
    both = await simulator.simulated(since, 6, prices=prices, rules=[budget])
    assert (both["refused"], both["refused_by"][0]["kind"]) == (3, "budget")


async def test_nothing_is_changed_and_unknown_parts_are_named(simulator: Simulator) -> None:
    """Neither the policies nor a key's spending; rejected calls are counted from a sample."""
    since = datetime.now(UTC)
    key = await simulator.key(rpm=2)
    assert len(rejected_calls(await simulator.make(key, Scenario({}, calls=4)))) == 2
    rules = (await simulator.admin("GET", "/admin/limits")).json()
    found = await simulator.simulated(since, 2, keys={key["id"]: {"rpm": 1}})
    assert (found["calls"], found["refused"], found["complete"]) == (2, 1, True)
    async with asyncio.timeout(20):
        while not found["not_replayed"]["refused_then_in_sample"]:
            found = await simulator.simulated(since, 2)
    assert found["calls_without_reservation"] == 0
    assert (await simulator.admin("GET", "/admin/limits")).json() == rules
    assert (await simulator.admin("GET", f"/admin/keys/{key['id']}")).json()["rpm"] == 2


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"since": "yesteryear"}, "since"),
        ({"since": "1h", "until": "2h"}, "since"),
        ({"rules": [{"scope": "tenant", "rpn": 1}]}, "rules[0].rpn"),
        ({"rules": [{"scope": "galaxy", "rpm": 1}]}, "rules[0].scope"),
        ({"prices": {"plain": {"input_usd_per_million": -1, "output_usd_per_million": 1}}}, "prices"),
        ({"prices": {"plain": {}}}, "prices"),
    ],
)
async def test_a_wrong_field_is_named(simulator: Simulator, changes: Json, param: str) -> None:
    """Nothing is replayed."""
    answer = await simulator.admin("POST", "/admin/simulate", changes)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_an_unknown_key_is_404(simulator: Simulator) -> None:
    """Instead of a result without rejections."""
    answer = await simulator.admin("POST", "/admin/simulate", {"keys": {"nobody": {"rpm": 1}}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "keys.nobody")


async def test_the_command_prints_the_same(simulator: Simulator, tmp_path: Path) -> None:
    """A table, and JSON."""
    since, key = datetime.now(UTC), await simulator.key()
    await simulator.make(key, Scenario({}, calls=3))
    await simulator.simulated(since, 3)
    rules = tmp_path / "rules.yaml"
    rules.write_text(f"keys: {{{key['name']}: {{rpm: 1}}}}\n", encoding="utf-8")
    words = ["simulate", str(rules), "--since", since.isoformat(), "--url", simulator.url]
    env = {"LLM_PROXY__ADMIN_KEY": ADMIN_KEY, "PATH": "", "LLM_PROXY__ENVIRONMENT": "development"}
    output = await _run([*words, "--json"], env, tmp_path)
    assert json.loads(output)["refused"] == 2
    assert "Calls that were rejected then are not replayed" in await _run(words, env, tmp_path)


async def _run(words: list[str], env: dict[str, str], folder: Path) -> str:
    command = [sys.executable, "-m", "llm_proxy", *words]
    done = await asyncio.to_thread(
        subprocess.run, command, env=env, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)
