"""Revocations reach every replica within a second, and survive an outage of Postgres."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

import asyncpg
import pytest
from interruptible_proxy import InterruptibleProxy
from stages.admission.limiter_outages import build_admission, settings_of

from llm_proxy.admission.redis.backend import publish_epochs
from llm_proxy.dialects import Call
from llm_proxy.errors import APIError, Forbidden, RateLimited, StoreUnavailable, Unauthorized
from llm_proxy.identity import (
    Actor,
    Attribution,
    KeyCache,
    KeyMutation,
    KeyRepository,
    KeySpec,
    KillSwitch,
    LimitPolicy,
    Limits,
    PolicyRepository,
    PostgresKeyStore,
    on_behalf_of,
)
from llm_proxy.identity.caller import NO_ATTRIBUTION

ME = Actor("test")
CALL = Call("chat.completions", "openai", "gpt", "gpt", {}, prompt_bytes=4)


class Replica:
    """Identity and admission of one gateway."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", redis_url: str | None) -> None:
        self.keys = KeyCache(PostgresKeyStore(pool))
        self.admission = build_admission(
            settings_of(
                store_timeout_ms=5_000, limits_redis_url=redis_url, default_models=("*",), agent_rpm=0
            ),
            policy_source=self.keys,
            refresh_caller=self.keys.refresh,
        )

    async def call(self, mutation: KeyMutation, named: Attribution = NO_ATTRIBUTION) -> None:
        """One call with a key, from the header to the lease."""
        assert mutation.generated is not None
        caller = on_behalf_of(
            await self.keys.find_caller(mutation.generated.text.encode()), named, NO_ATTRIBUTION
        )
        (await self.admission.admit(caller, CALL, uuid4())).settle(1, 1)


@pytest.fixture(params=["with a store", "without"])
async def replicas(
    request: pytest.FixtureRequest, pool: "asyncpg.Pool[asyncpg.Record]", limits_redis_url: str
) -> AsyncIterator[list[Replica]]:
    """Two replicas, sharing a limits store or not."""
    url = limits_redis_url if request.param == "with a store" else None
    made = [Replica(pool, url) for _ in range(2)]
    for one in made:
        await one.admission.start()
    yield made
    for one in made:
        await one.admission.stop()


def spec(**said: object) -> KeySpec:
    """A key of a tenant of its own."""
    return KeySpec(**({"name": uuid4().hex, "tenant": f"t-{uuid4().hex}"} | said))  # type: ignore[arg-type]  # as the fields


async def refused_within_a_second(call: Callable[[], Awaitable[None]]) -> APIError:
    """Returns the error that calls get, at the latest after a second."""
    began = time.monotonic()
    while time.monotonic() - began < 1:
        try:
            await call()
        except APIError as refused:
            return refused
        await asyncio.sleep(0.02)
    raise AssertionError("still admitted after a second")


async def test_a_revoked_key_is_rejected_by_every_replica_within_a_second(
    pool: "asyncpg.Pool[asyncpg.Record]", replicas: list[Replica]
) -> None:
    """Also without a limits store, or if it was not told."""
    repository = KeyRepository(pool)
    mutation = await repository.create(spec(), ME)
    for one in replicas:
        await one.call(mutation)
    await repository.revoke(mutation.record.key_id, ME)
    for one in replicas:
        assert isinstance(await refused_within_a_second(partial(one.call, mutation)), Unauthorized)
        assert mutation.generated is not None
        with pytest.raises(Unauthorized):
            await one.keys.find_caller(mutation.generated.text.encode())


async def test_a_published_revocation_holds_for_the_next_call(
    pool: "asyncpg.Pool[asyncpg.Record]", limits_redis_url: str
) -> None:
    """A limited key's script call learns of it, without a poll."""
    repository, replica = KeyRepository(pool), Replica(pool, limits_redis_url)
    await replica.admission.start()
    mutation = await repository.create(spec(limits=Limits(rpm=100)), ME)
    await replica.call(mutation)
    revoked = await repository.revoke(mutation.record.key_id, ME)
    assert await publish_epochs(limits_redis_url, revoked.epochs)
    with pytest.raises(Unauthorized):
        await replica.call(mutation)
    await replica.admission.stop()


async def test_changed_limits_hold_within_a_second(
    pool: "asyncpg.Pool[asyncpg.Record]", replicas: list[Replica]
) -> None:
    """A key's own, and its tenant's."""
    repository, policies = KeyRepository(pool), PolicyRepository(pool)
    mutation = await repository.create(spec(agent="*"), ME)
    tenant = mutation.record.spec.tenant or ""
    await policies.upsert(LimitPolicy("agent", tenant, "scout", limits=Limits(rpm=1)), ME)
    scout = Attribution(agent="scout")
    for one in replicas:
        refused = await refused_within_a_second(partial(one.call, mutation, scout))
        assert isinstance(refused, RateLimited)
        await one.call(mutation, Attribution(agent="other"))


@pytest.mark.parametrize("kind", ["key", "agent", "tenant", "model"])
async def test_a_kill_switch_stops_calls_everywhere_within_a_second(
    pool: "asyncpg.Pool[asyncpg.Record]", replicas: list[Replica], kind: str
) -> None:
    """Per key, agent, tenant and model, until it is disabled."""
    repository, policies = KeyRepository(pool), PolicyRepository(pool)
    mutation = await repository.create(spec(agent="scout"), ME)
    subjects = {
        "key": mutation.record.key_id,
        "agent": "scout",
        "tenant": mutation.record.spec.tenant,
        "model": "gpt",
    }
    switch = KillSwitch(kind, subjects[kind] or "")  # type: ignore[arg-type]  # from the table
    for one in replicas:
        await one.call(mutation)
    await policies.enable_switch(switch, ME)
    for one in replicas:
        refused = await refused_within_a_second(partial(one.call, mutation))
        assert isinstance(refused, Forbidden)
        assert refused.code == f"{kind}_disabled"
    await policies.disable_switch(switch, ME)
    await asyncio.sleep(1)
    for one in replicas:
        await one.call(mutation)


async def test_a_changed_binding_holds_for_the_next_call(
    pool: "asyncpg.Pool[asyncpg.Record]", replicas: list[Replica]
) -> None:
    """What the key may no longer name is rejected."""
    repository = KeyRepository(pool)
    made = spec(agent="old")
    mutation = await repository.create(made, ME)
    await replicas[0].call(mutation, Attribution(agent="old"))
    await repository.update(mutation.record.key_id, KeySpec(made.name, made.tenant, "new"), ME)
    refused = await refused_within_a_second(partial(replicas[0].call, mutation, Attribution(agent="old")))
    assert isinstance(refused, Forbidden)
    await replicas[0].call(mutation, Attribution(agent="new"))


@pytest.mark.parametrize("how", ["held still", "cut"])
async def test_cached_keys_work_and_others_are_503_while_postgres_is_unavailable(
    pool: "asyncpg.Pool[asyncpg.Record]", database_url: str, limits_redis_url: str, how: str
) -> None:
    """Until it is back; no call waits long for it."""
    repository, wire = KeyRepository(pool), InterruptibleProxy(database_url)
    known, unknown = await repository.create(spec(), ME), await repository.create(spec(), ME)
    await wire.start()
    far = asyncpg.create_pool(wire.url, min_size=0, max_size=4, timeout=1)
    await far
    replica = Replica(far, limits_redis_url)
    await replica.admission.start()
    await replica.call(known)
    wire.hold() if how == "held still" else await wire.cut()
    await asyncio.sleep(1.2)
    for _ in range(5):
        began = time.monotonic()
        await replica.call(known)
        assert time.monotonic() - began < 0.3
        with pytest.raises(StoreUnavailable):
            await replica.call(unknown)
    wire.flow() if how == "held still" else await wire.start()
    await asyncio.sleep(2)
    await replica.call(unknown)
    await repository.revoke(known.record.key_id, ME)
    assert isinstance(await refused_within_a_second(partial(replica.call, known)), Unauthorized)
    await replica.admission.stop()
    far.terminate()
    await wire.cut()


async def test_after_a_rotation_the_old_secret_ends_with_the_overlap_on_every_replica(
    pool: "asyncpg.Pool[asyncpg.Record]", replicas: list[Replica]
) -> None:
    """Without another look-up."""
    repository = KeyRepository(pool)
    mutation = await repository.create(spec(), ME)
    await replicas[0].call(mutation)
    rotated = await repository.rotate(mutation.record.key_id, ME, overlap=timedelta(seconds=1.5))
    until = datetime.now(UTC) + timedelta(seconds=1)
    while datetime.now(UTC) < until:
        await replicas[0].call(mutation)
        await asyncio.sleep(0.1)
    assert isinstance(await refused_within_a_second(partial(replicas[0].call, mutation)), Unauthorized)
    await replicas[0].call(rotated)
