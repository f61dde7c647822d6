"""The response cache: what is answered from it, to whom, and what never is."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from house import ADMIN_KEY, KEY, MASTER_KEY, Json, script
from sidecars import Provider, deployment, provider_part

from llm_proxy.stack import part, ports
from llm_proxy.stack.programs import Behind, gateway, sidecar
from llm_proxy.stack.surroundings import Surroundings
from llm_proxy.stack.valkey import valkey, valkey_url

CHAT, EMBED = "/v1/chat/completions", "/v1/embeddings"


class Cached:
    """A gateway, a sidecar and a Valkey of this module's own."""

    def __init__(self, url: str, provider: Provider, store: part.Running) -> None:
        self.url, self.provider, self.store = url, provider, store

    async def post(self, path: str, body: Json, key: str = KEY, **headers: str) -> httpx.Response:
        """One call."""
        sent = {"Authorization": f"Bearer {key}"} | {k.replace("_", "-"): v for k, v in headers.items()}
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            return await client.post(path, json=body, headers=sent)

    async def said(self, body: Json, key: str = KEY, *, path: str = CHAT, **headers: str) -> str:
        """What the cache is said to have done with one call that went well."""
        answer = await self.post(path, body, key, **headers)
        assert answer.status_code == 200, answer.text
        await asyncio.sleep(0.1)  # LiteLLM stores beside the answer
        return answer.headers["x-llm-proxy-cache"]

    async def key(self, **fields: Any) -> str:
        """The text of a new virtual key."""
        body = {"name": f"cache-{uuid4()}", **fields}
        answer = await self.post("/admin/keys", body, ADMIN_KEY)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["key"])


@pytest.fixture(scope="module")
def cached(service_folder: Path, postgres_url: str) -> Iterator[Cached]:
    """The whole of it, running."""
    given = Surroundings(
        {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    )
    folder = service_folder / "cache"
    folder.mkdir()
    at = {name: ports.free_port() for name in ("provider", "sidecar", "gateway", "store")}
    played = Provider(f"http://127.0.0.1:{at['provider']}")
    groups = [deployment(name, f"openai/{name}", played) for name in ("chat", "other", "embed")]
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": groups, "router_settings": {"num_retries": 0}}))
    store = valkey_url(at["store"], "only-for-this-cache")
    names = {
        "LLM_PROXY__ENVIRONMENT": "development",
        "LLM_PROXY__INTERNAL_API_KEY": KEY,
        "LLM_PROXY__ADMIN_KEY": ADMIN_KEY,
        "LITELLM_MASTER_KEY": MASTER_KEY,
        "LLM_PROXY__LITELLM_PROXY_URL": f"http://127.0.0.1:{at['sidecar']}",
        "LLM_PROXY__SPOOL_DIR": str(folder / "spool"),
        "DATABASE_URL": postgres_url,
    }
    parts = [
        part.start(valkey("cache", folder, at["store"], "only-for-this-cache"), folder),
        part.start(provider_part(at["provider"]), folder),
        part.start(sidecar(1, at["sidecar"], config, Behind(MASTER_KEY, store, None, None), given), folder),
        part.start(gateway(at["gateway"], names, given), folder),
    ]
    try:
        part.wait_until_ready(parts)
        house = Cached(f"http://127.0.0.1:{at['gateway']}", played, parts[0])
        asyncio.run(_until_known(house))
        yield house
    finally:
        part.stop(parts)


async def _until_known(house: Cached) -> None:
    async with asyncio.timeout(20):
        while (await house.post(CHAT, chat(str(uuid4())))).status_code != 200:  # noqa: ASYNC110 -- in a start
            await asyncio.sleep(0.2)


def chat(text: str, **fields: Any) -> Json:
    """A chat call."""
    return {"model": "chat", "messages": [{"role": "user", "content": text}], **fields}


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
async def test_the_same_call_again_is_a_hit_and_reaches_no_provider(cached: Cached, fields: Json) -> None:
    """Whole or streamed, with the same text; it costs nothing."""
    body = chat(f"again-{uuid4()}", **fields)
    first = await cached.post(CHAT, body)
    await asyncio.sleep(0.2)
    second = await cached.post(CHAT, body)
    assert [one.headers["x-llm-proxy-cache"] for one in (first, second)] == ["miss", "hit"]
    assert len(await cached.provider.calls(body["messages"][0]["content"])) == 1
    assert said(first) == said(second) != ""


def said(answer: httpx.Response) -> str:
    """The text of an answer, whole or streamed."""
    if "data: " not in answer.text:
        return str(answer.json()["choices"][0]["message"]["content"])
    frames = [line[6:] for line in answer.text.split("\n") if line.startswith("data: {")]
    choices = [choice for frame in frames for choice in json.loads(frame)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def test_fields_in_another_order_are_the_same_call(cached: Cached) -> None:
    """Also within a message; another value is another call."""
    text = f"order-{uuid4()}"
    body = {"temperature": 0.5, "top_p": 0.9, **chat(text)}
    turned = {
        "messages": [{"content": text, "role": "user"}],
        "top_p": 0.9,
        "model": "chat",
        "temperature": 0.5,
    }
    assert await cached.said(body) == "miss"
    assert await cached.said(turned) == "hit"
    assert await cached.said(turned | {"temperature": 0.6}) == "miss"


@pytest.mark.parametrize("field", [{"top_k": 1}, {"min_p": 0.1}, {"guided_json": {"type": "object"}}])
async def test_a_field_of_the_provider_s_own_makes_another_call(cached: Cached, field: Json) -> None:
    """LiteLLM would leave it out of the key and answer wrongly."""
    text = f"own-{uuid4()}"
    assert await cached.said(chat(text)) == "miss"
    assert await cached.said(chat(text, **field)) == "miss"
    assert await cached.said(chat(text, **field)) == "hit"


async def test_tenants_never_see_each_other_s_answers(cached: Cached) -> None:
    """Two tenants, and none, with the same body."""
    one, other = await cached.key(tenant="one"), await cached.key(tenant="other")
    body = chat(f"tenants-{uuid4()}")
    assert [await cached.said(body, key) for key in (one, other, KEY)] == ["miss", "miss", "miss"]
    assert [await cached.said(body, key) for key in (one, other, KEY)] == ["hit", "hit", "hit"]
    assert len(await cached.provider.calls(body["messages"][0]["content"])) == 3


async def test_a_caller_cannot_name_a_namespace(cached: Cached) -> None:
    """The tenant's is ours to write; what a body says of the cache never reaches LiteLLM."""
    tenant = await cached.key(tenant="walled")
    body = chat(f"walled-{uuid4()}")
    assert await cached.said(body, tenant) == "miss"
    guess = {"cache": {"namespace": "litellm_caching:tenant:walled"}}
    answer = await cached.post(CHAT, body | guess)
    assert answer.status_code == 400 or answer.headers["x-llm-proxy-cache"] == "miss"


async def test_a_key_without_a_cache_is_told_so(cached: Cached) -> None:
    """Neither read nor written for it."""
    key = await cached.key(tenant="fresh", cache=False)
    sibling = await cached.key(tenant="fresh")
    body = chat(f"off-{uuid4()}")
    assert [await cached.said(body, key) for _ in range(2)] == ["off", "off"]
    assert await cached.said(body, sibling) == "miss"


async def test_a_streamed_completion_keeps_its_own_frames(cached: Cached) -> None:
    """The second time as well: out of the cache LiteLLM would give it a chat's."""
    body = {"model": "chat", "prompt": f"once upon {uuid4()}", "stream": True}
    for _ in range(2):
        answer = await cached.post("/v1/completions", body)
        events = [json.loads(one[6:]) for one in answer.text.strip().split("\n\n") if "[DONE]" not in one]
        assert {event["object"] for event in events} == {"text_completion"}
        assert all(isinstance(choice["text"], str) for event in events for choice in event["choices"])
        assert any(choice["text"] for event in events for choice in event["choices"])


async def test_cache_control_is_obeyed(cached: Cached) -> None:
    """`no-cache` asks anew and stores, `no-store` stores nothing, `max-age` refuses what is older."""
    body = chat(f"control-{uuid4()}")
    assert await cached.said(body, cache_control="no-store") == "miss"
    assert await cached.said(body) == "miss"
    assert await cached.said(body, cache_control="no-cache") == "miss"
    assert await cached.said(body) == "hit"
    assert await cached.said(body, cache_control="max-age=600") == "hit"
    await asyncio.sleep(2.1)
    assert await cached.said(body, cache_control="max-age=1") == "miss"
    assert len(await cached.provider.calls(body["messages"][0]["content"])) == 4


async def test_embeddings_are_cached_by_the_single_input(cached: Cached) -> None:
    """Only what is new is embedded; an answer that needed nobody is a hit and free."""
    one, two, three = (f"{name}-{uuid4()}" for name in ("one", "two", "three"))
    both = {"model": "embed", "input": [one, two]}
    first = await cached.post(EMBED, both)
    assert first.headers["x-llm-proxy-cache"] == "miss"
    again = {"model": "embed", "input": [two, one]}
    answer = await cached.post(EMBED, again)
    for _ in range(20):  # LiteLLM stores what it answered beside the answer
        if answer.headers["x-llm-proxy-cache"] == "hit":
            break
        await asyncio.sleep(0.25)
        answer = await cached.post(EMBED, again)
    assert answer.headers["x-llm-proxy-cache"] == "hit"
    assert float(answer.headers["x-llm-proxy-cost-usd"]) == 0
    assert [item["index"] for item in answer.json()["data"]] == [0, 1]
    mixed = await cached.post(EMBED, {"model": "embed", "input": [one, three]})
    assert mixed.headers["x-llm-proxy-cache"] == "miss"
    assert float(mixed.headers["x-llm-proxy-cost-usd"]) == float(first.headers["x-llm-proxy-cost-usd"]) > 0
    asked = [call["body"]["input"] for call in await cached.provider.calls(three)]
    assert asked == [[three]]


@pytest.mark.parametrize("how", ["cut", "eof", "half-frame", "garbage", "error-in-200"])
async def test_a_stream_that_broke_is_never_answered_again(cached: Cached, how: str) -> None:
    """The next caller's call goes to the provider."""
    mark = str(uuid4())
    body = chat(f"{mark} {script(do=how, after=2, frames=6)}", stream=True)
    for _ in range(2):
        answer = await cached.post(CHAT, body)
        assert "[DONE]" not in answer.text
        assert answer.headers.get("x-llm-proxy-cache") in {"miss", None}
        await asyncio.sleep(0.2)
    assert len(await cached.provider.calls(mark)) == 2


async def test_a_failure_is_never_answered_again(cached: Cached) -> None:
    """Errors are not kept."""
    body = chat(script(do="flaky", key=str(uuid4()), fails=1, status=500))
    assert (await cached.post(CHAT, body)).status_code >= 500
    assert (await cached.post(CHAT, body)).status_code == 200


async def test_a_frozen_store_costs_less_than_a_second_once(cached: Cached) -> None:
    """Not ten seconds a call: one call waits, and then it is left alone until it answers."""
    await timed(cached)
    os.kill(cached.store.process.pid, signal.SIGSTOP)
    try:
        took_s = [await timed(cached) for _ in range(6)]
    finally:
        os.kill(cached.store.process.pid, signal.SIGCONT)
    lost_s = sorted((one - min(took_s) for one in took_s), reverse=True)
    assert lost_s[0] < 1.5, took_s
    assert lost_s[len(lost_s) // 2] < 0.25, took_s
    assert sum(lost_s) < 2, took_s


async def timed(cached: Cached) -> float:
    """Seconds one call takes."""
    began = time.monotonic()
    answer = await cached.post(CHAT, chat(f"frozen-{uuid4()}"))
    assert answer.status_code == 200
    return time.monotonic() - began
