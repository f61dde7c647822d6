"""Each way of sharing a group's calls among its deployments, seen from the provider."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from sidecars import Json, Provider, Sidecar, deployment, run_sidecar

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

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
    return {"model_list": models, "router_settings": {"num_retries": 0, "cooldown_time": 30}}


@pytest.fixture(scope="module")
def balanced(request: pytest.FixtureRequest, provider: Provider, service_folder: Path) -> Iterator[Sidecar]:
    """A sidecar that shares calls in the way a test asks for."""
    started: AbstractContextManager[Sidecar] = run_sidecar(
        config(provider), provider, service_folder, LLM_PROXY_LOAD_BALANCE=request.param
    )
    with started as sidecar:
        yield sidecar


def chosen(way: str) -> pytest.MarkDecorator:
    """What the operator chose."""
    return pytest.mark.parametrize("balanced", [way], indirect=True)


async def spread(sidecar: Sidecar, group: str, calls: int) -> Counter[str]:
    """Which of a group's models the provider was asked for, one call after the other."""
    mark = f"{group}-{uuid4()}"
    for at in range(calls):
        assert (await sidecar.chat(group, f"{mark}-{at}")).status == 200
    return Counter(call["model"] for call in await sidecar.provider.calls(mark))


@chosen("ROUND_ROBIN")
async def test_each_gets_calls_in_turn(balanced: Sidecar) -> None:
    """Exactly even, also with weights in the file."""
    assert await spread(balanced, "three", 30) == {"three-a": 10, "three-b": 10, "three-c": 10}
    assert await spread(balanced, "weighted", 10) == {"heavy": 5, "light": 5}
    failing = f"failing-{uuid4()}"
    await balanced.chat("three", failing, do="status-429")
    [cooled] = [call["model"] for call in await balanced.provider.calls(failing)]
    others = await spread(balanced, "three", 10)
    assert cooled not in others
    assert set(others.values()) == {5}


@chosen("WEIGHTED")
async def test_weights_draw_the_lots(balanced: Sidecar) -> None:
    """Nine to one, as far as sixty draws can tell; without weights about even."""
    counted = await spread(balanced, "weighted", 60)
    assert 44 <= counted["heavy"] <= 60
    assert min((await spread(balanced, "three", 60)).values()) >= 8


@chosen("LEAST_LOADED")
async def test_who_has_fewest_running_gets_the_next(balanced: Sidecar) -> None:
    """While one works on slow calls the next goes to who has fewest."""
    mark = f"slow-{uuid4()}"
    slow: list[asyncio.Task[object]] = []
    for at in range(6):
        slow.append(asyncio.create_task(balanced.chat("three", f"{mark}-{at}", do="ok", first_ms=3000)))
        await asyncio.sleep(0.3)
    await asyncio.gather(*slow)
    counted = Counter(call["model"] for call in await balanced.provider.calls(mark))
    assert counted == {"three-a": 2, "three-b": 2, "three-c": 2}


@chosen("FASTEST_RESPONSE")
async def test_the_fastest_gets_calls(balanced: Sidecar) -> None:
    """Once their times are known; a slow answer of one sends the rest to the others."""
    mark = f"first-{uuid4()}"
    while len({call["model"] for call in await balanced.provider.calls(mark)}) < 2:
        await balanced.chat("weighted", f"{mark}-{uuid4()}")
    slowed = f"slowed-{uuid4()}"
    await balanced.chat("weighted", slowed, do="ok", first_ms=2500)
    [slow] = [call["model"] for call in await balanced.provider.calls(slowed)]
    await asyncio.sleep(0.5)
    counted = await spread(balanced, "weighted", 12)
    assert slow not in counted


@chosen("COST_OPTIMIZED")
async def test_the_cheapest_gets_calls(balanced: Sidecar) -> None:
    """Always, while it is well."""
    assert await spread(balanced, "priced", 12) == {"cheap": 12}
