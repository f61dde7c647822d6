"""What a call reserved in a real Valkey is settled or expires: lost replies, a stalled store."""

import asyncio
import contextlib
import time
from uuid import uuid4

import pytest
from stages.admission.limiter_outages import (
    CALL,
    PATIENT_MS,
    Ledger,
    OwnValkey,
    Replicas,
    new_caller,
    outcome,
)

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


async def statuses(admission: AdmissionController, caller: Caller) -> dict[str, LimitStatus]:
    """Where a caller stands, by kind."""
    found = (await current_limits(admission, caller)).limit_statuses
    return {one.check.kind: one for one in found if one.check.scope == "key"}


async def until_nothing_is_held(admission: AdmissionController, caller: Caller) -> None:
    """Waits until no token, slot or money is counted."""
    end = time.monotonic() + 5
    while True:
        found = await statuses(admission, caller)
        if not any(one.used or one.held or one.running for one in found.values()):
            return
        assert time.monotonic() < end, found
        await asyncio.sleep(0.02)


@pytest.fixture
def caller() -> Caller:
    """A caller with a limit of each kind."""
    return new_caller(limits=LIMITS, budgets=(Budget(10**9, "day"),))


async def test_a_reply_in_the_same_loop_cycle_as_a_cancellation_is_undone(
    own: OwnValkey,
) -> None:
    """The store has reserved, and the caller's task never sees the reply."""
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


async def test_a_stalled_store_that_lost_everything_keeps_no_reservation(
    own: OwnValkey, replicas: Replicas, caller: Caller
) -> None:
    """Calls ran when it stalled, others were sent meanwhile; then it continues, empty."""
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


async def test_an_undone_call_counts_in_no_budget(own: OwnValkey, replicas: Replicas) -> None:
    """Not in one of requests either: it has no record."""
    admission = await replicas.start(Ledger(spent=0), store_timeout_ms=200)
    caller = new_caller(budgets=(Budget(10**9, "day"), Budget(10, "day", unit="requests")))
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


async def test_reservations_of_a_dead_replica_expire(
    own: OwnValkey, replicas: Replicas, caller: Caller
) -> None:
    """By the store's own clock, after 30 s without a renewal."""
    admission = await replicas.start(Ledger(spent=0), store_timeout_ms=PATIENT_MS)
    assert await outcome(admission, caller) == "enforced"
    (key,) = await own.ask("KEYS", "lp:*:m:*")
    now_ms = int(time.time() * 1000)
    await own.ask("HSET", key, "l:dead", f"70:{now_ms + 200}", "held", "70", "running", "1")
    await own.ask("HSET", key, "first", str(now_ms + 200))
    assert (await statuses(admission, caller))["budget"].held == 70
    await asyncio.sleep(0.3)
    found = (await statuses(admission, caller))["budget"]
    assert (found.used, found.held, found.running) == (10, 0, 0)
