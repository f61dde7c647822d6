"""Three gateway processes, one Valkey, one Postgres: what one promises holds for all of them together."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from running_stack import ADMIN_KEY, KEY
from stack_processes import gateway_spec
from two_sidecars import provider_as_sidecar

from llm_proxy.stack import probe, process

Json = dict[str, Any]
CHAT = "/v1/chat/completions"
REPLICAS, CLIENTS = 3, 200


@dataclass(frozen=True, slots=True)
class Gateways:
    """The replicas, by a client of each."""

    clients: tuple[httpx.AsyncClient, ...]

    async def make(self, **spec: object) -> Json:
        """A new key; every replica knows it."""
        made = await self.operate("POST", "/admin/keys", name=uuid4().hex, **spec)
        assert made.status_code == 201, made.text
        reported: Json = made.json()
        return reported

    async def operate(self, method: str, path: str, **body: object) -> httpx.Response:
        """A deed of the operator, at the first of them."""
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        return await self.clients[0].request(method, path, json=body, headers=headers)

    async def ask(self, at: int, key: str, *, stream: bool = False, **headers: str) -> httpx.Response:
        """One chat at one of them, heard to its end."""
        body = {"model": "any", "messages": [{"role": "user", "content": "x"}], "stream": stream}
        headers = {"Authorization": f"Bearer {key}", **headers}
        return await self.clients[at % REPLICAS].post(CHAT, json=body, headers=headers)


@pytest.fixture(scope="module")
def running(service_folder: Path, postgres_url: str, limits_redis_url: str) -> Iterator[tuple[str, ...]]:
    """The replicas' addresses."""
    folder = service_folder / "replicas"
    folder.mkdir()
    behind, fronts = probe.free_port(), [probe.free_port() for _ in range(REPLICAS)]
    settings = {
        "LLM_PROXY__DEFAULT_MODELS": "*",
        "LLM_PROXY__STORE_TIMEOUT_MS": "5000",
        "DATABASE_URL": postgres_url,
        "LIMITS_REDIS_URL": limits_redis_url,
    }
    made = [process.start(provider_as_sidecar(behind), folder / "logs")]
    try:
        for port in fronts:
            spec = gateway_spec(port, folder, [f"http://127.0.0.1:{behind}"], settings)
            made.append(process.start(spec, folder / "logs"))
        process.wait_until_ready(made)
        yield tuple(f"http://127.0.0.1:{port}" for port in fronts)
    finally:
        process.stop(made)


@pytest.fixture
async def gateways(running: tuple[str, ...]) -> AsyncIterator[Gateways]:
    """The replicas."""
    async with AsyncExitStack() as opened:
        limits = httpx.Limits(max_connections=None)
        clients = [httpx.AsyncClient(base_url=url, timeout=60, limits=limits) for url in running]
        yield Gateways(tuple([await opened.enter_async_context(client) for client in clients]))


@pytest.mark.parametrize("kind", ["internal", "virtual"])
async def test_a_ten_a_minute_agent_gets_exactly_ten_from_three_gateways_and_two_hundred_clients(
    gateways: Gateways, kind: str
) -> None:
    """Named by a trusted service, or bound to a key; each client asks twice, streamed or not."""
    agent = f"agent:{uuid4().hex}"
    if kind == "internal":
        key, headers = KEY, {"X-Agent-Id": agent, "X-Tenant-Id": uuid4().hex}
    else:
        key, headers = (await gateways.make(tenant=uuid4().hex, agent=agent))["key"], {}

    async def client(number: int) -> list[httpx.Response]:
        return [await gateways.ask(number + turn, key, stream=bool(turn), **headers) for turn in range(2)]

    answers = itertools.chain(*await asyncio.gather(*(client(number) for number in range(CLIENTS))))
    fared = Counter((one.status_code, one.headers.get("x-llm-proxy-refused-by")) for one in answers)
    assert fared == {(200, None): 10, (429, "limit"): 2 * CLIENTS - 10}


@pytest.mark.parametrize("limit", [{"parallel": 1}, {"tpm": 4000}])
async def test_a_sequential_client_never_meets_its_own_previous_call(
    gateways: Gateways, limit: dict[str, int]
) -> None:
    """From replica to replica, streams and JSON in turn: the call is settled before the last byte arrives."""
    key = (await gateways.make(tenant=uuid4().hex, **limit))["key"]
    fared = [(await gateways.ask(number, key, stream=number % 4 > 1)).status_code for number in range(90)]
    assert fared == [200] * 90


async def a_second_after(
    gateways: Gateways, key: str, deed: Callable[[], Awaitable[httpx.Response]]
) -> set[int]:
    """What calls meet that begin a second after a deed, under load; before it all are good."""
    over = asyncio.Event()
    fared: list[tuple[float, float, int]] = []

    async def load(number: int) -> None:
        while not over.is_set():
            began = time.monotonic()
            status = (await gateways.ask(number, key)).status_code
            fared.append((began, time.monotonic(), status))

    loads = [asyncio.create_task(load(number)) for number in range(6)]
    await asyncio.sleep(0.5)
    begun_at = time.monotonic()
    done = await deed()
    done_at = time.monotonic()
    assert done.status_code == 200, done.text
    await asyncio.sleep(2)
    over.set()
    await asyncio.gather(*loads)
    assert {status for _, ended, status in fared if ended < begun_at} == {200}
    return {status for began, _, status in fared if began > done_at + 1}


async def test_a_key_revoked_under_load_is_refused_everywhere_within_a_second(gateways: Gateways) -> None:
    """Not one call that begins later passes, whether its key has limits or none."""
    for limits in (dict[str, int](), {"rpm": 1_000_000}):
        made = await gateways.make(tenant=uuid4().hex, **limits)
        revoke = partial(gateways.operate, "DELETE", f"/admin/keys/{made['id']}")
        assert await a_second_after(gateways, made["key"], revoke) == {401}


async def test_a_key_switched_off_by_its_name_is_refused_everywhere_within_a_second(
    gateways: Gateways,
) -> None:
    """And passes again when it is switched on."""
    made = await gateways.make(tenant=uuid4().hex)
    switch = partial(gateways.operate, "PUT", "/admin/kills", kind="key", subject=made["name"])
    assert await a_second_after(gateways, made["key"], switch) == {403}
    assert (await gateways.operate("PUT", "/admin/kills", kind="key", subject="nobody")).status_code == 404
    on = await gateways.operate("DELETE", f"/admin/kills?kind=key&subject={made['name']}")
    assert on.status_code == 200, on.text
    end = time.monotonic() + 1
    while {(await gateways.ask(at, made["key"])).status_code for at in range(REPLICAS)} != {200}:
        assert time.monotonic() < end


async def test_limits_changed_while_calls_run_hold_everywhere_within_a_second(gateways: Gateways) -> None:
    """A key without a limit gets one, and loses it again."""
    made = await gateways.make(tenant=uuid4().hex)
    path = f"/admin/keys/{made['name']}"
    assert (await gateways.ask(0, made["key"])).status_code == 200
    for rpm, status in ((1, 429), (0, 200)):
        assert (await gateways.operate("PATCH", path, rpm=rpm)).status_code == 200
        await asyncio.sleep(1)
        await gateways.ask(0, made["key"])
        assert {(await gateways.ask(at, made["key"])).status_code for at in range(REPLICAS)} == {status}


async def test_a_rotated_key_has_two_secrets_until_the_overlap_ends(gateways: Gateways) -> None:
    """At every replica, and the old one is refused when its time is up."""
    made = await gateways.make(tenant=uuid4().hex)
    rotated = await gateways.operate("POST", f"/admin/keys/{made['id']}/rotate", overlap_s=2)
    new = rotated.json()["key"]
    for key in (made["key"], new):
        assert {(await gateways.ask(at, key)).status_code for at in range(REPLICAS)} == {200}
    await asyncio.sleep(2.2)
    assert {(await gateways.ask(at, made["key"])).status_code for at in range(REPLICAS)} == {401}
    assert {(await gateways.ask(at, new)).status_code for at in range(REPLICAS)} == {200}
