"""Calls with an `Idempotency-Key`, at two gateways that share their stores: paid once, whatever happens."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import pytest
from running_stack import ADMIN_KEY, KEY, script
from stack_processes import PASSWORD, StackProcesses, run_stack, serve_gateway

from llm_proxy.admission.redis.script import open_store
from llm_proxy.stack.stores import valkey_url

Json = dict[str, Any]
Found = TypeVar("Found")
CHAT = "/v1/chat/completions"
LEASE_S = 3
SETTINGS = {
    "LLM_PROXY__DEFAULT_MODELS": "*",
    "LLM_PROXY__IDEMPOTENCY_LEASE_S": str(LEASE_S),
    "LLM_PROXY__IDEMPOTENCY_MAX_BYTES": "20000",
    "LLM_PROXY__IDEMPOTENCY_TOTAL_BYTES": "60000",
    "LLM_PROXY__STORE_TIMEOUT_MS": "5000",
    "LLM_PROXY__DRAIN_TIMEOUT_S": "2",
}
_NOT_REPEATED = ("x-request-id", "date", "server-timing", "x-llm-proxy-cost-usd", "x-llm-proxy-cache",
                 "x-llm-proxy-attempts", "idempotency-replayed", "x-llm-proxy-replay-of")  # fmt: skip


@dataclass(frozen=True, slots=True)
class TwoGateways:
    """The two gateways, by a client of each, and what stands behind them."""

    stack: StackProcesses
    clients: tuple[httpx.AsyncClient, httpx.AsyncClient]

    async def calls(self) -> list[Json]:
        """The calls that the provider has seen."""
        async with httpx.AsyncClient() as client:
            found: list[Json] = (await client.get(f"{self.stack.url('provider')}/_calls")).json()["calls"]
        return [one for one in found if one["path"].startswith("/v1")]

    async def ask(self, at: int, key: str | None, body: Json, **headers: str) -> httpx.Response:
        """One chat, read to its end."""
        return await self.clients[at].post(CHAT, json=body, headers=key_headers(key, **headers))

    async def record(self, response: httpx.Response) -> Json:
        """What the ledger says of a call."""
        path = f"/v1/requests/{response.headers['x-request-id']}"

        async def found() -> Json | None:
            reply = await self.clients[0].get(path, headers={"Authorization": f"Bearer {ADMIN_KEY}"})
            return reply.json() if reply.status_code == 200 else None

        return await until(found)


async def until(found: Callable[[], Awaitable[Found | None]]) -> Found:
    """Waits for what is found at last."""
    async with asyncio.timeout(20):
        while not (result := await found()):  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.05)
    return result


def key_headers(key: str | None, **headers: str) -> dict[str, str]:
    """The headers of a call with an idempotency key."""
    named = {"Idempotency-Key": key} if key is not None else {}
    return {
        "Authorization": f"Bearer {KEY}",
        **named,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }


def chat(*, stream: bool = False, do: str = "ok", **directive: Any) -> Json:
    """A chat that tells the provider what to do."""
    prompt = script(do=do, **directive)
    return {"model": "any", "stream": stream, "messages": [{"role": "user", "content": prompt}]}


@pytest.fixture(scope="module")
def running() -> Iterator[StackProcesses]:
    """Two gateways before a provider, with their stores."""
    with run_stack({}, gateways=0, sidecars=0) as stack:
        settings = SETTINGS | {"CACHE_REDIS_URL": valkey_url(stack.ports["cache"], PASSWORD)}
        names = [stack.add_gateway(settings, [stack.url("provider")]) for _ in range(2)]
        stack.start(*names)
        yield stack


@pytest.fixture
async def gateways(running: StackProcesses) -> AsyncIterator[TwoGateways]:
    """Both gateways, the provider's memory wiped."""
    async with AsyncExitStack() as opened:
        limits = httpx.Limits(max_connections=None)
        one, other = [
            await opened.enter_async_context(httpx.AsyncClient(base_url=url, timeout=60, limits=limits))
            for url in running.urls("gateway")
        ]
        await one.post(f"{running.url('provider')}/_reset")
        yield TwoGateways(running, (one, other))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_repetition_gets_the_first_answer_from_either_gateway_and_costs_nothing(
    gateways: TwoGateways, *, stream: bool
) -> None:
    """Its status, its bytes and the headers that belong to them; its record is its own."""
    key, body = uuid4().hex, chat(stream=stream)
    first = await gateways.ask(0, key, body)
    again = [await gateways.ask(at, key, body) for at in (0, 1, 1)]
    assert len(await gateways.calls()) == 1
    for one in again:
        assert (one.status_code, one.content) == (first.status_code, first.content)
        assert one.headers["idempotency-replayed"] == "true"
        assert one.headers["x-llm-proxy-cost-usd"] == "0.000000000"
        assert one.headers["x-llm-proxy-replay-of"] == first.headers["x-request-id"]
        for name in ("content-type", "x-llm-proxy-model", "cache-control"):
            assert one.headers.get(name) == first.headers.get(name)
        assert one.headers["x-request-id"] != first.headers["x-request-id"]
    assert "idempotency-replayed" not in first.headers
    record = await gateways.record(again[-1])
    assert record["replay_of"] == first.headers["x-request-id"]
    assert (record["outcome"], float(record["cost_usd"]), record["prompt_tokens"]) == ("ok", 0, 0)
    assert (await gateways.record(first))["replay_of"] is None


async def test_fifty_callers_with_one_key_pay_once(gateways: TwoGateways) -> None:
    """At both gateways at once, half of them streams of one body, half whole answers of another."""
    whole, streamed = (uuid4().hex, chat(first_ms=300)), (uuid4().hex, chat(stream=True, gap_ms=30))
    answers = await asyncio.gather(
        *(gateways.ask(at % 2, *(whole if at % 4 < 2 else streamed)) for at in range(50))
    )
    assert {one.status_code for one in answers} == {200}
    assert len({one.content for one in answers}) == 2
    assert sum("idempotency-replayed" in one.headers for one in answers) == 48
    assert len(await gateways.calls()) == 2


@pytest.mark.parametrize("at", [0, 1])
async def test_one_that_comes_late_gets_a_stream_from_its_first_frame_while_it_runs(
    gateways: TwoGateways, at: int
) -> None:
    """In the same gateway and in the other; its first frames come before the first caller has its last."""
    key, body = uuid4().hex, chat(stream=True, frames=12, gap_ms=150)
    ended: list[float] = []

    async def first() -> bytes:
        answer = (await gateways.ask(0, key, body)).content
        ended.append(time.monotonic())
        return answer

    running = asyncio.create_task(first())
    await asyncio.sleep(0.6)
    async with gateways.clients[at].stream("POST", CHAT, json=body, headers=key_headers(key)) as late:
        parts = [(time.monotonic(), part) async for part in late.aiter_raw()]
    assert b"".join(part for _, part in parts) == await running
    assert parts[0][0] < ended[0]
    assert len(await gateways.calls()) == 1


@pytest.mark.parametrize("at", [0, 1])
async def test_a_call_goes_on_without_its_first_caller_while_somebody_listens(
    gateways: TwoGateways, at: int
) -> None:
    """In the same gateway and in the other."""
    key, body = uuid4().hex, chat(stream=True, frames=30, gap_ms=250)
    async with gateways.clients[0].stream("POST", CHAT, json=body, headers=key_headers(key)) as first:
        await anext(first.aiter_raw())
        late = asyncio.create_task(gateways.ask(at, key, body))
        await asyncio.sleep(0.5)
    answer = await late
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert len(await gateways.calls()) == 1
    assert (await gateways.ask(1 - at, key, body)).content == answer.content


async def test_a_caller_who_comes_back_finds_its_call_still_running(gateways: TwoGateways) -> None:
    """The connection breaks in the middle; no other caller listens."""
    key, body = uuid4().hex, chat(stream=True, frames=20, gap_ms=200)
    async with gateways.clients[0].stream("POST", CHAT, json=body, headers=key_headers(key)) as first:
        start = await anext(first.aiter_raw())
    await asyncio.sleep(0.5)
    answer = await gateways.ask(1, key, body)
    assert answer.content.startswith(start)
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert len(await gateways.calls()) == 1


async def test_a_call_that_nobody_wants_ends_and_its_key_is_free(gateways: TwoGateways) -> None:
    """Some seconds after its caller has left."""
    key, body = uuid4().hex, chat(stream=True, frames=600, gap_ms=200)
    async with gateways.clients[0].stream("POST", CHAT, json=body, headers=key_headers(key)) as first:
        await anext(first.aiter_raw())

    async def hung_up() -> object:
        return (await gateways.calls())[0]["client_left_s"]

    await until(hung_up)
    other = await until_free(gateways, 1, key, chat())
    assert other.status_code == 200
    assert "idempotency-replayed" not in other.headers


async def until_free(gateways: TwoGateways, at: int, key: str, body: Json) -> httpx.Response:
    """The first answer that is neither a conflict nor an outage."""

    async def found() -> httpx.Response | None:
        answer = await gateways.ask(at, key, body)
        return None if answer.status_code in {409, 422, 503} else answer

    return await until(found)


async def test_another_request_with_the_key_is_rejected_and_another_caller_has_keys_of_its_own(
    gateways: TwoGateways,
) -> None:
    """While the first runs, and later; a tenant's or a user's key is not another one's."""
    key = uuid4().hex
    running = asyncio.create_task(gateways.ask(0, key, chat(first_ms=600)))
    await asyncio.sleep(0.3)
    for at in (0, 1):
        reused = await gateways.ask(at, key, chat(frames=3))
        assert reused.status_code == 422
        assert reused.json()["error"]["code"] == "idempotency_key_reused"
        assert reused.headers["x-should-retry"] == "false"
    first = await running
    assert (await gateways.ask(1, key, chat(frames=3))).status_code == 422
    elsewhere = await gateways.clients[0].post(
        "/v1/completions", json={"model": "any", "prompt": "x"}, headers=key_headers(key)
    )
    assert elsewhere.status_code == 422
    for headers in ({"X_Tenant_Id": "acme"}, {"X_Tenant_Id": "acme", "X_User_Id": "ada"}):
        own = await gateways.ask(1, key, chat(first_ms=600), **headers)
        assert own.status_code == 200
        assert "idempotency-replayed" not in own.headers
    assert (await gateways.ask(1, f'"{key}"', chat(first_ms=600))).content == first.content


@pytest.mark.parametrize("value", ["", '"unclosed', "a b", "a,b", "x" * 256, '"a";b=1', "café"])
async def test_a_value_that_is_no_key_is_rejected(gateways: TwoGateways, value: str) -> None:
    """It is a string of a structured field, or one bare word, of 1 to 255 characters."""
    sent = [("Authorization", f"Bearer {KEY}"), ("Idempotency-Key", value.encode().decode("latin-1"))]
    raw = [(name.encode(), text.encode("latin-1")) for name, text in sent]
    answer = await gateways.clients[0].post(CHAT, json=chat(), headers=raw)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_idempotency_key"


@pytest.mark.parametrize(
    ("status", "kept"), [(400, True), (422, True), (404, False), (429, False), (500, False)]
)
async def test_of_errors_only_those_are_kept_that_would_come_again(
    gateways: TwoGateways, status: int, *, kept: bool
) -> None:
    """What blames the request; not what the next try may mend."""
    key, body = uuid4().hex, chat(do=f"status-{status}")
    first = await gateways.ask(0, key, body)
    again = await gateways.ask(1, key, body)
    assert len(await gateways.calls()) == (1 if kept else 2)
    assert ("idempotency-replayed" in again.headers) is kept
    assert again.status_code == first.status_code
    if kept:
        assert again.content == first.content


async def test_a_stream_that_broke_is_not_kept(gateways: TwoGateways) -> None:
    """The next call with the key runs anew."""
    key, body = uuid4().hex, chat(stream=True, do="cut")
    first = await gateways.ask(0, key, body)
    assert b"[DONE]" not in first.content
    await gateways.ask(1, key, body)
    assert len(await gateways.calls()) == 2


async def test_an_answer_that_was_evicted_is_gone_and_not_paid_again(gateways: TwoGateways) -> None:
    """By the Redis itself, by the bound of all answers, or for its size."""
    flushed, pushed_out, large = (uuid4().hex for _ in range(3))
    await gateways.ask(0, flushed, chat())
    await valkey(gateways, "cache", "FLUSHALL")
    await gateways.ask(0, pushed_out, chat())
    for _ in range(5):
        filled = await gateways.ask(0, uuid4().hex, chat(text="x" * 15_000))
        assert filled.status_code == 200
    first = await gateways.ask(0, large, chat(text="x" * 30_000))
    assert len(first.content) > 30_000
    before = len(await gateways.calls())
    for key, body in ((flushed, chat()), (pushed_out, chat()), (large, chat(text="x" * 30_000))):
        gone = await gateways.ask(1, key, body)
        assert (gone.status_code, gone.json()["error"]["code"]) == (409, "idempotency_replay_gone"), gone.text
        assert gone.headers["x-should-retry"] == "false"
    assert len(await gateways.calls()) == before


async def valkey(gateways: TwoGateways, name: str, *command: str) -> Any:
    """What a Valkey replies."""
    client = open_store(valkey_url(gateways.stack.ports[name], PASSWORD), name, timeout_s=5)
    await client.start()
    try:
        return await client.execute("", *command)
    finally:
        await client.stop()


async def test_nothing_of_a_call_can_be_read_in_the_stores(gateways: TwoGateways) -> None:
    """Neither its key nor its answer, nor who made it."""
    key, user = f"secret-{uuid4().hex}", f"user-{uuid4().hex}"
    await gateways.ask(0, key, chat(text="the answer is amber"), X_Tenant_Id="acme", X_User_Id=user)
    for name in ("limits", "cache"):
        for found in await valkey(gateways, name, "KEYS", "lp:*"):
            assert key.encode() not in found
            assert user.encode() not in found
    names = [one for one in await valkey(gateways, "cache", "KEYS", "lp:{answers}:*") if one.count(b":") == 4]
    lists = [one.decode() for one in names if not one.endswith(b":made")]
    stored = [part for one in lists for part in await valkey(gateways, "cache", "LRANGE", one, "0", "-1")]
    assert stored
    assert not any(b"amber" in part or b"choices" in part for part in stored)


async def test_erasing_a_person_erases_its_answers(gateways: TwoGateways) -> None:
    """And no other caller's."""
    ada, bob = ({"X_Tenant_Id": f"t-{uuid4().hex}", "X_User_Id": user} for user in ("ada", "bob"))
    bob["X_Tenant_Id"] = ada["X_Tenant_Id"]
    key, body = uuid4().hex, chat()
    for who in (ada, bob):
        assert (await gateways.ask(0, key, body, **who)).status_code == 200
    erased = await gateways.clients[1].post(
        "/admin/erasures",
        json={"tenant": ada["X_Tenant_Id"], "user": "ada"},
        headers={"Authorization": f"Bearer {ADMIN_KEY}"},
    )
    assert erased.json()["stores"]["idempotent answers"] == {"state": "erased", "found": 1, "note": ""}
    gone = await gateways.ask(0, key, body, **ada)
    assert gone.json()["error"]["code"] == "idempotency_replay_gone"
    assert (await gateways.ask(0, key, body, **bob)).headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("stream", [False, True])
async def test_after_a_gateway_was_killed_its_call_runs_anew_after_a_wait_and_never_twice_at_once(
    gateways: TwoGateways, *, stream: bool
) -> None:
    """Who asks meanwhile gets a 409 that says how long, and nothing of a stream that had begun."""
    key, body = uuid4().hex, chat(stream=stream, gap_ms=300, first_ms=0 if stream else 1500)
    async with AsyncExitStack() as opened:
        if stream:
            begun = gateways.clients[0].stream("POST", CHAT, json=body, headers=key_headers(key))
            call = (await opened.enter_async_context(begun)).headers["x-request-id"].replace("-", "")
            await until(lambda: valkey(gateways, "cache", "KEYS", f"*:{call}"))
        else:
            broken = asyncio.create_task(gateways.ask(0, key, body))
            opened.callback(broken.cancel)
            await provider_has(gateways, 1)
        await gateways.stack.kill("gateway-1")
    try:
        lost = await gateways.ask(1, key, body)
        assert (lost.status_code, lost.json()["error"]["code"]) == (409, "idempotency_call_lost")
        assert lost.headers["x-should-retry"] == "true"
        assert 1 <= int(lost.headers["retry-after"]) <= LEASE_S
        assert len(await gateways.calls()) == 1
        await asyncio.sleep(int(lost.headers["retry-after"]))
        again = await gateways.ask(1, key, body)
        assert again.status_code == 200
        assert "idempotency-replayed" not in again.headers
        assert len(await gateways.calls()) == 2
    finally:
        await gateways.stack.restart("gateway-1")


async def provider_has(gateways: TwoGateways, count: int) -> None:
    """Waits until the provider has seen so many calls."""

    async def found() -> bool:
        return len(await gateways.calls()) >= count

    await until(found)


async def test_a_call_that_lost_its_claim_is_ended(gateways: TwoGateways) -> None:
    """Its gateway stood still for longer than its lease, and another call has the key now."""
    key, body = uuid4().hex, chat(stream=True, frames=400, gap_ms=100)
    async with gateways.clients[0].stream("POST", CHAT, json=body, headers=key_headers(key)) as first:
        parts = first.aiter_raw()
        await anext(parts)
        gateways.stack.signal("gateway-1", signal.SIGSTOP)
        try:
            short = chat(stream=True, frames=400, gap_ms=100)
            async with asyncio.timeout(20):
                while True:
                    async with gateways.clients[1].stream(
                        "POST", CHAT, json=short, headers=key_headers(key)
                    ) as other:
                        if other.status_code == 200 and "idempotency-replayed" not in other.headers:
                            break
                    await asyncio.sleep(0.2)
        finally:
            gateways.stack.signal("gateway-1", signal.SIGCONT)
        rest = b"".join([part async for part in parts])
    assert b"[DONE]" not in rest
    assert b"Idempotency-Key" in rest


@pytest.mark.parametrize("store", ["limits", "cache"])
async def test_without_one_of_its_stores_a_call_with_a_key_is_rejected_and_others_run(
    gateways: TwoGateways, store: str
) -> None:
    """503 with a wait, before anything is paid; afterwards the key is free."""
    key, kept, body = uuid4().hex, uuid4().hex, chat()
    first = await gateways.ask(0, kept, body)
    await gateways.stack.kill(store)
    try:
        for name in (key, kept):
            away = await gateways.ask(0, name, body)
            assert (away.status_code, away.json()["error"]["code"]) == (503, "store_unavailable"), away.text
            assert away.headers["retry-after"] == "1"
        assert (await gateways.ask(0, None, body)).status_code == 200
        assert len(await gateways.calls()) == 2
    finally:
        await gateways.stack.restart(store)
    back = await until_free(gateways, 0, key, body)
    assert back.status_code == 200
    after = await gateways.ask(0, kept, body)
    if store == "limits":
        assert after.content == first.content
    else:
        assert after.json()["error"]["code"] == "idempotency_replay_gone"


async def test_a_call_ends_when_the_limits_store_is_away_for_its_lease(gateways: TwoGateways) -> None:
    """It can no longer know that it is the only one with its key."""
    key, body = uuid4().hex, chat(stream=True, frames=400, gap_ms=100)
    async with gateways.clients[0].stream("POST", CHAT, json=body, headers=key_headers(key)) as running:
        parts = running.aiter_raw()
        await anext(parts)
        await gateways.stack.kill("limits")
        try:
            rest = b"".join([part async for part in parts])
        finally:
            await gateways.stack.restart("limits")
    assert b"store_unavailable" in rest
    assert b"[DONE]" not in rest
    assert "idempotency-replayed" not in (await until_free(gateways, 0, key, chat())).headers


async def test_a_call_goes_on_without_the_store_of_answers_and_its_key_is_gone(gateways: TwoGateways) -> None:
    """Its caller gets all of it; it is paid for once."""
    key, body = uuid4().hex, chat(stream=True, frames=10, gap_ms=150)
    async with gateways.clients[0].stream("POST", CHAT, json=body, headers=key_headers(key)) as running:
        parts = running.aiter_raw()
        await anext(parts)
        await gateways.stack.kill("cache")
        try:
            rest = b"".join([part async for part in parts])
        finally:
            await gateways.stack.restart("cache")
    assert rest.endswith(b"data: [DONE]\n\n")
    async with asyncio.timeout(20):
        while (gone := await gateways.ask(0, key, body)).status_code == 503:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.1)
    assert gone.json()["error"]["code"] == "idempotency_replay_gone"
    assert len(await gateways.calls()) == 1


async def test_a_gateway_where_it_is_off_ignores_the_header(gateways: TwoGateways) -> None:
    """Each request is a call."""
    stack = gateways.stack
    settings = {
        "CACHE_REDIS_URL": valkey_url(stack.ports["cache"], PASSWORD),
        "LIMITS_REDIS_URL": valkey_url(stack.ports["limits"], PASSWORD),
        "LLM_PROXY__IDEMPOTENCY": "off",
    }
    with serve_gateway(stack.folder / "off", [stack.url("provider")], settings) as off:
        async with httpx.AsyncClient(base_url=off.url) as client:
            answers = [await client.post(CHAT, json=chat(), headers=key_headers("a key")) for _ in range(2)]
    assert [(one.status_code, "idempotency-replayed" in one.headers) for one in answers] == [(200, False)] * 2
    assert len(await gateways.calls()) == 2


async def test_a_repetition_takes_nothing_of_a_limit(gateways: TwoGateways) -> None:
    """Of one request a minute."""
    made = await gateways.clients[0].post(
        "/admin/keys",
        json={"name": uuid4().hex, "tenant": uuid4().hex, "models": ["*"], "rpm": 1},
        headers={"Authorization": f"Bearer {ADMIN_KEY}"},
    )
    headers, body = key_headers(uuid4().hex) | {"Authorization": f"Bearer {made.json()['key']}"}, chat()
    first, *again = [await gateways.clients[at % 2].post(CHAT, json=body, headers=headers) for at in range(5)]
    assert {one.content for one in again} == {first.content}
    other = await gateways.clients[0].post(
        CHAT, json=body, headers=headers | {"Idempotency-Key": uuid4().hex}
    )
    assert other.status_code == 429
