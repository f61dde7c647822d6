"""Limits while the store is killed or frozen, and after it is back."""

import asyncio
import contextlib
import time
from dataclasses import replace
from uuid import uuid4

import pytest
from stages.admission.limiter_outages import CALL, PATIENT_MS, OwnValkey, Replicas, new_caller, outcome, until

from llm_proxy.admission.redis.connection import RedisConnection
from llm_proxy.errors import RateLimited, StoreUnavailable
from llm_proxy.identity import Budget, LimitPolicy, Limits


@pytest.mark.parametrize("hurt", ["kill", "freeze"])
@pytest.mark.parametrize(
    ("policy", "fares"), [("deny", "store_unavailable"), ("local", "local"), ("allow", "allow")]
)
async def test_limits_follow_their_policy_during_an_outage_and_recover(
    own: OwnValkey, replicas: Replicas, hurt: str, policy: str, fares: str
) -> None:
    """Killed or frozen; no call waits longer than the timeout; health shows it."""
    admission = await replicas.start(limits_on_store_failure=policy)
    caller = new_caller(limits=Limits(rpm=100_000))
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


async def test_a_store_unreachable_at_start_is_used_when_it_is_there(
    own: OwnValkey, replicas: Replicas
) -> None:
    """The gateway starts degraded."""
    own.kill()
    admission = await replicas.start()
    caller = new_caller(agent="scout")
    assert await outcome(admission, caller) == "local"
    own.start()
    await until("enforced", admission, caller)


async def test_local_is_a_share_by_the_number_of_live_replicas(own: OwnValkey, replicas: Replicas) -> None:
    """Ten a minute shared by three are three each, the one the store had admitted among them."""
    three = [await replicas.start(store_timeout_ms=PATIENT_MS) for _ in range(3)]
    caller = new_caller(agent="scout")
    assert await outcome(three[-1], caller) == "enforced"
    own.kill()
    await until("local", three[-1], caller)
    fared = [await outcome(three[-1], caller) for _ in range(10)]
    assert fared == ["local", *["rate_limit_exceeded"] * 9]


async def test_an_exhausted_window_stays_exhausted_during_an_outage(
    own: OwnValkey, replicas: Replicas
) -> None:
    """An outage opens no new window."""
    admission = await replicas.start(store_timeout_ms=PATIENT_MS)
    caller = new_caller(agent="scout")
    for _ in range(10):
        await admission.admit(caller, CALL, uuid4())
    with pytest.raises(RateLimited):
        await admission.admit(caller, CALL, uuid4())
    own.kill()
    await asyncio.sleep(0.1)
    assert await outcome(admission, caller) == "rate_limit_exceeded"


async def test_a_late_reservation_of_a_frozen_store_is_undone(own: OwnValkey, replicas: Replicas) -> None:
    """Its slot is free again."""
    admission = await replicas.start()
    caller = new_caller(limits=Limits(parallel=1))
    own.freeze()
    lease = await admission.admit(caller, CALL, uuid4())
    assert dict(lease.headers)[b"x-llm-proxy-limits"] == b"local"
    lease.settle(10, None)
    own.thaw()
    await until("enforced", admission, caller)


async def test_slots_of_a_dead_replica_expire(own: OwnValkey, replicas: Replicas) -> None:
    """They are not renewed."""
    dying, leases = [await replicas.start(store_timeout_ms=PATIENT_MS) for _ in range(2)]
    caller = new_caller(limits=Limits(parallel=1))
    await dying.admit(caller, CALL, uuid4())
    assert await outcome(leases, caller) == "rate_limit_exceeded"
    keys = await own.ask("KEYS", "lp:*:p:*")
    assert 0 < await own.ask("PTTL", keys[0]) <= 30_000


async def test_the_slot_of_a_running_call_is_taken_again_in_an_emptied_store(
    own: OwnValkey, replicas: Replicas
) -> None:
    """By the next heartbeat; and free when the call has ended."""
    admission = await replicas.start(store_timeout_ms=PATIENT_MS)
    caller = new_caller(limits=Limits(parallel=1))
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


async def test_a_demoted_store_is_unavailable_until_the_address_leads_to_a_primary(
    own: OwnValkey, replicas: Replicas
) -> None:
    """As after a failover: its connection is closed."""
    admission = await replicas.start(store_timeout_ms=PATIENT_MS)
    caller = new_caller(limits=Limits(rpm=100_000))
    assert await outcome(admission, caller) == "enforced"
    before = await own.ask("CLIENT", "LIST", "TYPE", "normal")
    await own.ask("REPLICAOF", "127.0.0.1", "1")
    await until("local", admission, caller)
    await asyncio.sleep(0.2)
    after = await own.ask("CLIENT", "LIST", "TYPE", "normal")
    assert ids(before).isdisjoint(ids(after))
    await own.ask("REPLICAOF", "NO", "ONE")
    await until("enforced", admission, caller)


async def test_a_changed_password_is_told_while_the_gateway_runs(
    own: OwnValkey, replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    """Once in the log, and in the state that health shows, until the store takes the old one again."""
    admission = await replicas.start(store_timeout_ms=PATIENT_MS)
    caller, old = new_caller(limits=Limits(rpm=100_000)), "only-for-this-test"
    assert await outcome(admission, caller) == "enforced"
    wire = RedisConnection(own.url, timeout_s=5, load_commands=list)
    await wire.start()
    await wire.execute("CONFIG", "SET", "requirepass", "S3cretPart")
    await wire.execute("CLIENT", "KILL", "TYPE", "normal")
    await until("local", admission, caller)
    async with asyncio.timeout(10):
        while not admission.state().fault:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)
    assert admission.state().fault == "it refuses this user or password"
    told = [record for record in caplog.records if record.message == "the limits store cannot be reached"]
    assert [record.__dict__["why"] for record in told] == ["it refuses this user or password"]
    assert not any(word in str(record.__dict__) for record in caplog.records for word in ("S3cretPart", old))
    await wire.execute("CONFIG", "SET", "requirepass", old)
    await until("enforced", admission, caller)
    assert (admission.state().store, admission.state().fault) == ("up", "")
    await wire.stop()


async def test_a_removed_user_is_told_although_its_connection_lives(own: OwnValkey) -> None:
    """A command that the server no longer takes makes the gateway log in again, which tells."""
    wire = RedisConnection(own.url, timeout_s=5, load_commands=list)
    await wire.start()
    await wire.execute("ACL", "SETUSER", "gateway", "on", ">word", "~*", "+@all")
    replicas = Replicas(own.url.replace("//:only-for-this-test", "//gateway:word"))
    admission = await replicas.start(store_timeout_ms=PATIENT_MS)
    caller = new_caller(limits=Limits(rpm=100_000))
    assert await outcome(admission, caller) == "enforced"
    await wire.execute("ACL", "DELUSER", "gateway")
    await until("local", admission, caller)
    async with asyncio.timeout(10):
        while admission.state().fault != "it refuses this user or password":  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.02)
    await replicas.stop()
    await wire.stop()


def ids(clients: bytes) -> set[bytes]:
    """The ids of its connections."""
    return {line.split(b" ", 1)[0] for line in clients.splitlines()}


async def test_a_run_goes_on_within_its_share_during_an_outage_and_its_calls_count_after_it(
    own: OwnValkey, replicas: Replicas
) -> None:
    """The default: `local`. What ran meanwhile is settled in the store, also of a run it did not know."""
    rule = LimitPolicy("run", budgets=(Budget(4, "total", unit="requests"),), duration_s=3600)
    admission = await replicas.start(None, rule, store_timeout_ms=PATIENT_MS)
    known, unknown = (replace(new_caller(), run_id=name) for name in ("known", "unknown"))
    for _ in range(2):
        assert await outcome(admission, known) == "enforced"
    own.kill()
    assert await until("local", admission, known) < PATIENT_MS / 1000
    fared = [await outcome(admission, known) for _ in range(2)]
    assert fared == ["local", "rate_limit_exceeded"]
    assert await outcome(admission, unknown) == "local"
    own.start()
    await until("enforced", admission, replace(new_caller(), run_id="other"))
    async with asyncio.timeout(5):
        while admission.state().unsettled:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.02)
    admitted = 0
    while await outcome(admission, unknown) == "enforced":
        admitted += 1
    assert admitted == 3


@pytest.mark.parametrize("calls", [(0, 6), (1, 5), (2, 1, 2, 1), (0, 2, 3, 1), (3, 0, 3), (1, 2, 0, 3)])
async def test_a_run_has_exactly_its_calls_over_any_outages_of_one_replica(
    own: OwnValkey, replicas: Replicas, calls: tuple[int, ...]
) -> None:
    """With the store and without it, by turns: what either counted last is known to the other."""
    rule = LimitPolicy("run", budgets=(Budget(sum(calls), "total", unit="requests"),))
    admission = await replicas.start(None, rule, store_timeout_ms=300)
    run, other = (replace(new_caller(), run_id=name) for name in ("r", "other"))
    for at, many in enumerate(calls):
        away = at % 2 == 1
        if at:
            (own.freeze if away else own.thaw)()
        await until("local" if away else "enforced", admission, replace(other, run_id=f"other-{at}"))
        async with asyncio.timeout(5):
            while not away and admission.state().unsettled:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.02)
        expected = "local" if away else "enforced"
        assert [await outcome(admission, run) for _ in range(many)] == [expected] * many
    assert await outcome(admission, run) in {"rate_limit_exceeded", "run_budget_exceeded"}


async def test_a_store_that_lost_its_data_begins_every_run_anew(own: OwnValkey, replicas: Replicas) -> None:
    """A run's limits are a guard: nothing is read from the ledger for them."""
    rule = LimitPolicy("run", budgets=(Budget(1, "total", unit="turns"),))
    admission = await replicas.start(None, rule, store_timeout_ms=PATIENT_MS)
    caller = replace(new_caller(), run_id="r")
    assert await outcome(admission, caller) == "enforced"
    await until("run_budget_exceeded", admission, caller)
    await own.ask("FLUSHALL")
    assert await outcome(admission, caller) == "enforced"


@pytest.mark.parametrize(
    ("said", "why"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "what answers there is no Redis"), (b"+OK\r\n" * 9, "")],
)
async def test_what_is_no_redis_is_left(said: bytes, why: str, caplog: pytest.LogCaptureFixture) -> None:
    """A web server, or what answers more than it was asked; asyncio has nothing to report."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(1)
            writer.write(said)
            await reader.read()
        writer.close()
        ended.set()

    ended = asyncio.Event()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        wire = RedisConnection(f"redis://:a-password@127.0.0.1:{port}/0", timeout_s=1, load_commands=list)
        await wire.start()
        fault = wire.fault
        await wire.stop()
        await ended.wait()
        await asyncio.sleep(0)
    assert (wire.is_available, fault) == (False, why)
    assert not [one for one in caplog.records if one.name == "asyncio"]
