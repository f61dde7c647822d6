"""Limits while the store is killed or frozen, and after it is back."""

import asyncio
import time
from uuid import uuid4

import pytest
from stages.admission.limiter_outages import CALL, PATIENT_MS, OwnValkey, Replicas, outcome, somebody, until

from llm_proxy.errors import RateLimited, StoreUnavailable
from llm_proxy.identity import Limits


@pytest.mark.parametrize("hurt", ["kill", "freeze"])
@pytest.mark.parametrize(
    ("policy", "fares"), [("deny", "store_unavailable"), ("local", "local"), ("allow", "allow")]
)
async def test_limits_follow_their_policy_while_the_store_is_gone_and_recover_when_it_is_back(
    own: OwnValkey, replicas: Replicas, hurt: str, policy: str, fares: str
) -> None:
    """Killed or frozen; no call waits longer than the deadline; health tells."""
    admission = await replicas.start(limits_on_store_failure=policy)
    caller = somebody(limits=Limits(rpm=100_000))
    await until("enforced", admission, caller)
    own.kill() if hurt == "kill" else own.freeze()
    began = time.monotonic()
    assert await until(fares, admission, caller) < 1
    assert await outcome(admission, caller) == fares
    assert time.monotonic() - began < 1
    if policy == "deny":
        with pytest.raises(StoreUnavailable) as denied:
            await admission.admit(caller, CALL, uuid4())
        assert ("x-llm-proxy-limits", "deny") in denied.value.headers
    state = admission.state()
    assert (state.store, state.denies_all) == ("away", policy == "deny")
    own.start() if hurt == "kill" else own.thaw()
    await until("enforced", admission, caller)
    assert admission.state().store == "up"


async def test_a_store_that_is_away_at_the_start_is_found_when_it_comes(
    own: OwnValkey, replicas: Replicas
) -> None:
    """The gateway starts degraded."""
    own.kill()
    admission = await replicas.start()
    caller = somebody(agent="scout")
    assert await outcome(admission, caller) == "local"
    own.start()
    await until("enforced", admission, caller)


async def test_local_is_this_replicas_share_by_the_replicas_that_lived(
    own: OwnValkey, replicas: Replicas
) -> None:
    """Ten a minute shared by three are three each, the one the store had admitted among them."""
    three = [await replicas.start(store_timeout_ms=PATIENT_MS) for _ in range(3)]
    caller = somebody(agent="scout")
    assert await outcome(three[-1], caller) == "enforced"
    own.kill()
    await until("local", three[-1], caller)
    fared = [await outcome(three[-1], caller) for _ in range(10)]
    assert fared == ["local", *["rate_limit_exceeded"] * 9]


async def test_a_window_known_to_be_full_stays_full_while_the_store_is_gone(
    own: OwnValkey, replicas: Replicas
) -> None:
    """An outage opens no new window for whoever has used up the old one."""
    admission = await replicas.start(store_timeout_ms=PATIENT_MS)
    caller = somebody(agent="scout")
    for _ in range(10):
        await admission.admit(caller, CALL, uuid4())
    with pytest.raises(RateLimited):
        await admission.admit(caller, CALL, uuid4())
    own.kill()
    await asyncio.sleep(0.1)
    assert await outcome(admission, caller) == "rate_limit_exceeded"


async def test_what_a_frozen_store_grants_too_late_is_returned(own: OwnValkey, replicas: Replicas) -> None:
    """A parallel place given to a call that had gone elsewhere is free again."""
    admission = await replicas.start()
    caller = somebody(limits=Limits(parallel=1))
    own.freeze()
    lease = await admission.admit(caller, CALL, uuid4())
    assert dict(lease.headers)[b"x-llm-proxy-limits"] == b"local"
    lease.settle(10, None)
    own.thaw()
    await until("enforced", admission, caller)


async def test_places_of_a_replica_that_died_are_free_after_their_time(
    own: OwnValkey, replicas: Replicas
) -> None:
    """Nobody keeps them; the store forgets them by itself."""
    dying, living = [await replicas.start(store_timeout_ms=PATIENT_MS) for _ in range(2)]
    caller = somebody(limits=Limits(parallel=1))
    await dying.admit(caller, CALL, uuid4())
    assert await outcome(living, caller) == "rate_limit_exceeded"
    keys = await own.ask("KEYS", "lp:*:p:*")
    assert 0 < await own.ask("PTTL", keys[0]) <= 30_000


async def test_the_place_of_a_running_call_is_taken_again_in_a_store_that_was_emptied(
    own: OwnValkey, replicas: Replicas
) -> None:
    """By the next heartbeat; and free when the call has ended."""
    admission = await replicas.start(store_timeout_ms=PATIENT_MS)
    caller = somebody(limits=Limits(parallel=1))
    running = await admission.admit(caller, CALL, uuid4())
    await own.ask("FLUSHALL")
    end = time.monotonic() + 10
    while not await own.ask("KEYS", "lp:*:p:*"):
        assert time.monotonic() < end
        await asyncio.sleep(0.1)
    assert await outcome(admission, caller) == "rate_limit_exceeded"
    running.settle(10, None)
    await running.wait_settled()
    assert await outcome(admission, caller) == "enforced"


async def test_a_store_that_was_demoted_is_away_until_the_address_leads_to_a_primary(
    own: OwnValkey, replicas: Replicas
) -> None:
    """As after a failover: what may only be read is no store of limits, and its connection is let go."""
    admission = await replicas.start(store_timeout_ms=PATIENT_MS)
    caller = somebody(limits=Limits(rpm=100_000))
    assert await outcome(admission, caller) == "enforced"
    before = await own.ask("CLIENT", "LIST", "TYPE", "normal")
    await own.ask("REPLICAOF", "127.0.0.1", "1")
    await until("local", admission, caller)
    await asyncio.sleep(0.2)
    after = await own.ask("CLIENT", "LIST", "TYPE", "normal")
    assert ids(before).isdisjoint(ids(after))
    await own.ask("REPLICAOF", "NO", "ONE")
    await until("enforced", admission, caller)


def ids(clients: bytes) -> set[bytes]:
    """Which connections there are."""
    return {line.split(b" ", 1)[0] for line in clients.splitlines()}
