"""The response cache in a real Valkey: what it answers, what it never holds, and what its trouble costs."""

import asyncio
import os
import signal
import time
from collections.abc import Generator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from sidecars import KEY, Json, Provider, Sidecar, deployment, running

from llm_proxy.stack import part, ports
from llm_proxy.stack.valkey import valkey, valkey_url

PASSWORD = "only-for-this-cache"


def mark() -> str:
    """A prompt of its own."""
    return str(uuid4())


async def asked(sidecar: Sidecar, said: str) -> int:
    """How often the provider was asked."""
    return len(await sidecar.provider.calls(said))


async def test_an_equal_call_is_answered_from_the_cache(sidecar: Sidecar) -> None:
    """And says so in a header."""
    said = mark()
    first = await sidecar.chat("openai", said)
    await asyncio.sleep(0.2)
    again = await sidecar.chat("openai", said)
    assert "x-litellm-cache-key" in again.headers
    assert "x-litellm-cache-key" not in first.headers
    assert again.json["choices"] == first.json["choices"]
    assert await asked(sidecar, said) == 1


async def test_embeddings_are_cached_too(sidecar: Sidecar) -> None:
    """By default."""
    said = mark()
    for _ in range(2):
        assert (await sidecar.post("/v1/embeddings", {"model": "embed", "input": said})).status == 200
        await asyncio.sleep(0.2)
    assert await asked(sidecar, said) == 1


@pytest.mark.parametrize(
    "fields",
    [{"temperature": 0.5}, {"top_k": 3}, {"extra_body": {"min_p": 0.1}}, {"user": "b"}, {"seed": 4}],
    ids=lambda fields: next(iter(fields)),
)
async def test_a_call_that_differs_is_another_call(sidecar: Sidecar, fields: Json) -> None:
    """In anything that reaches the model, known to LiteLLM or not."""
    said = mark()
    await sidecar.chat("openai", said)
    await asyncio.sleep(0.2)
    await sidecar.chat("openai", said, fields=fields)
    assert await asked(sidecar, said) == 2


async def test_namespaces_keep_tenants_apart(sidecar: Sidecar) -> None:
    """The gateway writes the tenant's into each call."""
    said = mark()
    for tenant in ("a", "b", "a"):
        await sidecar.chat("openai", said, fields={"cache": {"namespace": tenant}})
        await asyncio.sleep(0.2)
    assert await asked(sidecar, said) == 2


async def test_what_a_caller_left_half_read_is_never_cached(sidecar: Sidecar) -> None:
    """The next one gets all of it."""
    said = mark() + ' {"do": "slow", "gap_ms": 80, "frames": 12}'
    body = {"model": "openai", "stream": True, "messages": [{"role": "user", "content": said}]}
    headers = {"authorization": f"Bearer {KEY}"}
    async with (
        httpx.AsyncClient() as client,
        client.stream("POST", f"{sidecar.url}/v1/chat/completions", json=body, headers=headers) as reply,
    ):
        async for _ in reply.aiter_lines():
            break
    await asyncio.sleep(0.5)
    again = await sidecar.post("/v1/chat/completions", body)
    assert len(again.content.split()) == 12
    calls = await sidecar.provider.calls(said.split()[0])
    assert len(calls) == 2
    assert calls[0]["client_left_s"] < 1


@pytest.mark.parametrize("how", ["status-500", "garbage"])
async def test_errors_are_never_cached(sidecar: Sidecar, how: str) -> None:
    """The next call tries again."""
    said = mark()
    for _ in range(2):
        await sidecar.chat("lone", said, do=how)
    assert await asked(sidecar, said) == 2


@pytest.fixture
def own_valkey(tmp_path: Path) -> Generator[tuple[str, int]]:
    """A Valkey of this test's own: its address and process id."""
    port = ports.free_port()
    started = part.start(valkey("cache", tmp_path, port, PASSWORD), tmp_path / "logs")
    try:
        part.wait_until_ready([started])
        yield valkey_url(port, PASSWORD), started.process.pid
    finally:
        os.kill(started.process.pid, signal.SIGCONT)
        part.stop([started])


async def test_a_frozen_cache_costs_less_than_a_second_once(
    provider: Provider, tmp_path: Path, own_valkey: tuple[str, int]
) -> None:
    """Calls go on, each of them; after the first few the cache is left alone."""
    url, pid = own_valkey
    config: Json = {"model_list": [deployment("a", "openai/a", provider)]}
    with running(config, provider, tmp_path, CACHE_REDIS_URL=url) as sidecar:
        await sidecar.chat("a", mark())
        os.kill(pid, signal.SIGSTOP)
        took: list[float] = []
        for _ in range(8):
            started = time.monotonic()
            assert (await sidecar.chat("a", mark())).status == 200
            took.append(time.monotonic() - started)
        whole = min(took)  # what a call takes on this machine
        assert sum(one - whole for one in took) < 1.5
        assert max(took[4:]) - whole < 0.25


async def test_a_cache_that_is_not_there_does_not_keep_it_from_starting(
    provider: Provider, tmp_path: Path
) -> None:
    """It serves, without one."""
    config: Json = {"model_list": [deployment("a", "openai/a", provider)]}
    nobody = f"redis://127.0.0.1:{ports.free_port()}/0"
    with running(config, provider, tmp_path, CACHE_REDIS_URL=nobody) as sidecar:
        assert (await sidecar.chat("a", mark())).status == 200
