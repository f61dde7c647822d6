"""Secrets are exchanged under load in both orders: no call is lost; at the end the old ones are refused.

The commands are those of docs/rotation.md.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
import redis.asyncio as redis
from loopback import NO_TLS
from rotating_stack import CONFIG, SETTINGS, SIDECAR, RotatingStack, rotating
from running_stack import MASTER_KEY, Json
from stack_processes import PASSWORD, StackProcesses, run_stack
from usage_records import rows_of_calls

from llm_proxy.postgres_urls import SIDECAR_ROLE
from llm_proxy.stack.stores import DATABASE_ROLE, postgres_url, valkey_url

pytestmark = pytest.mark.timeout(400)
GATEWAYS, SIDECARS = ("gateway-1", "gateway-2"), ("sidecar-1", "sidecar-2")


def secret(name: str) -> tuple[str, str]:
    """A new one and the old one."""
    return f"sk-{name}-new-{uuid4().hex}", f"sk-{name}-old-{uuid4().hex}"


INTERNAL, ADMIN, READ, PROVIDER = (secret(one) for one in ("internal", "admin", "read", "provider"))
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
    sidecar = SIDECAR | {"STEADY_API_KEY": PROVIDER[1]}
    with run_stack(CONFIG, gateways=2, sidecars=2, settings=settings, sidecar_env=sidecar) as stack:
        yield stack


@pytest.fixture
async def stack(running: StackProcesses) -> AsyncIterator[RotatingStack]:
    """The same, with clients."""
    async with rotating(running) as made:
        yield made


async def test_secrets_are_exchanged_under_load_in_both_orders(stack: RotatingStack) -> None:
    """Gateways before sidecars, then the reverse; every call is answered and has one record."""
    virtual = (await made(stack, "/admin/keys", {"name": "rotated", "tenant": "acme"}))["key"]
    body = {"model": "steady", "input": "keep this"}
    kept = f"/v1/responses/{(await made(stack, '/v1/responses', body, virtual))['id']}"
    async with stack.load(INTERNAL[1], virtual) as load:
        gateway, sidecar = await add_passwords(stack)
        both = gateway | gateway_settings(BOTH, f"{SEALING[1]},{SEALING[0]}")
        await stack.roll(*GATEWAYS, settings=both)  # sends the sidecars a key that they do not know yet
        load.credentials = (*INTERNAL, virtual)
        keys = {"LITELLM_MASTER_KEY": ",".join(TRAFFIC), "STEADY_API_KEY": PROVIDER[0]}
        await stack.roll(*SIDECARS, settings=sidecar | keys)
        await remove_passwords(stack)
        assert await stack.statuses("/admin/keys", ADMIN[0]) == await stack.statuses("/admin/keys", ADMIN[1])
        async with asyncio.timeout(30):  # the counters are sampled once a second
            while (uses := await stack.old_uses(READ[0]))["LLM_PROXY__ADMIN_KEY"] < len(GATEWAYS):  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.2)
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
    url, once = stack.stack.database_url, dict.fromkeys(load.ids, 1)
    assert await rows_of_calls(url, load.ids) == once
    assert await rows_of_calls(url, load.ids, "llm_calls", "call_id") == once
    assert await stack.statuses("/v1/models", virtual) == {401}
    assert await stack.statuses(kept, rotated["key"]) == {404}
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        calls = (await client.get(f"{stack.stack.url('provider')}/_calls")).json()["calls"]
    assert calls[0]["headers"]["authorization"] == f"Bearer {PROVIDER[1]}"
    assert {one["headers"]["authorization"] for one in calls[-20:]} == {f"Bearer {PROVIDER[0]}"}
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


NEW_PASSWORD = "another-of-this-run"
LOGINS = {DATABASE_ROLE: "llm_proxy_b", SIDECAR_ROLE: "llm_proxy_sidecar_b"}
"""Each role with the login that takes turns with it."""


async def sql(stack: RotatingStack, *statements: str) -> None:
    """Runs statements as an operator does."""
    connection = await asyncpg.connect(stack.stack.database_url)
    try:
        for one in statements:
            await connection.execute(one)
    finally:
        await connection.close()


async def valkey(stack: RotatingStack, name: str, *words: str, password: str = PASSWORD) -> None:
    """Runs a command at a Valkey."""
    client: Any = redis.Redis(port=stack.stack.ports[name], password=password)
    async with client:
        await client.execute_command(*words)


async def add_passwords(stack: RotatingStack) -> tuple[dict[str, str], dict[str, str]]:
    """Makes the new ones valid beside the old; returns the addresses with them, of gateways and sidecars."""
    ports = stack.stack.ports
    for name in ("limits", "cache"):
        await valkey(stack, name, "ACL", "SETUSER", "default", f">{NEW_PASSWORD}")
    for role, login in LOGINS.items():
        create = f"CREATE ROLE {login} LOGIN PASSWORD '{NEW_PASSWORD}' IN ROLE {role}"
        await sql(stack, create, f"ALTER ROLE {login} SET role TO {role}")
    gateway = {
        "DATABASE_URL": postgres_url(ports["postgres"], NEW_PASSWORD, LOGINS[DATABASE_ROLE]),
        "LIMITS_REDIS_URL": valkey_url(ports["limits"], NEW_PASSWORD),
    }
    sidecar = {
        "CACHE_REDIS_URL": valkey_url(ports["cache"], NEW_PASSWORD),
        "LLM_CALLS_DATABASE_URL": postgres_url(ports["postgres"], NEW_PASSWORD, LOGINS[SIDECAR_ROLE]),
    }
    return gateway, sidecar


async def remove_passwords(stack: RotatingStack) -> None:
    """Makes the old ones invalid, and ends what is connected with them; they are refused."""
    for name in ("limits", "cache"):
        await valkey(stack, name, "ACL", "SETUSER", "default", f"<{PASSWORD}", password=NEW_PASSWORD)
        await valkey(stack, name, "CLIENT", "KILL", "TYPE", "normal", password=NEW_PASSWORD)
        with pytest.raises(redis.AuthenticationError):
            await valkey(stack, name, "PING")
    await sql(stack, f"ALTER ROLE {SIDECAR_ROLE} PASSWORD 'never-used'")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres_url(stack.stack.ports["postgres"], PASSWORD, SIDECAR_ROLE))
