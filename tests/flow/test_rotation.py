"""Secrets are exchanged under load in both orders: no call is lost; at the end the old ones are refused."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import httpx
import pytest
from loopback import NO_TLS
from rotating_stack import CONFIG, SETTINGS, SIDECAR, RotatingStack, rotating
from running_stack import MASTER_KEY, Json
from stack_processes import StackProcesses, run_stack

pytestmark = pytest.mark.timeout(400)
GATEWAYS, SIDECARS = ("gateway-1", "gateway-2"), ("sidecar-1", "sidecar-2")


def secret(name: str) -> tuple[str, str]:
    """A new one and the old one."""
    return f"sk-{name}-new-{uuid4().hex}", f"sk-{name}-old-{uuid4().hex}"


INTERNAL, ADMIN, READ = (secret(one) for one in ("internal", "admin", "read"))
TRAFFIC = (secret("traffic")[0], MASTER_KEY)
SEALING = ("k2=" + "n" * 40, "k1=" + "o" * 40)


def gateway_settings(position: slice, sealing: str) -> dict[str, str]:
    """Of each kind of secret the new one, the old one, or both."""
    return {
        "LLM_PROXY__INTERNAL_API_KEY": ",".join(INTERNAL[position]),
        "LLM_PROXY__ADMIN_KEY": ",".join(ADMIN[position]),
        "LLM_PROXY__ADMIN_READ_KEY": ",".join(READ[position]),
        "LLM_PROXY__LITELLM_API_KEY": ",".join(TRAFFIC[position]),
        "LLM_PROXY__SEALING_KEYS": sealing,
    }


OLD, BOTH, NEW = slice(1, 2), slice(0, 2), slice(0, 1)


@pytest.fixture(scope="module")
def running() -> Iterator[StackProcesses]:
    """The stack with the old secrets."""
    settings = SETTINGS | {"LITELLM_MASTER_KEY": ""} | gateway_settings(OLD, SEALING[1])
    sidecar = SIDECAR | {"STEADY_API_KEY": "sk-of-the-provider"}
    with run_stack(CONFIG, gateways=2, sidecars=2, settings=settings, sidecar_env=sidecar) as stack:
        yield stack


@pytest.fixture
async def stack(running: StackProcesses) -> AsyncIterator[RotatingStack]:
    """The same, with clients."""
    async with rotating(running) as made:
        yield made


async def test_keys_are_exchanged_under_load_in_both_orders(stack: RotatingStack) -> None:
    """Gateways before sidecars, then the reverse; every call is answered and has one record."""
    virtual = (await made(stack, "/admin/keys", {"name": "rotated", "tenant": "acme"}))["key"]
    body = {"model": "steady", "input": "keep this"}
    kept = f"/v1/responses/{(await made(stack, '/v1/responses', body, virtual))['id']}"
    async with stack.load(INTERNAL[1], virtual) as load:
        both = gateway_settings(BOTH, f"{SEALING[1]},{SEALING[0]}")
        await stack.roll(*GATEWAYS, settings=both)  # sends the sidecars a key that they do not know yet
        load.credentials = (*INTERNAL, virtual)
        await stack.roll(*SIDECARS, settings={"LITELLM_MASTER_KEY": ",".join(TRAFFIC)})
        assert await stack.statuses("/admin/keys", ADMIN[0]) == await stack.statuses("/admin/keys", ADMIN[1])
        await asyncio.sleep(1.5)  # the counters are sampled once a second
        uses = await stack.old_uses(READ[0])
        assert uses["LLM_PROXY__INTERNAL_API_KEY"] > 0
        assert uses["LLM_PROXY__ADMIN_KEY"] == 2
        assert uses["LLM_PROXY__ADMIN_READ_KEY"] == 0
        assert uses["LLM_PROXY__LITELLM_API_KEY"] > 0
        rotated = await made(stack, "/admin/keys/rotated/rotate", {"overlap_s": 5}, ADMIN[0])
        load.credentials = (INTERNAL[0], virtual, rotated["key"])
        await asyncio.sleep(2)
        load.credentials = (INTERNAL[0], rotated["key"])
        await stack.roll(*SIDECARS, settings={"LITELLM_MASTER_KEY": TRAFFIC[0]})
        await stack.roll(*GATEWAYS, settings=gateway_settings(BOTH, ",".join(SEALING)))
        assert await stack.statuses(kept, rotated["key"]) == {200}
        await stack.roll(*GATEWAYS, settings=gateway_settings(NEW, SEALING[0]))
        await asyncio.sleep(0.5)
    assert load.lost == []
    assert load.streams > 0
    assert set((await stack.records(load.ids)).values()) == {1}
    assert len(await stack.records(load.ids)) == len(load.ids) == len(set(load.ids))
    assert await stack.statuses("/v1/models", virtual) == {401}
    assert await stack.statuses(kept, rotated["key"]) == {404}
    await expect_refusals(stack)


async def made(stack: RotatingStack, path: str, body: Json, key: str = ADMIN[1]) -> Json:
    """What a POST makes."""
    reply = await stack.ask("gateway-1", "POST", path, key, body)
    assert reply.is_success, reply.text
    found: Json = reply.json()
    return found


async def expect_refusals(stack: RotatingStack) -> None:
    """The old keys get nothing any more."""
    assert await stack.statuses("/v1/models", INTERNAL[1]) == {401}
    assert await stack.statuses("/v1/models", INTERNAL[0]) == {200}
    assert await stack.statuses("/admin/keys", ADMIN[1]) == {401}
    assert await stack.statuses("/metrics", READ[1]) == {401}
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        for url in stack.stack.urls("sidecar"):
            given = [{"authorization": f"Bearer {key}"} for key in reversed(TRAFFIC)]
            statuses = [(await client.get(f"{url}/v1/models", headers=one)).status_code for one in given]
            assert statuses == [401, 200]
