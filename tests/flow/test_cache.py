"""The response cache: what is answered from it, to whom, and what never is."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import anyio
import httpx
import pytest
import warm_sidecars
from loopback import NO_TLS
from running_stack import ADMIN_KEY, KEY, MASTER_KEY, Json, script
from scripted import answers
from sidecars import Provider, deployment, provider_spec
from stack_processes import gateway_spec
from warm_sidecars import passed_on

from llm_proxy.stack import probe, process
from llm_proxy.stack.operator_env import OperatorEnv
from llm_proxy.stack.process_specs import SidecarBackends, sidecar_spec
from llm_proxy.stack.stores import valkey_spec, valkey_url

CHAT, EMBED = "/v1/chat/completions", "/v1/embeddings"


class Cached:
    """A gateway, a sidecar and a Valkey of this module's own."""

    def __init__(self, url: str, provider: Provider, store: process.ManagedProcess) -> None:
        self.url, self.provider, self.store = url, provider, store

    async def post(self, path: str, body: Json, key: str = KEY, **headers: str) -> httpx.Response:
        """One call."""
        sent = {"Authorization": f"Bearer {key}"} | {k.replace("_", "-"): v for k, v in headers.items()}
        async with httpx.AsyncClient(verify=NO_TLS, base_url=self.url, timeout=60) as client:
            return await client.post(path, json=body, headers=sent)

    async def said(self, body: Json, key: str = KEY, *, path: str = CHAT, **headers: str) -> str:
        """What the cache is said to have done with one call that went well."""
        answer = await self.post(path, body, key, **headers)
        assert answer.status_code == 200, answer.text
        if path == EMBED:
            await asyncio.sleep(0.1)  # LiteLLM stores vectors after the answer
        return answer.headers["x-llm-proxy-cache"]

    async def story(self, request_id: str) -> Json:
        """The record of a call, once it is written."""
        headers, path = {"Authorization": f"Bearer {ADMIN_KEY}"}, f"/v1/requests/{request_id}"
        async with (
            httpx.AsyncClient(verify=NO_TLS, base_url=self.url, timeout=60) as client,
            asyncio.timeout(20),
        ):
            while (answer := await client.get(path, headers=headers)).status_code != 200:  # noqa: ASYNC110 -- a database has no event
                await asyncio.sleep(0.2)
        found: Json = answer.json()
        return found

    async def key(self, **fields: Any) -> str:
        """The text of a new virtual key."""
        body = {"name": f"cache-{uuid4()}", **fields}
        answer = await self.post("/admin/keys", body, ADMIN_KEY)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["key"])


@pytest.fixture(scope="module")
def cached(service_folder: Path, postgres_url: str) -> Iterator[Cached]:
    """The whole of it, running."""
    given = OperatorEnv(passed_on())
    folder = service_folder / "cache"
    folder.mkdir()
    at = {name: probe.free_port() for name in ("provider", "sidecar", "gateway", "store")}
    played = Provider(f"http://127.0.0.1:{at['provider']}")
    groups = [deployment(name, f"openai/{name}", played) for name in ("chat", "other", "embed", "模型")]
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": groups, "router_settings": {"num_retries": 0}}))
    store = valkey_url(at["store"], "only-for-this-cache")
    settings = {"DATABASE_URL": postgres_url}
    sidecar_url = f"http://127.0.0.1:{at['sidecar']}"
    parts = [
        process.start(valkey_spec("cache", folder, at["store"], "only-for-this-cache"), folder),
        process.start(provider_spec(at["provider"]), folder),
        warm_sidecars.start(
            sidecar_spec(1, at["sidecar"], config, SidecarBackends(MASTER_KEY, store, None, None), given),
            folder,
        ),
        process.start(gateway_spec(at["gateway"], folder, [sidecar_url], settings), folder),
    ]
    try:
        process.wait_until_ready(parts)
        house = Cached(f"http://127.0.0.1:{at['gateway']}", played, parts[0])
        asyncio.run(_until_known(house))
        yield house
    finally:
        process.stop(parts)


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
    second = await cached.post(CHAT, body)
    assert [one.headers["x-llm-proxy-cache"] for one in (first, second)] == ["miss", "hit"]
    assert len(await cached.provider.calls(body["messages"][0]["content"])) == 1
    assert said(first) == said(second) != ""


async def test_a_name_of_any_letters_stands_in_the_record(cached: Cached) -> None:
    """Of the answer and of its repeat."""
    body = chat(str(uuid4())) | {"model": "模型"}
    for cache in ("miss", "hit"):
        answer = await cached.post(CHAT, body)
        assert (answer.status_code, answer.headers["x-llm-proxy-cache"]) == (200, cache)
        record = await cached.story(answer.headers["x-request-id"])
        assert (record["model_group"], record["deployment"]) == ("模型", "模型")


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
    """The second time as well: out of its own cache LiteLLM would give it a chat's."""
    body = {"model": "chat", "prompt": f"once upon {uuid4()}", "stream": True}
    for state in ("miss", "hit"):
        answer = await cached.post("/v1/completions", body)
        assert answer.headers["x-llm-proxy-cache"] == state
        events = [json.loads(one[6:]) for one in answer.text.strip().split("\n\n") if "[DONE]" not in one]
        assert {event["object"] for event in events} == {"text_completion"}
        assert all(isinstance(choice["text"], str) for event in events for choice in event["choices"])
        assert any(choice["text"] for event in events for choice in event["choices"])


@pytest.mark.parametrize("streams", [False, True])
async def test_a_response_from_the_cache_is_a_response_of_its_own(cached: Cached, streams: bool) -> None:  # noqa: FBT001 -- a parameter
    """What is kept is the chat; each caller gets it in its own dialect, with ids of its own."""
    body = {"model": "chat", "input": f"once upon {uuid4()}", "stream": streams, "store": False}
    found: list[Json] = []
    for state in ("miss", "hit"):
        answer = await cached.post("/v1/responses", body)
        assert answer.headers["x-llm-proxy-cache"] == state
        last = answer.text.strip().rpartition("data: ")[2] if streams else answer.text
        found.append(json.loads(last)["response"] if streams else json.loads(last))
    miss, hit = found
    assert miss["output"][0]["content"] == hit["output"][0]["content"]
    assert (hit["status"], hit["usage"]) == ("completed", miss["usage"])
    assert miss["id"] != hit["id"]


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


SHARED = ("id", "request_id", "requestId", "created", "latency_ms", "latencyMs", "latency", "processing_time")
"""What may differ between two hearings: ids and times."""


def heard(answer: httpx.Response) -> list[Any]:
    """The events or the body of an answer, without ids and times."""
    assert answer.status_code == 200, answer.text
    if "text/event-stream" not in answer.headers["content-type"]:
        return [timeless(answer.json())]
    lines = [line[5:].strip() for line in answer.text.split("\n") if line.startswith("data:")]
    return [line if line == "[DONE]" else timeless(json.loads(line)) for line in lines]


def timeless(document: Any) -> Any:
    """Without ids and times, at the top and in what describes the answer."""
    if isinstance(document, dict):
        fields = cast("Json", document)
        return {name: timeless(value) for name, value in fields.items() if name not in SHARED}
    return document


DIALECTS: dict[str, Json] = {
    "/v1/chat/completions": {"model": "chat"},
    "/v1/chat/completions?stream": {"model": "chat", "stream": True},
    "/v1/chat/completions?usage": {
        "model": "chat",
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "/internal/llm/proxy": {"model": "chat"},
    "/internal/llm/proxy?stream": {"model": "chat", "stream": True},
    "/llm-proxy/generate": {"model": "chat"},
    "/llm-proxy/stream": {"model": "chat"},
}


@pytest.mark.parametrize("kind", sorted(answers.MESSAGES))
@pytest.mark.parametrize("door", DIALECTS)
async def test_the_second_hearing_equals_the_first_in_every_dialect(
    cached: Cached, door: str, kind: str
) -> None:
    """But for id and time; it is a hit that cost nothing and reached no provider."""
    mark = str(uuid4())
    streamed = "?" in door or door.endswith("/stream")
    raw = answers.frames(kind) if streamed else answers.whole(kind)
    body = DIALECTS[door] | {"messages": [{"role": "user", "content": f"{mark} {script(do='raw', raw=raw)}"}]}
    path = door.partition("?")[0]
    first = await cached.post(path, body)
    second = await cached.post(path, body)
    assert heard(second) == heard(first)
    assert [one.headers["x-llm-proxy-cache"] for one in (first, second)] == ["miss", "hit"]
    assert len(await cached.provider.calls(mark)) == 1


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
async def test_a_hit_is_recorded_as_one_and_costs_nothing(cached: Cached, fields: Json) -> None:
    """With the tokens of the answer that was kept, and the deployment that once made it."""
    body = chat(f"record-{uuid4()} {script(do='ok', prompt_tokens=31, completion_tokens=29)}", **fields)
    stories: list[Json] = []
    for _ in range(2):
        answer = await cached.post(CHAT, body)
        stories.append(await cached.story(answer.headers["x-request-id"]))
    for story in stories:
        assert (story["prompt_tokens"], story["completion_tokens"]) == (31, 29)
        assert story["deployment"] == "chat"
    assert [story["cache"] for story in stories] == ["miss", "hit"]
    assert [float(story["cost_usd"]) > 0 for story in stories] == [True, False]
    assert [story["attempts"] for story in stories] == [1, 0]


@pytest.mark.parametrize("fields", [{}, {"stream": True, "stream_options": {"include_usage": True}}])
async def test_an_answer_without_usage_is_heard_twice_the_same(cached: Cached, fields: Json) -> None:
    """Whatever is told in its place."""
    body = chat(f"uncounted-{uuid4()} {script(do='ok', counted=False)}", **fields)
    first = await cached.post(CHAT, body)
    second = await cached.post(CHAT, body)
    assert second.headers["x-llm-proxy-cache"] == "hit"
    assert heard(second) == heard(first)


async def test_keys_without_a_tenant_share_with_nobody(cached: Cached) -> None:
    """Each has a cache of its own, internal callers too."""
    keys = [await cached.key(), await cached.key(), KEY]
    body = chat(f"alone-{uuid4()}")
    assert [await cached.said(body, key) for key in keys] == ["miss"] * 3
    assert [await cached.said(body, key) for key in keys] == ["hit"] * 3
    embed = {"model": "embed", "input": f"alone-{uuid4()}"}
    assert [await cached.said(embed, key, path=EMBED) for key in keys] == ["miss"] * 3


async def purge(cached: Cached, key: str = ADMIN_KEY, **named: str) -> httpx.Response:
    """A purge by an admin."""
    async with httpx.AsyncClient(verify=NO_TLS, base_url=cached.url, timeout=60) as client:
        return await client.delete("/admin/cache", params=named, headers={"Authorization": f"Bearer {key}"})


async def test_a_purge_reaches_a_tenant_or_a_model_or_all(cached: Cached) -> None:
    """Says how many entries it deleted; names with wildcards and separators reach nothing else."""
    tenants = [f"t-{uuid4()}", f"t*{uuid4()}:x"]
    keys = [await cached.key(tenant=tenant) for tenant in tenants]
    text = f"purge-{uuid4()}"
    calls = [chat(text), chat(text) | {"model": "other"}]

    async def states() -> list[str]:
        return [await cached.said(body, key) for key in keys for body in calls]

    assert await states() == ["miss"] * 4
    assert (await purge(cached, tenant=tenants[1], model="other")).json() == {"purged": 1}
    assert await states() == ["hit", "hit", "hit", "miss"]
    assert (await purge(cached, tenant="t*")).json() == {"purged": 0}
    assert (await purge(cached, tenant=tenants[0])).json() == {"purged": 2}
    assert await states() == ["miss", "miss", "hit", "hit"]
    assert (await purge(cached, model="other")).json()["purged"] >= 2
    assert await states() == ["hit", "miss", "hit", "miss"]
    assert (await purge(cached)).json()["purged"] >= 4
    assert await states() == ["miss"] * 4


async def test_a_purge_reaches_embeddings(cached: Cached) -> None:
    """In Redis and in the sidecar's memory."""
    key = await cached.key(tenant=f"t-{uuid4()}")
    body = {"model": "embed", "input": f"purged-{uuid4()}"}
    assert await cached.said(body, key, path=EMBED) == "miss"
    await asyncio.sleep(0.5)
    assert await cached.said(body, key, path=EMBED) == "hit"
    assert (await purge(cached, model="embed")).json()["purged"] >= 1
    assert await cached.said(body, key, path=EMBED) == "miss"


async def test_a_purge_is_an_admin_s_and_on_record(cached: Cached) -> None:
    """Callers may not; a name must be one; who purged what, and how much, is in the audit log."""
    assert (await purge(cached, KEY)).status_code in {401, 403}
    for name in ("", "a\0b", "x" * 257):
        assert (await purge(cached, tenant=name)).status_code == 400
    tenant = f"t-{uuid4()}"
    assert (await purge(cached, tenant=tenant)).status_code == 200
    async with httpx.AsyncClient(verify=NO_TLS, base_url=cached.url, timeout=60) as client:
        listed = await client.get("/admin/audit", headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    rows = [(row["action"], row["target"], row["detail"]) for row in listed.json()["data"][:2]]
    target = f"tenant={tenant} model=*"
    assert rows == [
        ("cache.purge", target, {"purged": 0, "complete": True}),
        ("cache.purge begun", target, {}),
    ]


async def test_the_command_purges_too(cached: Cached) -> None:
    """And says how many."""
    body = chat(f"command-{uuid4()}")
    key = await cached.key(tenant=f"t-{uuid4()}")
    assert await cached.said(body, key) == "miss"
    env = {"PATH": os.environ["PATH"], "LLM_PROXY__ADMIN_KEY": ADMIN_KEY}
    words = ("cache", "purge", "--model", "chat", "--url", cached.url, "--json", "--yes")
    done = await anyio.run_process([sys.executable, "-P", "-m", "llm_proxy", *words], env=env)
    assert json.loads(done.stdout)["purged"] >= 1
    assert await cached.said(body, key) == "miss"


async def test_a_mistyped_filter_deletes_nothing_and_is_named(cached: Cached) -> None:
    """Nor does it hide what an operator asked for; a stranger learns of no parameter."""
    key = await cached.key(tenant=f"t-{uuid4()}")
    body = chat(f"kept-{uuid4()}")
    assert await cached.said(body, key) == "miss"
    refused = await purge(cached, tennant="acme")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tennant")
    assert await cached.said(body, key) == "hit"
    async with httpx.AsyncClient(verify=NO_TLS, base_url=cached.url, timeout=60) as client:
        for path in (
            "/admin/keys",
            "/admin/audit",
            "/admin/refused-credentials",
            "/admin/limits",
            "/admin/models",
        ):
            reply = await client.get(
                path, params={"limt": "3"}, headers={"Authorization": f"Bearer {ADMIN_KEY}"}
            )
            assert (path, reply.status_code, reply.json()["error"]["param"]) == (path, 400, "limt")
            assert (await client.get(path, params={"limt": "3"})).status_code == 401


async def test_a_purge_that_could_not_look_says_so(cached: Cached) -> None:
    """A frozen Redis is an error, not a count of zero."""
    os.kill(cached.store.popen.pid, signal.SIGSTOP)
    try:
        answer = await purge(cached)
    finally:
        os.kill(cached.store.popen.pid, signal.SIGCONT)
    assert answer.status_code == 503
    assert "0 cached responses were deleted" in answer.json()["error"]["message"]
    async with asyncio.timeout(30):
        while (await purge(cached)).status_code != 200:  # noqa: ASYNC110 -- until the breaker has looked
            await asyncio.sleep(0.5)


async def test_a_frozen_store_costs_less_than_a_second_once(cached: Cached) -> None:
    """Not ten seconds a call: one call waits, and then it is left alone until it answers."""
    await timed(cached)
    os.kill(cached.store.popen.pid, signal.SIGSTOP)
    try:
        took_s = [await timed(cached) for _ in range(6)]
    finally:
        os.kill(cached.store.popen.pid, signal.SIGCONT)
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
