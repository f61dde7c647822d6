"""Admission on a Redis Cluster of three real Valkeys: exact, also when slots move or a node dies."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from uuid import uuid4

import pytest
from redis.crc import key_slot
from stages.admission.limiter_outages import (
    CALL,
    PATIENT_MS,
    Ledger,
    Replicas,
    new_caller,
    outcome,
    repeated_call,
    until,
)
from stages.admission.valkey_cluster import PASSWORD, Cluster

from llm_proxy.admission.fallback import FallbackLimiter
from llm_proxy.admission.lease import ActiveLeases
from llm_proxy.admission.limiter import (
    ADMITTED,
    NO_EPOCH,
    REJECTED,
    LimitCheck,
    LimiterRequest,
    LimitPlan,
    epoch_key,
    tenant_tag,
)
from llm_proxy.admission.redis.backend import REPLICAS_KEY, EvictionEnabled, RedisBackend, require_noeviction
from llm_proxy.admission.renewal import Heartbeat
from llm_proxy.admission.turns import RunName
from llm_proxy.errors import AgentLoopDetected, BudgetExceeded, RateLimited
from llm_proxy.identity import Budget, LimitPolicy, Limits
from llm_proxy.identity.guard_rules import GuardRule

TENANTS = 15


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The nodes, started once."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.end()


@pytest.fixture
async def cluster(nodes: Cluster) -> Cluster:
    """The nodes, connected."""
    if b"cluster_size:3" not in await nodes.ask(nodes.ports[0], "CLUSTER", "INFO"):
        await nodes.form()
    return nodes


@pytest.fixture
async def replicas(cluster: Cluster) -> AsyncIterator[Replicas]:
    """Replicas that count there."""
    made = Replicas(cluster.url)
    yield made
    await made.stop()


async def test_two_replicas_admit_exactly_ten_for_any_tenant(cluster: Cluster, replicas: Replicas) -> None:
    """Whichever node counts for the tenant."""
    both = [await replicas.start(store_timeout_ms=PATIENT_MS) for _ in range(2)]
    callers = [new_caller(agent="scout") for _ in range(TENANTS)]
    assert len({await cluster.owner(epoch_key(one.tenant)) for one in callers}) > 1
    for caller in callers:
        fared = await asyncio.gather(*(outcome(both[number % 2], caller) for number in range(30)))
        assert fared.count("enforced") == 10
        assert fared.count("rate_limit_exceeded") == 20
    assert {one.state().store for one in both} == {"up"}


async def test_slots_are_released_and_money_settled_at_every_node(replicas: Replicas) -> None:
    """Reservations become what was used."""
    admission = await replicas.start(Ledger(), store_timeout_ms=PATIENT_MS)
    callers = [
        new_caller(limits=Limits(parallel=1), budgets=(Budget(1_000, "total"),)) for _ in range(TENANTS)
    ]
    for caller in callers:
        lease = await admission.admit(caller, CALL, uuid4())
        with pytest.raises(RateLimited):
            await admission.admit(caller, CALL, uuid4())
        lease.settle(10, 1_000)
        await lease.wait_settled()
    assert admission.state().unsettled == 0
    for caller in callers:
        with pytest.raises(BudgetExceeded):
            await admission.admit(caller, CALL, uuid4())


async def test_a_shared_policy_is_exact_across_nodes(
    replicas: Replicas,
) -> None:
    """One script reaches every counter of a call, and the tenants' own limits hold beside it."""
    rules = LimitPolicy("global", limits=Limits(rpm=20)), LimitPolicy("tenant", limits=Limits(rpm=2))
    both = [await replicas.start(Ledger(), *rules, store_timeout_ms=PATIENT_MS) for _ in range(2)]
    callers = [new_caller() for _ in range(TENANTS)]
    for caller, most in zip(callers, [2] * 10 + [0] * 5, strict=True):
        fared = [await outcome(both[number % 2], caller) for number in range(3)]
        assert fared == ["enforced"] * most + ["rate_limit_exceeded"] * (3 - most)


async def test_runs_are_stopped_and_listed_whichever_node_has_them(replicas: Replicas) -> None:
    """Their turns are at their tenant's node, also while a shared policy counts elsewhere."""
    rules = (
        LimitPolicy("global", limits=Limits(rpm=1_000)),
        LimitPolicy("tenant", loop_guard=GuardRule(mode="stop", repeats=2)),
    )
    admission = await replicas.start(
        Ledger(), *rules, store_timeout_ms=PATIENT_MS, sealing_keys="a=a-secret-of-thirty-two-characters"
    )
    runs = [replace(new_caller(), run_id=f"run-{number}") for number in range(TENANTS)]
    for caller in runs:
        for step in range(2):
            lease = await admission.admit(caller, repeated_call(step), uuid4())
            lease.settle(10, 1_000, answered=True)
            await lease.wait_settled()
        with pytest.raises(AgentLoopDetected):
            await admission.admit(caller, repeated_call(2), uuid4())
    listed = {one["tenant"] for one in await admission.guard.quarantined()}
    assert {one.tenant for one in runs} <= listed
    for caller in runs:
        assert await admission.guard.release(RunName(caller.tenant, caller.key_id, caller.run_id or ""))


async def test_a_cluster_unreachable_at_start_is_recognised_later(
    cluster: Cluster,
) -> None:
    """Keys of two slots went to one node, which rejected them; settlements arrive too."""
    rules = (
        LimitPolicy("global", limits=Limits(rpm=1_000), budgets=(Budget(10**9, "day"),)),
        LimitPolicy("tenant"),
    )
    ledger, callers, replicas = Ledger(), [new_caller() for _ in range(TENANTS)], Replicas(cluster.url)
    for port in cluster.ports:
        cluster.kill(port)
    try:
        admission = await replicas.start(ledger, *rules, budgets_on_store_failure="allow")
        assert {await outcome(admission, one) for one in callers} == {"local"}
    finally:
        for port in cluster.ports:
            cluster.revive(port)
    for one in callers:
        await until("enforced", admission, one, within_s=20)
    async with asyncio.timeout(5):
        while admission.state().unsettled:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.02)
    await replicas.stop()


async def test_a_moved_slot_is_followed(cluster: Cluster, replicas: Replicas) -> None:
    """A call waits while it moves, as long as the store's timeout."""
    admission = await replicas.start(store_timeout_ms=PATIENT_MS)
    moving, staying = (new_caller(limits=Limits(rpm=60)) for _ in range(2))
    assert [await outcome(admission, one) for one in (moving, moving, staying)] == ["enforced"] * 3
    meanwhile: list[asyncio.Task[str]] = []

    async def called() -> None:
        meanwhile.append(asyncio.create_task(outcome(admission, moving)))
        await asyncio.sleep(0.05)
        assert not meanwhile[0].done()

    await cluster.move(epoch_key(moving.tenant), called)
    assert await meanwhile[0] == "enforced"
    headers = dict((await admission.admit(moving, CALL, uuid4())).headers)
    assert headers[b"x-llm-proxy-limits"] == b"enforced"
    assert headers[b"x-ratelimit-remaining-requests"] == b"56"
    assert await outcome(admission, staying) == "enforced"


async def test_a_key_of_a_moving_slot_is_asked_for_at_its_new_node(cluster: Cluster) -> None:
    """The old node says ASK for what it no longer has, and the table of slots stays as it is."""
    store = RedisBackend(cluster.url, timeout_s=5)
    await store.start()
    key = f"lp:{tenant_tag(uuid4().hex)}:m:key:k"
    old, there = await cluster.owner(key), list[int]()

    async def seeded() -> None:
        await store.seed(key, 7)
        there.append(await cluster.ask(old, "CLUSTER", "COUNTKEYSINSLOT", key_slot(key.encode())))
        assert store.cluster.connection_for(key) is known

    known = store.cluster.connection_for(key)
    await cluster.move(key, seeded)
    assert there == [0]
    assert await cluster.ask(await cluster.owner(key), "HGET", key, "spent") == b"7"
    await store.stop()


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
async def test_a_list_of_nodes_needs_one_that_is_alive(cluster: Cluster, scheme: str) -> None:
    """The others are found from it."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in (1, *cluster.ports[1:]))
    replicas = Replicas(f"{scheme}://:{PASSWORD}@{hosts}")
    admission = await replicas.start(store_timeout_ms=PATIENT_MS)
    assert {await outcome(admission, new_caller()) for _ in range(TENANTS)} == {"enforced"}
    await replicas.stop()


async def test_only_tenants_of_a_dead_node_fall_back(cluster: Cluster, replicas: Replicas) -> None:
    """And it is used again when it is back."""
    admission = await replicas.start(store_timeout_ms=PATIENT_MS)
    callers = [new_caller(limits=Limits(rpm=100_000)) for _ in range(TENANTS)]
    dead = cluster.ports[2]
    owners = [await cluster.owner(epoch_key(one.tenant)) for one in callers]
    there = [one for one, port in zip(callers, owners, strict=True) if port == dead]
    elsewhere = [one for one in callers if one not in there]
    assert there
    assert elsewhere
    cluster.kill(dead)
    try:
        for one in there:
            await until("local", admission, one)
        for one in elsewhere:
            await until("enforced", admission, one)
        assert admission.state().store == "away"
    finally:
        cluster.revive(dead)
    for one in callers:
        await until("enforced", admission, one, within_s=20)


async def test_a_share_of_a_budget_is_given_once_while_its_node_is_dead(
    cluster: Cluster,
) -> None:
    """Other nodes answer the heartbeat, and that does not end the outage."""
    store, fallback = RedisBackend(cluster.url, timeout_s=1), FallbackLimiter(1)
    heartbeat = Heartbeat(store, "here", ActiveLeases(), fallback)
    await store.start()
    owners = {tenant: await cluster.owner(tenant_tag(tenant)) for tenant in map(str, range(TENANTS))}
    beats_at = await cluster.owner(REPLICAS_KEY)
    tenant, dead = next((one, port) for one, port in owners.items() if port != beats_at)
    key = f"lp:{tenant_tag(tenant)}:m:key:k"
    check = LimitCheck("budget", "key", "key k", key, 100, on_store_failure="local")
    ask = LimiterRequest(
        LimitPlan(tenant, tenant_tag(tenant), (check,), 0), (100,), NO_EPOCH, "lease", 30_000
    )
    await store.seed(key, 0)
    looked = ask._replace(reserve=False)
    fallback.record_result(looked, await store.reserve(looked))
    cluster.kill(dead)
    try:
        while store.is_available:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.02)
        fared: list[int] = []
        for lease in ("a", "b"):
            _, answer, _ = await fallback.reserve(ask._replace(lease_id=lease))
            fared.append(answer.status)
            await heartbeat.beat()
        assert fared == [ADMITTED, REJECTED]
    finally:
        cluster.revive(dead)
        await store.stop()


async def test_a_node_that_evicts_is_rejected(cluster: Cluster) -> None:
    """Whichever it is."""
    await require_noeviction(cluster.url)
    await cluster.ask(cluster.ports[2], "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(EvictionEnabled):
            await require_noeviction(cluster.url)
    finally:
        await cluster.ask(cluster.ports[2], "CONFIG", "SET", "maxmemory-policy", "noeviction")
