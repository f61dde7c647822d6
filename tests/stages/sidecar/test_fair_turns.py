"""Long streams of LiteLLM's own share the sidecar's event loop with all other calls."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sidecar_parts import without
from sidecars import Provider, Sidecar, deployment, run_sidecar

STREAMS = 3
FRAMES = 80_000
"""Far more than are made until the test ends: the provider sends them as fast as they are read."""
LONGEST_S = 1.0


@pytest.fixture(scope="module")
def without_parts(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A sidecar in which LiteLLM makes every frame."""
    config = {"model_list": [deployment("a", "openai/a", provider)]}
    env = without("frames", "alike_frames", "direct_calls", "read_timeouts")
    with run_sidecar(config, provider, Path(tmp_path_factory.mktemp("fair")), **env) as started:
        yield started


async def until_in_flight(sidecar: Sidecar, calls: int) -> None:
    """Return once so many calls are running."""
    async with asyncio.timeout(10):
        while (await sidecar.get("/health/liveliness")).json["in_flight"] != calls:  # noqa: ASYNC110 -- it has no event
            await asyncio.sleep(0.05)


async def test_a_long_stream_holds_up_no_other_call(without_parts: Sidecar) -> None:
    """Neither its health, nor another stream's begin; a caller who hangs up is noticed as fast."""
    sidecar = without_parts
    running = [
        asyncio.create_task(sidecar.stream("a", f"fair {at}", do="ok", frames=FRAMES))
        for at in range(STREAMS)
    ]
    await until_in_flight(sidecar, STREAMS)
    waits: list[float] = []
    for _ in range(20):
        began = time.monotonic()
        await sidecar.get("/health/liveliness")
        waits.append(time.monotonic() - began)
        await asyncio.sleep(0.1)
    for one in running:
        one.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert max(waits) < LONGEST_S
    await until_in_flight(sidecar, 0)
