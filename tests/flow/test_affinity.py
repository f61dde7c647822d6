"""A run's calls stay where its prompt is cached: four deployments that bill cached prefixes, two sidecars."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from loopback import NO_TLS
from sidecars import run_provider
from two_sidecars import GatewayOverSidecars, TwoSidecars, run_gateway, run_two_sidecars

from llm_proxy.admission.redis.connection import RedisConnection

Json = dict[str, Any]
RUNS, TURNS = 16, 6
COOLDOWN_S = 30
DEPLOYMENT = """
  - model_name: agent
    litellm_params: {{{{model: openai/{name}--prefix, api_base: "{{base}}", api_key: none}}}}
    model_info: {{{{id: {name}}}}}"""
CONFIG = (
    "model_list:"
    + "".join(DEPLOYMENT.format(name=name) for name in ("a", "b", "c", "d"))
    + f"\nrouter_settings: {{{{num_retries: 0, cooldown_time: {COOLDOWN_S}}}}}\n"
)


@pytest.fixture(scope="module")
def sidecars(service_folder: Path, cache_redis_url: str) -> Iterator[TwoSidecars]:
    """Two sidecars of a group of four deployments, which share a Redis."""
    folder = service_folder / "affinity"
    folder.mkdir()
    with (
        run_provider(folder) as provider,
        run_two_sidecars(provider, folder, CONFIG, cache_redis_url) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def gateway(sidecars: TwoSidecars, service_folder: Path) -> Iterator[GatewayOverSidecars]:
    """A gateway before them; no answer comes from its cache."""
    with run_gateway(service_folder / "affinity", sidecars, {"LLM_PROXY__CACHE_MODE": "off"}) as running:
        yield running


@dataclass(slots=True)
class Agent:
    """A run whose prompt grows with each turn, as an agent's does."""

    client: httpx.AsyncClient
    gateway: GatewayOverSidecars
    named: Json
    headers: dict[str, str]
    messages: list[Json]
    cached: int = 0

    async def turn(self, question: str = "go on") -> bool:
        """Makes the next call; returns whether all of the prompt before it was cached."""
        before = len(self.messages)
        self.messages.append({"role": "user", "content": question})
        body = {"model": "agent", "messages": self.messages, **self.named}
        answer = await self.gateway.chat(self.client, body, **self.headers)
        if answer.status_code != 200:
            self.messages.pop()
            return False
        usage = answer.json()["usage"]
        self.messages.append({"role": "assistant", "content": "done"})
        return bool(usage["prompt_tokens_details"]["cached_tokens"] >= 100 * max(0, before - 1) > 0)

    async def where(self) -> list[str]:
        """The models that the provider was called for, in order."""
        calls = await self.gateway.two_sidecars.provider.calls(self.messages[0]["content"])
        return [call["model"] for call in calls]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as made:
        yield made


def agent(client: httpx.AsyncClient, gateway: GatewayOverSidecars, **named: Any) -> Agent:
    """A new agent; without `named` its run is named by a header."""
    headers = {} if named else {"X-Run-Id": uuid4().hex}
    return Agent(client, gateway, named, headers, [{"role": "system", "content": uuid4().hex}])


async def test_runs_stay_where_their_prompts_are_cached_and_are_spread_evenly(
    client: httpx.AsyncClient, gateway: GatewayOverSidecars
) -> None:
    """At least 95 of 100 turns, over both sidecars; each deployment has its share of the runs."""
    agents = [agent(client, gateway) for _ in range(RUNS)]
    hits = 0
    for turn in range(TURNS):
        found = await asyncio.gather(*(one.turn() for one in agents))
        hits += sum(found) if turn else 0
    assert hits >= 0.95 * RUNS * (TURNS - 1)
    share = Counter([(await one.where())[0] for one in agents])
    assert set(share.values()) <= {RUNS // 4 - 1, RUNS // 4, RUNS // 4 + 1}
    answered = [gateway.two_sidecars.answered(at) for at in range(2)]
    assert min(answered) > 0.25 * sum(answered)


async def test_a_run_stays_at_its_deployment_when_its_sidecar_ends(
    client: httpx.AsyncClient, gateway: GatewayOverSidecars
) -> None:
    """The sidecars share what they know."""
    agents = [agent(client, gateway) for _ in range(4)]
    for _ in range(2):
        for one in agents:
            await one.turn()
    gateway.two_sidecars.kill(0)
    try:
        hits = [await one.turn() for one in agents for _ in range(2)]
    finally:
        gateway.two_sidecars.restore()
    assert all(hits)


@pytest.mark.parametrize("field", ["prompt_cache_key", "user"])
async def test_a_prompt_cache_key_or_a_user_keeps_calls_together_where_no_run_is_named(
    client: httpx.AsyncClient, gateway: GatewayOverSidecars, field: str
) -> None:
    """And names no run."""
    agents = [agent(client, gateway, **{field: uuid4().hex}) for _ in range(6)]
    hits = [[await one.turn() for _ in range(4)][1:] for one in agents]
    assert hits == [[True] * 3] * 6
    assert len({(await one.where())[0] for one in agents}) > 1


async def test_of_one_name_only_so_many_calls_at_once_are_kept_together(
    client: httpx.AsyncClient, gateway: GatewayOverSidecars
) -> None:
    """A user that a whole application shares overloads no deployment."""
    shared, mark = uuid4().hex, uuid4().hex
    slow = f'{mark} {{"do": "slow-first", "first_ms": 700}}'
    body = {"model": "agent", "user": shared, "messages": [{"role": "user", "content": slow}]}
    await asyncio.gather(*(gateway.chat(client, body) for _ in range(40)))
    share = Counter(call["model"] for call in await gateway.two_sidecars.provider.calls(mark))
    assert len(share) == 4
    assert max(share.values()) < 30


async def test_no_name_of_a_caller_reaches_a_provider_or_the_sidecars_redis(
    client: httpx.AsyncClient, gateway: GatewayOverSidecars, cache_redis_url: str
) -> None:
    """What a run is called stays in the gateway."""
    named = f"secret-run-{uuid4().hex}"
    one = agent(client, gateway)
    one.headers["X-Run-Id"] = named
    await one.turn()
    assert await gateway.two_sidecars.provider.calls(named) == []
    store = RedisConnection(cache_redis_url, timeout_s=5, load_commands=list)
    await store.start()
    try:
        keys: list[bytes] = await store.execute("KEYS", "*")
    finally:
        await store.stop()
    assert not [key for key in keys if named.encode() in key]
    assert [key for key in keys if b"deployment_affinity:v1:session:agent:" in key], keys[:20]


async def test_a_run_moves_when_its_deployment_cools_down_and_stays_there(
    client: httpx.AsyncClient, gateway: GatewayOverSidecars
) -> None:
    """A turn is lost, the ones after it are cached again (that it stays later: `test_session_affinity`)."""
    # Last in this file: the deployment is left alone for `COOLDOWN_S`.
    one = agent(client, gateway)
    await one.turn()
    assert await one.turn()
    await one.turn('{"do": "status-429"}')
    moved = [await one.turn() for _ in range(5)]
    assert moved[1:] == [True] * 4
    served = (await one.where())[-5:]
    assert len(set(served)) == 1
    assert served[0] != (await one.where())[0]
