"""What a call reserved in a real Valkey is settled or expires: lost replies, a stalled store."""

import asyncio
import contextlib
import time
from uuid import uuid4

import pytest
from stages.admission.limiter_outages import CALL, PATIENT_MS, Ledger, OwnValkey, Replicas, outcome, somebody

from llm_proxy.admission import AdmissionController, LimitStatus, current_limits
from llm_proxy.admission.limiter import (
    ADMITTED,
    NO_EPOCH,
    LimitCheck,
    LimiterRequest,
    LimiterResult,
    LimitPlan,
)
from llm_proxy.admission.redis.backend import RedisBackend
from llm_proxy.errors import StoreUnavailable
from llm_proxy.identity import Budget, Caller, Limits

LIMITS = Limits(tpm=100_000, parallel=100)


async def standings(admission: AdmissionController, caller: Caller) -> dict[str, LimitStatus]:
    """Where a caller stands, by kind."""
    found = (await current_limits(admission, caller)).limit_statuses
    return {one.check.kind: one for one in found if one.check.scope == "key"}


async def until_nothing_is_held(admission: AdmissionController, caller: Caller) -> None:
    """Waits until no token, place or money is counted."""
    end = time.monotonic() + 5
    while True:
        found = await standings(admission, caller)
        if not any(one.used or one.held or one.running for one in found.values()):
            return
        assert time.monotonic() < end, found
        await asyncio.sleep(0.02)


@pytest.fixture
def caller() -> Caller:
    """Somebody with a limit of each kind."""
    return somebody(limits=LIMITS, budgets=(Budget(10**9, "day"),))


async def test_a_reply_that_comes_in_one_turn_of_the_loop_with_a_cancellation_is_not_lost(
    own: OwnValkey,
) -> None:
    """The store has reserved, and the caller's task never hears of it: whoever returns such things does."""
    store = RedisBackend(own.url, timeout_s=5)
    await store.start()
    check = LimitCheck("budget", "key", "key k", "test:{t}:m", 500)
    await store.seed(check.key, 0)
    ask = LimiterRequest(LimitPlan("t", "{t}", (check,), 0), (70,), NO_EPOCH, "lease", 30_000)
    returned: list[LimiterResult] = []
    asking = asyncio.create_task(store.reserve(ask, returned.append))
    earlier = store.cluster.connection_for(check.key).execute(
        "PING"
    )  # sent in one write with the question, and so answered
    earlier.add_done_callback(lambda _: asking.cancel())
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert [one.status for one in returned] == [ADMITTED]
    assert (await store.reserve(ask._replace(reserve=False))).extra == (70,)
    await store.stop()


async def test_a_store_that_stood_still_and_lost_everything_keeps_no_reservation(
    own: OwnValkey, replicas: Replicas, caller: Caller
) -> None:
    """Calls ran when it stopped, others asked while it stood; then it goes on, empty."""
    admission = await replicas.start(Ledger(spent=0), limits_on_store_failure="local",
                                     budgets_on_store_failure="local", store_timeout_ms=200)  # fmt: skip
    assert await outcome(admission, caller) == "enforced"
    running = [await admission.admit(caller, CALL, uuid4()) for _ in range(3)]
    own.freeze()
    asking = [asyncio.create_task(outcome(admission, caller)) for _ in range(5)]
    running[0].settle(0, 0)
    await asyncio.gather(*asking)
    began = time.monotonic()
    await running[0].wait_settled()
    assert time.monotonic() - began < 0.1  # nobody waits for a store that is known to be away
    own.thaw()
    await own.ask("FLUSHALL")
    for lease in running:
        lease.settle(0, 0)
        await lease.wait_settled()
    await until_nothing_is_held(admission, caller)


async def test_a_call_that_nobody_heard_of_counts_in_no_budget(own: OwnValkey, replicas: Replicas) -> None:
    """In none of calls either: it left no record, and a counter rebuilt from the ledger has none of it."""
    admission = await replicas.start(Ledger(spent=0), store_timeout_ms=200)
    caller = somebody(budgets=(Budget(10**9, "day"), Budget(10, "day", unit="requests")))
    assert await outcome(admission, caller) == "enforced"
    own.freeze()
    assert await outcome(admission, caller) == "store_unavailable"
    own.thaw()
    end = time.monotonic() + 5
    while True:
        with contextlib.suppress(StoreUnavailable):
            found = (await current_limits(admission, caller)).limit_statuses
            if not admission.state().unsettled and not any(one.held or one.running for one in found):
                break
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    assert {one.check.unit: one.used for one in found} == {"usd": 10, "requests": 1}


async def test_what_a_replica_reserved_that_died_expires(
    own: OwnValkey, replicas: Replicas, caller: Caller
) -> None:
    """By the store's own clock, after half a minute without a sign of life."""
    admission = await replicas.start(Ledger(spent=0), store_timeout_ms=PATIENT_MS)
    assert await outcome(admission, caller) == "enforced"
    (key,) = await own.ask("KEYS", "lp:*:m:*")
    now_ms = int(time.time() * 1000)
    await own.ask("HSET", key, "l:dead", f"70:{now_ms + 200}", "held", "70", "running", "1")
    await own.ask("HSET", key, "first", str(now_ms + 200))
    assert (await standings(admission, caller))["budget"].held == 70
    await asyncio.sleep(0.3)
    found = (await standings(admission, caller))["budget"]
    assert (found.used, found.held, found.running) == (10, 0, 0)
