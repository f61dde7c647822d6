"""The response cache in a real Valkey: its answers, what it never stores, the cost of a failing Valkey."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
import redis.asyncio
from sidecar_parts import needs_parts
from sidecars import KEY, Answer, Json, Mode, Provider, Sidecar, deployment, run_sidecar
from warm_sidecars import passed_on

from llm_proxy.sidecar.config import CACHE_NAMESPACE
from llm_proxy.sidecar.environment import REQUIRED
from llm_proxy.sidecar.patches.redis_breaker import MISSING_EVICTION, tell_missing_eviction
from llm_proxy.stack import probe, process
from llm_proxy.stack.process_specs import sidecar_python
from llm_proxy.stack.stores import valkey_spec, valkey_url

PASSWORD = "only-for-this-cache"


def mark() -> str:
    """A prompt of its own."""
    return str(uuid4())


async def request_count(sidecar: Sidecar, prompt: str) -> int:
    """Return the number of requests the provider got."""
    return len(await sidecar.provider.calls(prompt))


async def test_embeddings_are_cached(sidecar: Sidecar) -> None:
    """By default."""
    prompt = mark()
    for _ in range(2):
        assert (await sidecar.post("/v1/embeddings", {"model": "embed", "input": prompt})).status == 200
        await asyncio.sleep(0.2)
    assert await request_count(sidecar, prompt) == 1


async def test_a_cache_that_does_not_evict_is_told(
    cache_redis_url: str, limits_redis_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It may be the limits' store; one that evicts is what a cache needs, one that is away tells nothing."""
    for url in (cache_redis_url, "redis://127.0.0.1:1", limits_redis_url):
        client: Any = redis.asyncio.from_url(url)
        await tell_missing_eviction(client)
        await client.aclose()
        assert (MISSING_EVICTION in capfd.readouterr().err) is (url == limits_redis_url)


async def test_a_partly_cached_batch_costs_what_was_embedded(sidecar: Sidecar) -> None:
    """A fully cached batch is a hit without a cost, each time."""
    one, two, three = mark(), mark(), mark()

    async def embed(*texts: str) -> Answer:
        answer = await sidecar.post("/v1/embeddings", {"model": "embed", "input": list(texts)})
        assert answer.status == 200
        assert len(answer.json["data"]) == len(texts)
        await asyncio.sleep(0.3)
        return answer

    alone = await embed(one)
    cost = float(alone.headers["x-litellm-response-cost"])
    assert cost == pytest.approx(alone.json["usage"]["prompt_tokens"] * 0.000001)
    for added in (two, three):
        mixed = await embed(one, added)
        assert float(mixed.headers["x-litellm-response-cost"]) == pytest.approx(cost)
        assert "x-litellm-cache-key" not in mixed.headers
    for cached in ((one,), (one, two), (three, two, one)):
        hit = await embed(*cached)
        assert "x-litellm-cache-key" in hit.headers
        assert "x-litellm-response-cost" not in hit.headers


async def test_namespaces_separate_tenants(sidecar: Sidecar) -> None:
    """The gateway sets the tenant's namespace in each call."""
    prompt = mark()
    for tenant in ("a", "b", "a"):
        await sidecar.chat("openai", prompt, fields={"cache": {"namespace": tenant}})
        await asyncio.sleep(0.2)
    assert await request_count(sidecar, prompt) == 2


async def test_a_partly_read_answer_is_not_cached(sidecar: Sidecar) -> None:
    """The next caller gets all of it."""
    prompt = mark() + ' {"do": "slow", "gap_ms": 80, "frames": 12}'
    body = {"model": "openai", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    await sidecar.leave_stream(body, 1)
    await asyncio.sleep(0.5)
    again = await sidecar.post("/v1/chat/completions", body)
    assert len(again.content.split()) == 12
    calls = await sidecar.provider.calls(prompt.split()[0])
    assert len(calls) == 2
    assert calls[0]["client_left_s"] < 1


@pytest.mark.parametrize("how", ["status-500", "garbage"])
async def test_errors_are_not_cached(sidecar: Sidecar, how: str) -> None:
    """The next call asks the provider again."""
    prompt = mark()
    for _ in range(2):
        await sidecar.chat("lone", prompt, do=how)
    assert await request_count(sidecar, prompt) == 2


@pytest.fixture
def own_valkey(tmp_path: Path) -> Generator[tuple[str, int]]:
    """A Valkey for one test: its URL and process id."""
    port = probe.free_port()
    started = process.start(valkey_spec("cache", tmp_path, port, PASSWORD), tmp_path / "logs")
    try:
        process.wait_until_ready([started])
        yield valkey_url(port, PASSWORD), started.popen.pid
    finally:
        os.kill(started.popen.pid, signal.SIGCONT)
        process.stop([started])


KINDS = ("chat", "stream", "embed")


async def timed(sidecar: Sidecar, kind: str) -> float:
    """Return the seconds that a successful call of a mode takes."""
    started = time.monotonic()
    if kind == "embed":
        answer = await sidecar.post("/v1/embeddings", {"model": "embed", "input": mark()})
    else:
        answer = await (sidecar.chat if kind == "chat" else sidecar.stream)("a", mark())
    assert answer.status == 200
    return time.monotonic() - started


def delays(took_s: dict[str, list[float]]) -> list[float]:
    """Return each call's seconds beyond the fastest of its mode, longest first."""
    return sorted((one - min(kind) for kind in took_s.values() for one in kind), reverse=True)


def named_by_parts(url: str) -> Json:
    """What a file states of a Redis whose address is not in the environment; LiteLLM waits 5 s for it."""
    at = urlsplit(url)
    parts = {"host": at.hostname, "port": at.port, "password": PASSWORD}
    return {"cache": True, "cache_params": {"type": "redis", **parts}}


@pytest.mark.parametrize(("in_file", "first"), [(False, "chat"), (True, "embed")])
async def test_a_frozen_redis_delays_one_call_by_less_than_a_second(
    provider: Provider, tmp_path: Path, own_valkey: tuple[str, int], *, in_file: bool, first: str
) -> None:
    """Whichever it is; then Redis is not accessed until it responds again."""
    url, pid = own_valkey
    counted: Json = {"rpm": 10_000, "tpm": 10_000_000}
    config: Json = {
        "model_list": [
            deployment("a", "openai/a", provider, **counted),
            deployment("embed", "openai/embed", provider, **counted),
        ]
    }
    if in_file:
        config["litellm_settings"] = named_by_parts(url)
    env = {} if in_file else {"CACHE_REDIS_URL": url}
    kinds = sorted(KINDS, key=lambda kind: kind != first)
    with run_sidecar(config, provider, tmp_path, **env) as sidecar:
        for kind in kinds:
            await timed(sidecar, kind)
        os.kill(pid, signal.SIGSTOP)
        took_s = {kind: [await timed(sidecar, kind) for _ in range(4)] for kind in kinds}
        os.kill(pid, signal.SIGCONT)
        lost_s = delays(took_s)  # with an access for each call it would lose 0.75 s and more
        assert lost_s[0] < 1.5, took_s
        assert lost_s[len(lost_s) // 2] < 0.25, took_s
        assert sum(lost_s) < 3, took_s
        before = stored(url)
        async with asyncio.timeout(20):
            while stored(url) <= before:
                await sidecar.chat("a", mark())
                await asyncio.sleep(0.2)


def stored(url: str) -> int:
    """Return the number of cached answers."""
    at = urlsplit(url)
    with socket.create_connection((str(at.hostname), at.port or 0), timeout=5) as store:
        store.sendall(
            f"AUTH {PASSWORD}\r\nEVAL \"return #redis.call('KEYS', '{CACHE_NAMESPACE}:*')\" 0\r\n".encode()
        )
        reply = b""
        while reply.count(b"\r\n") < 2:
            reply += store.recv(4096)
    return int(reply.split(b"\r\n")[1].removeprefix(b":"))


@pytest.mark.parametrize("how", ["absent", "frozen"])
async def test_a_sidecar_starts_without_a_responding_redis(
    provider: Provider, tmp_path: Path, own_valkey: tuple[str, int], how: str
) -> None:
    """Calls do not wait for it, a repeat among them; a purge says that it is incomplete."""
    config: Json = {"model_list": [deployment("a", "openai/a", provider)]}
    url, pid = own_valkey
    if how == "frozen":
        os.kill(pid, signal.SIGSTOP)
    else:
        url = f"redis://127.0.0.1:{probe.free_port()}/0"
    with run_sidecar(config, provider, tmp_path, CACHE_REDIS_URL=url) as sidecar:
        assert delays({"chat": [await timed(sidecar, "chat") for _ in range(4)]})[0] < 1.5
        prompt = mark()
        answers = [await sidecar.chat("a", prompt) for _ in range(2)]
        assert [one.status for one in answers] == [200, 200]
        assert not any("x-litellm-cache-key" in one.headers for one in answers)
        assert await request_count(sidecar, prompt) == 2
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {KEY}"}, timeout=20) as client:
            reply = await client.request("DELETE", f"{sidecar.url}/llmp/cache", json={"patterns": ["*"]})
    assert (reply.status_code, reply.json()) == (503, {"purged": 0, "complete": False})


def test_the_blocking_client_does_not_try_again(tmp_path: Path) -> None:
    """Its ten attempts would hold up a start without Redis, if a file names that by its host."""
    code = (
        "from llm_proxy.sidecar.patches.redis_breaker import install; from litellm import _redis;"
        "install(); print(_redis.get_redis_client(host='127.0.0.1', port=9).get_retry().get_retries())"
    )
    command, env = [str(sidecar_python()), "-c", code], passed_on() | REQUIRED
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


@needs_parts("direct_calls")
@pytest.mark.parametrize("mode", ["chat", pytest.param("stream", marks=needs_parts("frames"))])
async def test_calls_that_no_entry_answers_are_direct(
    provider: Provider, tmp_path: Path, cache_redis_url: str, mode: Mode
) -> None:
    """Once one of their form was sent; their answers are stored, too."""
    config: Json = {"model_list": [deployment("plain", "openai/plain", provider)]}
    with run_sidecar(config, provider, tmp_path, CACHE_REDIS_URL=cache_redis_url) as sidecar:
        for direct in (0, 1, 2):
            prompt = mark()
            first, second = [await sidecar.ask(mode, "plain", prompt) for _ in range(2)]
            assert second.text == first.text
            assert await request_count(sidecar, prompt) == 1
            assert (await sidecar.get("/health/readiness")).json["direct"] == direct
