"""Admission on a real Valkey: exact across replicas, slots released, settlements delivered."""

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from stages.admission.limiter_outages import FixedPolicies, build_admission, settings_of

from llm_proxy.admission import AdmissionController, LimitStatus, current_limits
from llm_proxy.admission.lease import Lease
from llm_proxy.admission.redis.backend import EvictionEnabled, require_noeviction
from llm_proxy.dialects import Call
from llm_proxy.errors import ModelNotFound, RateLimited
from llm_proxy.identity import ANY, Caller, LimitPolicy, Limits, PolicySnapshot
from llm_proxy.identity.caller import CallerKind

CALL = Call("chat.completions", "openai", "gpt", "gpt", {}, prompt_bytes=400, max_tokens=100)
REPLICAS, CLIENTS = 3, 200


@pytest.fixture
def tenant() -> str:
    """A tenant of this test's own."""
    return f"tenant-{uuid4().hex}"


@pytest.fixture
async def admission(limits_redis_url: str) -> AsyncIterator[AdmissionController]:
    """A replica with its default rules."""
    made = replica(limits_redis_url)
    await made.start()
    yield made
    await made.stop()


def replica(url: str, *rules: LimitPolicy) -> AdmissionController:
    """A replica that counts at this address."""
    return build_admission(
        settings_of(limits_redis_url=url, default_models=("gpt", "m"), store_timeout_ms=5_000),
        policy_source=FixedPolicies(PolicySnapshot(rules, epochs={ANY: 1})) if rules else None,
    )


async def admit(admission: AdmissionController, caller: Caller, call: Call = CALL) -> Lease:
    """A lease."""
    return await admission.admit(caller, call, uuid4())


async def test_three_replicas_and_two_hundred_clients_admit_exactly_ten_a_minute(
    limits_redis_url: str, tenant: str
) -> None:
    """Not nine, not eleven, however they race."""
    program, share = Path(__file__).with_name("admission_replica.py"), CLIENTS // REPLICAS + 1
    running = [
        await asyncio.create_subprocess_exec(
            sys.executable, program, limits_redis_url, tenant, "scout", str(share),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(REPLICAS)
    ]  # fmt: skip
    outputs = await asyncio.gather(*(one.communicate(b"\n") for one in running))
    counts = [tuple(map(int, out.split())) for out, _ in outputs]
    assert sum(admitted for admitted, _ in counts) == 10
    assert sum(rejected for _, rejected in counts) == 2 * share * REPLICAS - 10


async def test_headers_show_what_is_left_and_errors_when_to_retry(
    admission: AdmissionController, tenant: str
) -> None:
    """In OpenAI's headers."""
    caller = Caller("k", "internal", tenant=tenant, agent="scout")
    leases = [await admit(admission, caller) for _ in range(10)]
    assert [dict(lease.headers)[b"x-ratelimit-remaining-requests"] for lease in leases] == [
        b"%d" % left for left in range(9, -1, -1)
    ]
    for _ in range(2):  # the second time without asking the store
        with pytest.raises(RateLimited) as rejected:
            await admit(admission, caller)
        assert rejected.value.retry_after_s is not None
        assert 55 < rejected.value.retry_after_s <= 60
        assert dict(rejected.value.headers)["x-ratelimit-remaining-requests"] == "0"


async def test_one_agent_does_not_starve_another(admission: AdmissionController, tenant: str) -> None:
    """Each has its own ten."""
    for _ in range(10):
        await admit(admission, Caller("k", "internal", tenant=tenant, agent="greedy"))
    lease = await admit(admission, Caller("k", "internal", tenant=tenant, agent="modest"))
    assert dict(lease.headers)[b"x-ratelimit-remaining-requests"] == b"9"


async def test_a_sequential_caller_with_one_slot_is_never_rejected(
    admission: AdmissionController, tenant: str
) -> None:
    """The slot is released before the answer's last byte."""
    caller = Caller("k", "internal", tenant=tenant, limits=Limits(parallel=1))
    for _ in range(200):
        lease = await admit(admission, caller)
        lease.settle(10, None)
        await lease.wait_settled()
    found = (await current_limits(admission, caller)).limit_statuses
    assert [one.used for one in found if one.check.kind == "parallel"] == [0]


async def test_a_settlement_is_sent_before_what_follows_it_and_waited_for_where_a_limit_is_tight(
    admission: AdmissionController, limits_redis_url: str, tenant: str
) -> None:
    """An answer's caller never meets its own call: at this replica, though nobody waits for the settlement.

    At another replica where the settlement was waited for, or has room beside the call.
    """
    other = replica(limits_redis_url)
    await other.start()
    one_slot = Caller("k", "internal", tenant=tenant, limits=Limits(parallel=1))
    lease = await admit(other, one_slot)
    for _ in range(100):
        assert lease.is_tight
        lease.settle(10, None)
        lease = await admit(other, one_slot)
    lease.settle(10, None)
    await other.stop()  # it does not leave before the store has its settlements
    found = (await current_limits(admission, one_slot)).limit_statuses
    assert [one.used for one in found if one.check.kind == "parallel"] == [0]
    for limits in (Limits(parallel=2), Limits(tpm=400)):  # a call takes 200 tokens
        caller = Caller(f"{limits}", "internal", tenant=tenant, limits=limits)
        first, second = await admit(admission, caller), await admit(admission, caller)
        assert (first.is_tight, second.is_tight) == (False, True)
        first.settle(0, None)
        second.settle(0, None)


async def test_a_second_parallel_call_is_rejected_while_the_only_slot_is_taken(
    admission: AdmissionController, tenant: str
) -> None:
    """And admitted once the first has settled."""
    caller = Caller("k", "internal", tenant=tenant, limits=Limits(parallel=1))
    first = await admit(admission, caller)
    with pytest.raises(RateLimited):
        await admit(admission, caller)
    first.settle(None, None)
    await first.wait_settled()
    second = await admit(admission, caller)
    with pytest.raises(RateLimited):
        await admit(admission, caller)
    first.settle(0, 0)
    with pytest.raises(RateLimited):
        await admit(admission, caller)
    second.settle(0, 0)
    await second.wait_settled()
    assert await admit(admission, caller)


async def test_settlements_in_any_order_leave_exactly_what_was_used(
    admission: AdmissionController, tenant: str
) -> None:
    """When all calls have ended."""
    caller = Caller("k", "internal", tenant=tenant, limits=Limits(tpm=1_000_000))
    leases = [await admit(admission, caller) for _ in range(60)]
    truths = [7 * number % 391 for number in range(60)]
    order = sorted(range(60), key=lambda number: (number * 37) % 60)
    for number in order:
        leases[number].settle(truths[number], None)
        leases[number].settle(99_999, None)
        await leases[number].wait_settled()
    (tokens,) = (await current_limits(admission, caller)).limit_statuses
    assert tokens.used == sum(truths)


async def test_a_call_of_unknown_tokens_keeps_its_reservation(
    admission: AdmissionController, tenant: str
) -> None:
    """Unknown is not 0."""
    caller = Caller("k", "internal", tenant=tenant, limits=Limits(tpm=1_000))
    lease = await admit(admission, caller)
    lease.settle(None, None)
    await lease.wait_settled()
    (tokens,) = (await current_limits(admission, caller)).limit_statuses
    assert tokens.used == 100 + 100


async def test_a_call_larger_than_the_limit_waits_for_an_empty_window_and_no_longer(
    admission: AdmissionController, tenant: str
) -> None:
    """It takes the whole window."""
    caller = Caller("k", "internal", tenant=tenant, limits=Limits(tpm=50))
    await admit(admission, caller)
    with pytest.raises(RateLimited) as rejected:
        await admit(admission, caller)
    assert (rejected.value.error_type, rejected.value.code) == ("tokens", "rate_limit_exceeded")


async def test_a_call_cancelled_during_admission_leaves_nothing_behind(
    limits_redis_url: str, tenant: str
) -> None:
    """Its late reservation is undone."""
    admission = replica(limits_redis_url, LimitPolicy("tenant", limits=Limits(parallel=1)))
    await admission.start()
    caller = Caller("k", "internal", tenant=tenant)
    for _ in range(20):
        given_up = asyncio.create_task(admit(admission, caller))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
    await asyncio.sleep(0.3)
    assert await admit(admission, caller)
    await admission.stop()


async def test_a_model_that_is_not_allowed_is_not_found_and_not_counted(
    admission: AdmissionController, tenant: str
) -> None:
    """By the caller's own list, or the default one."""
    caller = Caller("k", "virtual", tenant=tenant, agent="scout", models=("claude-*",))
    for who, call in ((caller, CALL), (replace(caller, models=None), CALL._replace(group="claude"))):
        with pytest.raises(ModelNotFound) as rejected:
            await admit(admission, who, call)
        assert rejected.value.code == "model_not_found"
    (requests,) = (await current_limits(admission, caller)).limit_statuses
    assert requests.used == 0


@pytest.mark.parametrize("kind", ["virtual", "internal"])
async def test_a_rejection_is_the_same_from_the_store_and_from_the_cache(
    admission: AdmissionController, tenant: str, kind: CallerKind
) -> None:
    """Every figure is the store's; the waits shrink."""
    caller = Caller("k", kind, tenant=tenant, models=("gpt",), limits=Limits(rpm=2, tpm=9_000, parallel=9))
    for _ in range(2):
        lease = await admit(admission, caller)
        lease.settle(30, None)
        await lease.wait_settled()

    async def ask() -> None:
        admission.reject_if_exhausted(caller)
        await admit(admission, caller)

    headers: list[dict[str, str]] = []
    for _ in range(3):
        with pytest.raises(RateLimited) as rejected:
            await ask()
        headers.append(dict(rejected.value.headers))
    assert headers[0]["x-ratelimit-remaining-tokens"] == "8940"
    assert headers[0]["x-ratelimit-remaining-requests"] == "0"
    moving = "x-ratelimit-reset-requests"
    assert len({tuple(sorted(one.items() - {(moving, one[moving])})) for one in headers}) == 1


async def test_an_exhausted_limit_shows_that_it_would_reject(
    admission: AdmissionController, tenant: str
) -> None:
    """With the wait, and when all of it is free again."""
    caller = Caller("k", "internal", tenant=tenant, limits=Limits(rpm=3, parallel=3))
    found = dict[str, LimitStatus]()
    for used in range(4):
        found = {one.check.kind: one for one in (await current_limits(admission, caller)).limit_statuses}
        assert {(one.used, one.rejects, one.wait_ms > 0) for one in found.values()} == {
            (used, used == 3, used == 3)
        }
        if used < 3:
            await admit(admission, caller)
            await asyncio.sleep(0.02)
    requests = found["requests"]
    assert requests.reset_ms is not None
    assert 59_000 < requests.wait_ms < requests.reset_ms <= 60_000


async def test_a_shadow_limit_rejects_nothing(limits_redis_url: str, tenant: str) -> None:
    """Each call it would have rejected says so."""
    admission = replica(limits_redis_url, LimitPolicy("tenant", limits=Limits(rpm=1), mode="shadow"))
    await admission.start()
    caller = Caller("k", "internal", tenant=tenant)
    leases = [await admit(admission, caller) for _ in range(5)]
    assert [name for name, _ in leases[-1].headers] == [b"x-llm-proxy-limits"]
    assert [one.would_reject for one in leases] == [None, *["tenant:requests"] * 4]
    (requests,) = (await current_limits(admission, caller)).limit_statuses
    assert (requests.used, requests.remaining) == (1, 0)
    await admission.stop()


async def test_without_a_store_limits_hold_per_process(tenant: str) -> None:
    """Exactly."""
    admission = build_admission(settings_of(limits_redis_url=None))
    await admission.start()
    caller = Caller("k", "internal", tenant=tenant, agent="scout", limits=Limits(parallel=1))
    for _ in range(10):
        lease = await admit(admission, caller)
        lease.settle(0, 0)
        await lease.wait_settled()
    with pytest.raises(RateLimited):
        await admit(admission, caller)
    assert admission.state().store == "process"
    await admission.stop()


async def test_a_store_that_evicts_is_rejected(limits_redis_url: str, cache_redis_url: str) -> None:
    """Limits must not be evicted when memory is short."""
    await require_noeviction(limits_redis_url)
    with pytest.raises(EvictionEnabled, match="LLM_PROXY__LIMITS_REDIS_URL"):
        await require_noeviction(cache_redis_url)
    await require_noeviction("redis://127.0.0.1:1")
