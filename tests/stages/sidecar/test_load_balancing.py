"""The strategies of `LLM_PROXY_LOAD_BALANCE`, observed at the provider."""

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


def expensive(entry: Json, factor: float) -> Json:
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
        expensive(deployment("priced", "openai/dear", provider, id="dear"), 10),
        expensive(deployment("priced", "openai/cheap", provider, id="cheap"), 1),
    ]
    return {"model_list": models, "router_settings": {"num_retries": 0, "cooldown_time": 30}}


@pytest.fixture(scope="module")
def balanced(request: pytest.FixtureRequest, provider: Provider, service_folder: Path) -> Iterator[Sidecar]:
    """A sidecar with the strategy that the test names."""
    started: AbstractContextManager[Sidecar] = run_sidecar(
        config(provider), provider, service_folder, LLM_PROXY_LOAD_BALANCE=request.param
    )
    with started as sidecar:
        yield sidecar


def strategy(way: str) -> pytest.MarkDecorator:
    """The operator's value of `LLM_PROXY_LOAD_BALANCE`."""
    return pytest.mark.parametrize("balanced", [way], indirect=True)


async def served_models(sidecar: Sidecar, group: str, calls: int) -> Counter[str]:
    """The models the provider was called for, one call after the other."""
    mark = f"{group}-{uuid4()}"
    for at in range(calls):
        assert (await sidecar.chat(group, f"{mark}-{at}")).status == 200
    return Counter(call["model"] for call in await sidecar.provider.calls(mark))


@strategy("ROUND_ROBIN")
async def test_round_robin_is_even(balanced: Sidecar) -> None:
    """Weights in the file are ignored."""
    assert await served_models(balanced, "three", 30) == {"three-a": 10, "three-b": 10, "three-c": 10}
    assert await served_models(balanced, "weighted", 10) == {"heavy": 5, "light": 5}
    failing = f"failing-{uuid4()}"
    await balanced.chat("three", failing, do="status-429")
    [cooled] = [call["model"] for call in await balanced.provider.calls(failing)]
    others = await served_models(balanced, "three", 10)
    assert cooled not in others
    assert set(others.values()) == {5}


@strategy("WEIGHTED")
async def test_weights_decide_the_shares(balanced: Sidecar) -> None:
    """Nine to one, within what sixty random choices allow; without weights about even."""
    counted = await served_models(balanced, "weighted", 60)
    assert 44 <= counted["heavy"] <= 60
    assert min((await served_models(balanced, "three", 60)).values()) >= 8


@strategy("LEAST_LOADED")
async def test_least_loaded_gets_the_next_call(balanced: Sidecar) -> None:
    """While one deployment has slow calls running, the next goes to another."""
    mark = f"slow-{uuid4()}"
    slow: list[asyncio.Task[object]] = []
    for at in range(6):
        slow.append(asyncio.create_task(balanced.chat("three", f"{mark}-{at}", do="ok", first_ms=3000)))
        await asyncio.sleep(0.3)
    await asyncio.gather(*slow)
    counted = Counter(call["model"] for call in await balanced.provider.calls(mark))
    assert counted == {"three-a": 2, "three-b": 2, "three-c": 2}


@strategy("FASTEST_RESPONSE")
async def test_the_fastest_gets_the_calls(balanced: Sidecar) -> None:
    """Once response times are known; one slow answer sends the rest to the others."""
    mark = f"first-{uuid4()}"
    while len({call["model"] for call in await balanced.provider.calls(mark)}) < 2:
        await balanced.chat("weighted", f"{mark}-{uuid4()}")
    slowed = f"slowed-{uuid4()}"
    await balanced.chat("weighted", slowed, do="ok", first_ms=2500)
    [slow] = [call["model"] for call in await balanced.provider.calls(slowed)]
    await asyncio.sleep(0.5)
    counted = await served_models(balanced, "weighted", 12)
    assert slow not in counted


@strategy("COST_OPTIMIZED")
async def test_the_cheapest_gets_the_calls(balanced: Sidecar) -> None:
    """Always, while it is healthy."""
    assert await served_models(balanced, "priced", 12) == {"cheap": 12}
