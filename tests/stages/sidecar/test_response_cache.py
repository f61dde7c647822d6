"""The sidecar's response cache: a replay equals the first answer; what is never cached."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import redis.asyncio
from odd_provider_answers import whole
from scripted import answers
from sidecars import KEY, Answer, Json, Provider, Sidecar, deployment, run_sidecar
from stages.admission.valkey_cluster import PASSWORD, Cluster

from llm_proxy.call_guard import TimeoutPolicy, Timeouts
from llm_proxy.errors import UpstreamUnreachable
from llm_proxy.identity import Caller
from llm_proxy.stack import probe
from llm_proxy.upstream import CachePurge, CurrentCatalog, SidecarClient
from llm_proxy.upstream.client import purge_cache
from llm_proxy.upstream.litellm_protocol import LiteLLMControls, cache_namespace
from llm_proxy.upstream.pool import SidecarPool
from llm_proxy.upstream.sidecar_keys import SidecarKeys
from llm_proxy.upstream.slot_queue import QueueTimes, SlotQueue

OBSERVER = """
import json, pathlib
from litellm.integrations.custom_logger import CustomLogger

class Observer(CustomLogger):
    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        event = kwargs["standard_logging_object"]
        names = ("litellm_call_id", "cache_hit", "response_cost", "model_group", "model_id", "prompt_tokens")
        kept = {name: event[name] for name in names} | {"text": event["response"]["choices"][0]}
        with (pathlib.Path(__file__).parent / "events.jsonl").open("a") as file:
            file.write(json.dumps(kept, default=str) + "\\n")

inst = Observer()
"""
GUARD = """
from fastapi import HTTPException
from litellm.integrations.custom_guardrail import CustomGuardrail

class Guard(CustomGuardrail):
    seen = set()

    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        text = str(data.get("messages"))
        if text in self.seen:
            raise HTTPException(status_code=400, detail={"error": "blocked by the guard"})
        self.seen.add(text)
        return data
"""
HOOKED = """
from litellm.integrations.custom_logger import CustomLogger

class Hooked(CustomLogger):
    __module__ = "litellm.integrations.opentelemetry"
    seen = set()

    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        text = str(data.get("messages"))
        if text in self.seen:
            raise RuntimeError("an observer that fails")
        self.seen.add(text)

inst = Hooked()
"""
"""An observer that uses a hook, as those of LiteLLM's do."""


def mark() -> str:
    """A prompt of its own."""
    return str(uuid4())


def hit(answer: Answer) -> bool:
    """Whether the cache answered."""
    return "x-litellm-cache-key" in answer.headers


async def twice(
    sidecar: Sidecar, model: str, body: Json, path: str = "/v1/chat/completions", *, pause_s: float = 0
) -> list[Answer]:
    """Make the same call twice; our cache stores an answer before its end is sent, LiteLLM's after."""
    first = await sidecar.post(path, {"model": model, **body})
    await asyncio.sleep(pause_s)
    return [first, await sidecar.post(path, {"model": model, **body})]


def prompt(text: str, /, **directive: Any) -> Json:
    """A chat's messages with a script for the provider."""
    text = f"{text} {json.dumps(directive)}" if directive else text
    return {"messages": [{"role": "user", "content": text}]}


STREAMED: Json = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("mode", ["whole", "frames", "usage-in-each-frame"])
@pytest.mark.parametrize("kind", answers.MESSAGES)
async def test_a_replay_equals_the_first_answer(sidecar: Sidecar, kind: str, mode: str) -> None:
    """To the byte, whatever the answer holds; the provider gets one request."""
    text = mark()
    raw = answers.whole(kind) if mode == "whole" else answers.frames(kind, usage_in_each=mode != "frames")
    body = prompt(text, do="raw", raw=raw) | (STREAMED if mode != "whole" else {})
    first, second = await twice(sidecar, "openai", body)
    assert first.status == 200, first.text
    assert second.text == first.text
    assert second.headers["content-type"] == first.headers["content-type"]
    assert (hit(first), hit(second)) == (False, True)
    assert len(await sidecar.provider.calls(text)) == 1


@pytest.mark.parametrize("do", ["ok", "tools", "refusal", "filtered"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("family", ["openai", "anthropic", "gemini", "ollama_chat", "hosted_vllm"])
async def test_a_replay_equals_the_first_answer_of_every_provider(
    sidecar: Sidecar, family: str, do: str, *, streamed: bool
) -> None:
    """Tool-call ids and arguments, finish reasons and counts included."""
    body = prompt(mark(), do=do) | (STREAMED if streamed else {})
    first, second = await twice(sidecar, family, body)
    assert second.text == first.text
    assert hit(second)


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 2}])
async def test_a_text_completion_is_replayed(sidecar: Sidecar, fields: Json) -> None:
    """Also as a stream."""
    first, second = await twice(sidecar, "text", {"prompt": mark(), **fields}, "/v1/completions")
    assert second.text == first.text
    assert "text_completion" in second.text
    assert hit(second)


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_same_call_right_after_is_a_hit(sidecar: Sidecar, *, streamed: bool) -> None:
    """An answer is stored before its end is sent."""
    for _ in range(10):
        body = {"model": "openai", **prompt(mark()), **(STREAMED if streamed else {})}
        await sidecar.post("/v1/chat/completions", body)
        assert hit(await sidecar.post("/v1/chat/completions", body))


async def test_a_long_stream_is_replayed_at_once(sidecar: Sidecar) -> None:
    """In few writes, without delaying other calls."""
    body = prompt(mark(), do="ok", text="amber " * 20_000) | STREAMED
    started = time.monotonic()
    first = await sidecar.post("/v1/chat/completions", {"model": "openai", **body})
    first_s = time.monotonic() - started
    started = time.monotonic()
    second = await sidecar.post("/v1/chat/completions", {"model": "openai", **body})
    assert hit(second)
    assert second.text == first.text
    assert time.monotonic() - started < first_s / 2


async def test_only_the_order_of_top_level_fields_is_ignored(sidecar: Sidecar) -> None:
    """The order of properties in a schema changes answers."""
    properties: Json = {"a": {"type": "string"}, "b": {"type": "string"}}
    turned = {"b": properties["b"], "a": properties["a"]}
    base = prompt(mark()) | {"temperature": 0.5, "seed": 3}

    def tools(schema: Json) -> Json:
        parameters = {"type": "object", "properties": schema}
        return {"tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}]}

    first = await sidecar.post("/v1/chat/completions", {"model": "openai", **base, **tools(properties)})
    same = dict(reversed([*base.items(), *tools(properties).items()]))
    assert not hit(first)
    assert hit(await sidecar.post("/v1/chat/completions", {**same, "model": "openai"}))
    assert not hit(await sidecar.post("/v1/chat/completions", {"model": "openai", **base, **tools(turned)}))


@pytest.mark.parametrize(
    "added",
    [{"metadata": {"session_id": "s"}}, {"disable_fallbacks": True}, {"stream": False}],
    ids=lambda added: next(iter(added)),
)
async def test_fields_the_gateway_adds_are_not_in_the_key(sidecar: Sidecar, added: Json) -> None:
    """The call's attribution, and where it must not fall back to."""
    body = prompt(mark())
    await sidecar.post("/v1/chat/completions", {"model": "openai", **body})
    assert hit(await sidecar.post("/v1/chat/completions", {"model": "openai", **body, **added}))


@pytest.mark.parametrize(
    "field",
    [
        *({"user": "b"}, {"n": 2}, {"top_k": 3}, {"seed": 4}, {"temperature": 0.5}, {"unheard_of": 1}),
        *({"extra_body": {"min_p": 0.1}}, {"stream": True}),
    ],
)
async def test_every_other_field_is_in_the_key(sidecar: Sidecar, field: Json) -> None:
    """Known to LiteLLM or not; streamed and complete answers are separate."""
    body = prompt(mark())
    await sidecar.post("/v1/chat/completions", {"model": "openai", **body})
    assert not hit(await sidecar.post("/v1/chat/completions", {"model": "openai", **body, **field}))


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_fallback_s_answer_is_not_cached(sidecar: Sidecar, *, streamed: bool) -> None:
    """The next call asks the requested group again."""
    key = mark()
    body = prompt(key, do="flaky", key=key, fails=3, status=500) | (STREAMED if streamed else {})
    first, second = await twice(sidecar, "first", body)
    assert first.status == second.status == 200
    assert not hit(second)


async def test_a_retried_answer_is_cached(sidecar: Sidecar) -> None:
    """It came from the requested group."""
    key = mark()
    first, second = await twice(sidecar, "openai", prompt(key, do="flaky", key=key, fails=1, status=500))
    assert first.status == 200
    assert hit(second)


async def test_a_replay_for_an_alias_has_the_alias_as_its_model(sidecar: Sidecar) -> None:
    """The answer names the requested model."""
    body = prompt(mark())
    aliased = await twice(sidecar, "nickname", body)
    assert hit(aliased[1])
    assert not hit(await sidecar.post("/v1/chat/completions", {"model": "second", **body}))


@pytest.mark.parametrize("left", ["nothing", "half", "changed"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_damaged_entry_is_a_miss(
    sidecar: Sidecar, cache_redis_url: str, left: str, *, streamed: bool
) -> None:
    """The provider is asked again, and its answer is stored."""
    body = prompt(mark()) | (STREAMED if streamed else {})
    first, second = await twice(sidecar, "openai", body)
    key = second.headers["x-litellm-cache-key"]
    async with redis.asyncio.from_url(cache_redis_url) as client:
        raw = await client.get(key)
        assert isinstance(raw, bytes)
        head = raw.rindex(b"}\n") + 2 if left == "nothing" else len(raw) * 3 // 4
        await client.set(key, raw[:head] + (b"?" * (len(raw) - head) if left == "changed" else b""))
    again, hit_again = await twice(sidecar, "openai", body)
    assert (hit(again), hit(hit_again)) == (False, True)
    assert again.status == 200
    assert again.text[-200:] == first.text[-200:]
    assert hit_again.text == again.text


async def test_a_long_answer_is_not_cached(sidecar: Sidecar) -> None:
    """Storing it could exceed Redis's timeout and open the circuit breaker."""
    text = "".join(uuid4().hex for _ in range(100_000))
    answer = json.dumps(whole({"role": "assistant", "content": text}))
    body = prompt(mark(), do="raw", raw=[answer])
    first, second = await twice(sidecar, "openai", body)
    assert first.json["choices"][0]["message"]["content"] == text
    assert (hit(first), hit(second)) == (False, False)
    assert hit((await twice(sidecar, "openai", prompt(mark())))[1])


async def test_cache_controls_are_litellm_s(sidecar: Sidecar) -> None:
    """`no-store`, `no-cache`, `s-maxage`, `ttl`."""
    body = {"model": "openai", **prompt(mark())}

    async def ask(**cache: object) -> bool:
        answer = await sidecar.post("/v1/chat/completions", {**body, "cache": cache})
        return hit(answer)

    assert not await ask(**{"no-store": True})
    assert not await ask()
    assert await ask()
    assert not await ask(**{"no-cache": True})
    assert await ask(**{"s-maxage": 60})
    await asyncio.sleep(1.1)
    assert not await ask(**{"s-maxage": 1, "ttl": 1})
    await asyncio.sleep(1.1)
    assert not await ask()


async def purge_all(sidecar: Sidecar, *patterns: str) -> Json:
    """Purge entries; assert that every key was searched."""
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as client:
        reply = await client.request("DELETE", f"{sidecar.url}/llmp/cache", json={"patterns": patterns})
    assert reply.status_code == 200
    found: Json = reply.json()
    assert found["complete"] is True
    return found


async def test_a_purge_deletes_matching_entries_and_counts_them(sidecar: Sidecar) -> None:
    """Of this namespace; other entries stay."""
    space = f"litellm_caching:tenant:{mark()}"
    body = prompt(mark())
    for at in range(3):
        await twice(sidecar, "openai", body | {"cache": {"namespace": f"{space}:model={at}"}})
    assert (await purge_all(sidecar, f"{space}:model=1:*"))["purged"] == 1
    assert (await purge_all(sidecar, f"{space}:*"))["purged"] == 2
    assert (await purge_all(sidecar, f"{space}:*"))["purged"] == 0


async def test_the_gateway_s_purge_reaches_every_running_sidecar(sidecar: Sidecar) -> None:
    """A stopped sidecar has nothing in memory; without any sidecar there is no purge."""
    gone, tenant = f"http://127.0.0.1:{probe.free_port()}", mark()
    space = cache_namespace(Caller("k", "virtual", tenant=tenant), "openai")
    await twice(sidecar, "openai", prompt(mark()) | {"cache": {"namespace": space}})

    def client(*urls: str) -> SidecarClient:
        timeouts = TimeoutPolicy(Timeouts(5, 5, 5))
        queue = SlotQueue(SidecarPool(urls, max_in_flight=8), QueueTimes(1, 1), max_waiting=8)
        return SidecarClient(queue, SidecarKeys((KEY,)), timeouts, LiteLLMControls(), CurrentCatalog())

    with ExitStack() as stack:
        both, none = client(sidecar.url, gone), client(gone)
        stack.callback(both.stop)
        stack.callback(none.stop)
        assert await purge_cache(both, tenant, "openai") == CachePurge(1, complete=True)
        with pytest.raises(UpstreamUnreachable):
            await purge_cache(none, None, None)


def configured(provider: Provider, folder: Path, **more: Any) -> Json:
    """A configuration with an observer beside it."""
    (folder / "seen.py").write_text(OBSERVER)
    (folder / "guarding.py").write_text(GUARD)
    groups = [deployment(name, f"openai/{name}", provider) for name in ("plain", "guarded")]
    return {"model_list": groups, **more}


@pytest.fixture(scope="module")
def observed(
    provider: Provider, service_folder: Path, cache_redis_url: str
) -> Iterator[tuple[Sidecar, Path]]:
    """A sidecar whose operator's callback fails at a repeated call; and the file of its events."""
    folder = service_folder / "observed"
    folder.mkdir()
    (folder / "hooked.py").write_text(HOOKED)
    config = configured(provider, folder, litellm_settings={"callbacks": ["seen.inst", "hooked.inst"]})
    with run_sidecar(config, provider, folder, CACHE_REDIS_URL=cache_redis_url) as sidecar:
        yield sidecar, folder / "events.jsonl"


@pytest.mark.parametrize("mode", ["whole", "frames"])
@pytest.mark.parametrize("kind", answers.MESSAGES)
async def test_a_hit_is_one_success_event_for_callbacks(
    observed: tuple[Sidecar, Path], kind: str, mode: str
) -> None:
    """Free, from the deployment that answered first, with its tokens."""
    sidecar, events = observed
    raw = answers.whole(kind) if mode == "whole" else answers.frames(kind)
    body = prompt(mark(), do="raw", raw=raw) | (STREAMED if mode != "whole" else {})
    await twice(sidecar, "plain", body)
    call_id = str(uuid4())
    answer = await sidecar.post(
        "/v1/chat/completions", {"model": "plain", **body}, **{"x-litellm-call-id": call_id}
    )
    assert hit(answer)
    async with asyncio.timeout(15):
        while not (found := [one for one in read(events) if one["litellm_call_id"] == call_id]):  # noqa: ASYNC110 -- a file has no event
            await asyncio.sleep(0.1)
    await asyncio.sleep(0.3)
    found = [one for one in read(events) if one["litellm_call_id"] == call_id]
    [event] = found
    assert event["cache_hit"] is True
    assert event["response_cost"] == 0
    assert (event["model_group"], event["model_id"], event["prompt_tokens"]) == ("plain", "plain", 5)


async def test_a_hit_runs_no_hook_and_is_one_event(
    observed: tuple[Sidecar, Path],
) -> None:
    """The call is answered already; a failing hook would prevent the event."""
    sidecar, events = observed
    text, before = mark(), len(read(events))
    answers = await twice(sidecar, "plain", prompt(text))
    assert [hit(one) for one in answers] == [False, True]
    async with asyncio.timeout(15):
        while len(found := read(events)[before:]) < 2:  # noqa: ASYNC110 -- a file has no event
            await asyncio.sleep(0.1)
    assert [bool(one["cache_hit"]) for one in found] == [False, True]


def read(events: Path) -> list[Json]:
    """Return the events so far."""
    return [json.loads(line) for line in events.read_text().splitlines()] if events.exists() else []


@pytest.mark.parametrize("where", ["everywhere", "one-group", "by-default"])
async def test_a_guardrail_checks_every_call_of_its_group(
    provider: Provider, tmp_path: Path, cache_redis_url: str, where: str
) -> None:
    """A hit would bypass it; other groups are cached, and the log says so."""
    guard = {"guardrail": "guarding.Guard", "mode": "pre_call", "default_on": where == "everywhere"}
    config = configured(provider, tmp_path, guardrails=[{"guardrail_name": "g", "litellm_params": guard}])
    if where == "one-group":
        config["model_list"][1]["litellm_params"]["guardrails"] = ["g"]
    if where == "by-default":
        config["router_settings"] = {"default_litellm_params": {"guardrails": ["g"]}}
    with run_sidecar(config, provider, tmp_path, CACHE_REDIS_URL=cache_redis_url) as sidecar:
        first, second = await twice(sidecar, "guarded", prompt(mark()))
        if where == "one-group":
            cached = await twice(sidecar, "plain", prompt(mark()))
            assert hit(cached[1])
            assert not any("x-llmp-cache" in one.headers for one in cached)
        assert "is cached:" in sidecar.log.read_text()
    assert first.status == 200
    assert second.status == 400
    assert [one.headers["x-llmp-cache"] for one in (first, second)] == ["off", "off"]


@pytest.fixture(scope="module")
def local(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A sidecar whose configuration caches in memory."""
    folder = tmp_path_factory.mktemp("local")
    settings: Json = {"cache": True, "cache_params": {"type": "local"}}
    with run_sidecar(configured(provider, folder, litellm_settings=settings), provider, folder) as sidecar:
        yield sidecar


@pytest.mark.parametrize("streamed", [False, True])
async def test_litellm_s_in_memory_cache_stores_complete_answers_only(
    local: Sidecar, *, streamed: bool
) -> None:
    """Its replay of a stream loses too much; the start has a note."""
    text = mark()
    _, second = await twice(local, "plain", prompt(text) | (STREAMED if streamed else {}), pause_s=0.2)
    assert "cache_params.type local" in local.log.read_text()
    assert hit(second) is not streamed
    assert len(await local.provider.calls(text)) == 1 + streamed


async def test_the_configuration_s_own_redis_is_used_as_configured(
    provider: Provider, tmp_path: Path, cache_redis_url: str
) -> None:
    """Its address, namespace and call types."""
    params: Json = {"type": "redis", "url": cache_redis_url, "namespace": "his"}
    config = configured(provider, tmp_path, litellm_settings={"cache": True, "cache_params": params})
    with run_sidecar(config, provider, tmp_path) as sidecar:
        _, second = await twice(sidecar, "plain", prompt(mark()))
    assert second.headers["x-litellm-cache-key"].startswith("his:")
    params["supported_call_types"] = ["aembedding"]
    with run_sidecar(config, provider, tmp_path) as sidecar:
        _, second = await twice(sidecar, "plain", prompt(mark()), pause_s=0.2)
    assert not hit(second)
    assert second.headers["x-llmp-cache"] == "off"


async def test_a_call_that_is_not_cached_says_so(
    provider: Provider, tmp_path: Path, cache_redis_url: str
) -> None:
    """With `mode: default_off`, and without a cache."""
    params: Json = {"type": "redis", "url": cache_redis_url, "mode": "default_off"}
    for settings in ({"cache": True, "cache_params": params}, {"cache": False}):
        config = configured(provider, tmp_path, litellm_settings=settings)
        with run_sidecar(config, provider, tmp_path) as sidecar:
            for streamed in ({}, STREAMED):
                _, second = await twice(sidecar, "plain", prompt(mark()) | streamed, pause_s=0.2)
                assert not hit(second)
                assert second.headers["x-llmp-cache"] == "off"


async def test_a_redis_cluster_is_purged_on_every_node(provider: Provider, tmp_path: Path) -> None:
    """Entries go; other keys of the namespace stay."""
    cluster = Cluster(tmp_path)
    try:
        await cluster.form()
        nodes = [{"host": "127.0.0.1", "port": port} for port in cluster.ports]
        params: Json = {"type": "redis", "redis_startup_nodes": nodes, "password": PASSWORD, "namespace": "n"}
        config = configured(provider, tmp_path, litellm_settings={"cache": True, "cache_params": params})
        with run_sidecar(config, provider, tmp_path) as sidecar:
            bodies = [prompt(mark()) for _ in range(6)]
            for body in bodies:
                assert hit((await twice(sidecar, "plain", body))[1])
            assert (await purge_all(sidecar, "litellm_caching:direct:*"))["purged"] == len(bodies)
            assert not hit((await twice(sidecar, "plain", bodies[0]))[0])
    finally:
        cluster.end()


async def test_a_callback_that_checks_prompts_is_a_guardrail(
    provider: Provider, tmp_path: Path, cache_redis_url: str
) -> None:
    """LiteLLM's own, once a configuration names it."""
    config = configured(provider, tmp_path, litellm_settings={"callbacks": ["detect_prompt_injection"]})
    with run_sidecar(config, provider, tmp_path, CACHE_REDIS_URL=cache_redis_url) as sidecar:
        assert not hit((await twice(sidecar, "plain", prompt(mark())))[1])
        assert "no answer is cached:" in sidecar.log.read_text()
