"""Calls of one name stay at one deployment while it is healthy, as the gateway asks for it by a header."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sidecars import Json, Provider, Sidecar, deployment, run_sidecar

HEADER = "x-llmp-affinity"
COOLDOWN_S = 2


def config(provider: Provider) -> Json:
    """Four deployments of one group."""
    models = [deployment("four", f"openai/four-{at}", provider, id=f"four-{at}") for at in "abcd"]
    settings = {"num_retries": 1, "cooldown_time": COOLDOWN_S, "retry_policy": {"RateLimitErrorRetries": 0}}
    return {"model_list": models, "router_settings": settings}


@pytest.fixture(scope="module")
def sidecar(provider: Provider, service_folder: Path) -> Iterator[Sidecar]:
    """A sidecar with four deployments."""
    with run_sidecar(config(provider), provider, service_folder) as started:
        yield started


async def served_by(sidecar: Sidecar, name: str | None, calls: int = 1, text: str = "hello") -> list[str]:
    """The deployments that served calls of a name, one after the other."""
    found: list[str] = []
    for _ in range(calls):
        body: Json = {"model": "four", "messages": [{"role": "user", "content": text}]}
        answer = await sidecar.post("/v1/chat/completions", body, **({HEADER: name} if name else {}))
        found.append(answer.headers["x-llmp-deployment"])
    return found


async def test_calls_of_a_name_stay_at_one_deployment(sidecar: Sidecar) -> None:
    """Names are spread over all of them, and calls without a name go anywhere."""
    names = [uuid4().hex for _ in range(24)]
    served = [await served_by(sidecar, name, 4) for name in names]
    assert all(len(set(one)) == 1 for one in served)
    assert len({one[0] for one in served}) == 4
    assert len(set(await served_by(sidecar, None, 24))) > 1


async def test_a_pin_moves_when_its_deployment_cools_down(sidecar: Sidecar) -> None:
    """To one that serves all of its calls from then on, also once the first is back."""
    name = uuid4().hex
    [first] = await served_by(sidecar, name)
    await served_by(sidecar, name, text='{"do": "status-429"}')
    moved = await served_by(sidecar, name, 6)
    assert len(set(moved)) == 1
    assert moved[0] != first
    await asyncio.sleep(COOLDOWN_S + 0.5)
    assert set(await served_by(sidecar, name, 6)) == {moved[0]}


async def test_a_retry_is_free_to_go_elsewhere(sidecar: Sidecar) -> None:
    """As without a name; the next call is at the pinned deployment again."""
    retried = Counter[bool]()
    for _ in range(12):
        name, key = uuid4().hex, uuid4().hex
        [pinned] = await served_by(sidecar, name)
        failing = f'{{"do": "flaky", "fails": 1, "status": 500, "key": "{key}"}}'
        [served] = await served_by(sidecar, name, text=failing)
        retried[served == pinned] += 1
        assert await served_by(sidecar, name) == [pinned]
    assert retried[False] > 0
