"""Each way of sharing a group's calls among its deployments, seen from the provider."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from uuid import uuid4

import pytest
from sidecars import Json, Provider, Sidecar, deployment, running

PRICES = ("input_cost_per_token", "output_cost_per_token")


def dear(entry: Json, factor: float) -> Json:
    """The same deployment at another price."""
    for name in PRICES:
        entry["model_info"][name] *= factor
        entry["litellm_params"][name] = entry["model_info"][name]
    return entry


def config(provider: Provider) -> Json:
    """Groups of deployments that differ in weight, speed and price."""
    models = [
        *(deployment("three", f"openai/three-{at}", provider, id=f"three-{at}") for at in "abc"),
        deployment("weighted", "openai/heavy", provider, id="heavy", weight=9),
        deployment("weighted", "openai/light", provider, id="light", weight=1),
        dear(deployment("priced", "openai/dear", provider, id="dear"), 10),
        dear(deployment("priced", "openai/cheap", provider, id="cheap"), 1),
    ]
    return {"model_list": models, "router_settings": {"num_retries": 0, "cooldown_time": 1}}


@pytest.fixture(
    scope="module", params=["ROUND_ROBIN", "WEIGHTED", "LEAST_LOADED", "FASTEST_RESPONSE", "COST_OPTIMIZED"]
)
def balanced(
    request: pytest.FixtureRequest, provider: Provider, service_folder: Path
) -> Iterator[tuple[str, Sidecar]]:
    """A sidecar for each way, one after the other."""
    way: str = request.param
    started: AbstractContextManager[Sidecar] = running(
        config(provider), provider, service_folder, LLM_PROXY_LOAD_BALANCE=way
    )
    with started as sidecar:
        yield way, sidecar


async def spread(sidecar: Sidecar, group: str, calls: int) -> Counter[str]:
    """Which of a group's models the provider was asked for, one call after the other."""
    mark = f"{group}-{uuid4()}"
    for at in range(calls):
        assert (await sidecar.chat(group, f"{mark}-{at}")).status == 200
    return Counter(call["model"] for call in await sidecar.provider.calls(mark))


async def test_calls_are_shared_as_the_operator_chose(balanced: tuple[str, Sidecar]) -> None:
    """In turn, by weight, to the fewest active, to the fastest, to the cheapest."""
    way, sidecar = balanced
    await CHECKS[way](sidecar)


async def in_turn(sidecar: Sidecar) -> None:
    """Exactly even, also with weights in the file."""
    assert await spread(sidecar, "three", 30) == {"three-a": 10, "three-b": 10, "three-c": 10}
    assert await spread(sidecar, "weighted", 10) == {"heavy": 5, "light": 5}
    failing = f"failing-{uuid4()}"
    await sidecar.chat("three", failing, do="status-429")
    [cooled] = [call["model"] for call in await sidecar.provider.calls(failing)]
    others = await spread(sidecar, "three", 10)
    assert cooled not in others
    assert set(others.values()) == {5}


async def by_weight(sidecar: Sidecar) -> None:
    """Nine to one, as far as sixty draws can tell; without weights about even."""
    counted = await spread(sidecar, "weighted", 60)
    assert 44 <= counted["heavy"] <= 60
    assert min((await spread(sidecar, "three", 60)).values()) >= 8


async def fewest_active(sidecar: Sidecar) -> None:
    """While one works on slow calls the next goes to who has fewest."""
    mark = f"slow-{uuid4()}"
    slow: list[asyncio.Task[object]] = []
    for at in range(6):
        slow.append(asyncio.create_task(sidecar.chat("three", f"{mark}-{at}", do="ok", first_ms=3000)))
        await asyncio.sleep(0.3)
    await asyncio.gather(*slow)
    counted = Counter(call["model"] for call in await sidecar.provider.calls(mark))
    assert counted == {"three-a": 2, "three-b": 2, "three-c": 2}


async def fastest(sidecar: Sidecar) -> None:
    """Once their times are known; a slow answer of one sends the rest to the others."""
    mark = f"first-{uuid4()}"
    while len({call["model"] for call in await sidecar.provider.calls(mark)}) < 2:
        await sidecar.chat("weighted", f"{mark}-{uuid4()}")
    slowed = f"slowed-{uuid4()}"
    await sidecar.chat("weighted", slowed, do="ok", first_ms=2500)
    [slow] = [call["model"] for call in await sidecar.provider.calls(slowed)]
    await asyncio.sleep(0.5)
    counted = await spread(sidecar, "weighted", 12)
    assert slow not in counted


async def cheapest(sidecar: Sidecar) -> None:
    """Always, while it is well."""
    assert await spread(sidecar, "priced", 12) == {"cheap": 12}


CHECKS = {
    "ROUND_ROBIN": in_turn,
    "WEIGHTED": by_weight,
    "LEAST_LOADED": fewest_active,
    "FASTEST_RESPONSE": fastest,
    "COST_OPTIMIZED": cheapest,
}
