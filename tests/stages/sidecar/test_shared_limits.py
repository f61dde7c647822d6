"""What two sidecars share through their Redis: a deployment's limits and cooldowns."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from sidecars import Answer, Json, Provider, Sidecar, deployment, run_sidecar

MINUTE_S = 60
Pair = tuple[Sidecar, Sidecar]


@pytest.fixture(scope="module")
def two_sidecars(provider: Provider, service_folder: Path, cache_redis_url: str) -> Iterator[Pair]:
    """Two sidecars with one configuration and one Redis."""
    of_this_run = str(uuid4())  # the counts of a deployment go by its id
    models = [
        deployment("by-calls", "openai/by-calls", provider, id=f"calls-{of_this_run}", rpm=6),
        deployment("by-tokens", "openai/by-tokens", provider, id=f"tokens-{of_this_run}", tpm=60),
        deployment("twins", "openai/twin-a", provider, id=f"twin-a-{of_this_run}"),
        deployment("twins", "openai/twin-b", provider, id=f"twin-b-{of_this_run}"),
    ]
    config: Json = {"model_list": models, "router_settings": {"num_retries": 0, "cooldown_time": 20}}
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(
                run_sidecar(config, provider, service_folder, CACHE_REDIS_URL=cache_redis_url)
            )
            for _ in "ab"
        )
        yield one, other


async def wait_for_a_minute_with_room(seconds: float) -> None:
    """Limits are counted by the clock's minute: wait for the next one if this one is nearly over."""
    left = MINUTE_S - time.time() % MINUTE_S
    if left < seconds:
        await asyncio.sleep(left + 0.5)


async def alternate(two_sidecars: Pair, group: str, calls: int) -> list[Answer]:
    """Call one and the other, one after the other."""
    mark = uuid4()
    return [await two_sidecars[at % 2].chat(group, f"{mark}-{at}") for at in range(calls)]


async def test_calls_a_minute_are_counted_over_all_sidecars(two_sidecars: Pair) -> None:
    """Six in all, not six each; the rest is rejected before it costs anything."""
    await wait_for_a_minute_with_room(20)
    answers = await alternate(two_sidecars, "by-calls", 10)
    assert [one.status for one in answers] == [200] * 6 + [429] * 4


@pytest.mark.parametrize("place", ["litellm_params", "model_info", "deployment"])
@pytest.mark.parametrize("limit", [{"rpm": 6}, {"itpm": 120}], ids=str)
async def test_a_limit_counts_wherever_it_stands(
    provider: Provider, tmp_path: Path, limit: Json, place: str
) -> None:
    """Also for calls of a form that was seen before."""
    limited = deployment("limited", "openai/limited", provider)
    ({"deployment": limited} | limited)[place].update(limit)
    with run_sidecar({"model_list": [limited]}, provider, tmp_path) as sidecar:
        await wait_for_a_minute_with_room(20)
        answers = [await sidecar.chat("limited", "hello " * 20) for _ in range(9)]
    assert [answers[at].status for at in (0, 1, -1)] == [200, 200, 429]


async def test_tokens_a_minute_are_counted_over_all_sidecars(two_sidecars: Pair) -> None:
    """Sixty in all: what one has used is not available to the other."""
    await wait_for_a_minute_with_room(20)
    spent = 0
    for at in range(12):
        answer = await two_sidecars[at % 2].chat("by-tokens", str(uuid4()))
        if answer.status == 429:
            break
        spent += answer.json["usage"]["total_tokens"]
        await asyncio.sleep(0.3)  # tokens are counted beside the answer
    assert 60 <= spent < 120
    assert [one.status for one in await alternate(two_sidecars, "by-tokens", 2)] == [429, 429]


async def test_a_cooldown_applies_to_all_sidecars(two_sidecars: Pair) -> None:
    """A rate limit that one received is not hit again by the other."""
    one, other = two_sidecars
    mark = f"cool-{uuid4()}"
    await one.chat("twins", mark, do="status-429")
    [cooled] = [call["model"] for call in await one.provider.calls(mark)]
    await asyncio.sleep(1.5)  # LiteLLM looks for others' cooldowns once a second
    for sidecar in (one, other):
        told = (await sidecar.get("/llmp/cooldowns")).json["cooldowns"]
        [(name, cooldown)] = told.items()
        assert (name[: len(cooled)], cooldown["status"]) == (cooled, "429")
        assert 0 < cooldown["until"] - time.time() <= 21
    later = f"later-{uuid4()}"
    for at in range(8):
        assert (await other.chat("twins", f"{later}-{at}")).status == 200
    counted = Counter(call["model"] for call in await other.provider.calls(later))
    assert counted.total() == 8
    assert cooled not in counted
