"""The turns of runs: the store in Redis and the one in memory agree, and replicas share them exactly."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stages.admission.limiter_outages import PATIENT_MS, OwnValkey, Replicas, repeated_call

from llm_proxy.admission import AdmissionController
from llm_proxy.admission.fingerprints import Turn
from llm_proxy.admission.limiter import SettlementEntry
from llm_proxy.admission.loop_guard import decode_turns, encode_turn
from llm_proxy.admission.redis.backend import RedisBackend
from llm_proxy.admission.redis.turns import RedisTurns
from llm_proxy.admission.turns import MemoryTurns, RunName
from llm_proxy.errors import AgentLoopDetected
from llm_proxy.identity import Caller, LimitPolicy, Limits
from llm_proxy.identity.guard_rules import GuardMode, GuardRule

CLOCK = "local function clock() return tonumber(redis.call('GET', 'test-clock-%s')) end"
SECRET = "the-secret-that-all-replicas-share"
START_MS = 1_800_000_000_000
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 255)),
        st.tuples(st.just("end"), st.integers(0, 30), st.sampled_from("of"), st.integers(0, 10**10)),
        st.tuples(st.just("wait"), st.sampled_from([1, 999, 20_000, 60_000, 250_000])),
        st.tuples(st.just("quarantine"), st.sampled_from([1_000, 60_000])),
        st.tuples(st.just("release")),
    ),
    max_size=30,
)


class Pair:
    """Both stores, on one clock."""

    def __init__(self, backend: RedisBackend, name: str) -> None:
        self.backend, self.name, self.now_ms, self.batch = backend, name, START_MS, 0
        self.stored, self.modelled = RedisTurns(backend), MemoryTurns(lambda: self.now_ms)
        self.run = RunName(f"t{name}", "key_1", "a run / of {mine}")

    async def wait(self, by_ms: int) -> None:
        """Moves the clock."""
        self.now_ms += by_ms
        await self.backend.cluster.connection_for("").execute("SET", f"test-clock-{self.name}", self.now_ms)

    async def play(self, step: tuple[object, ...]) -> None:
        """Both do it, and answer the same."""
        match step:
            case ("add", int() as letter):
                turn = encode_turn(Turn(bytes([letter]) * 8, bytes(8), b"p" * 8, letter))
                assert await self.stored.add(self.run.key, turn) == await self.modelled.add(
                    self.run.key, turn
                )
            case ("end", int() as number, str() as outcome, int() as cost):
                self.batch += 1
                entry = SettlementEntry("turn", self.run.key, number, cost, outcome)
                await self.backend.settle(f"lp:{{t{self.name}}}:settled:x", self.batch, (entry,))
                self.modelled.end(self.run.key, number, outcome, cost)
            case ("wait", int() as by_ms):
                await self.wait(by_ms)
            case ("quarantine", int() as duration_ms):
                both = [
                    await one.quarantine(self.run, b"why", duration_ms)
                    for one in (self.stored, self.modelled)
                ]
                assert both[0] == both[1]
            case ("release",):
                assert await self.stored.release(self.run) == await self.modelled.release(self.run)
            case _:
                raise AssertionError(step)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=steps)
async def test_both_stores_agree_on_any_history(
    limits_redis_url: str, history: list[tuple[object, ...]]
) -> None:
    """Whatever is added, ended late or twice, quarantined or released."""
    name = uuid4().hex
    backend = RedisBackend(limits_redis_url, timeout_s=5, clock=CLOCK % name)
    await backend.start()
    pair = Pair(backend, name)
    try:
        await pair.wait(0)
        for step in history:
            await pair.play(step)
        await pair.play(("add", 1))
    finally:
        await pair.stored.release(pair.run)  # the list of quarantined runs is one for all who use this store
        await backend.stop()


@pytest.fixture
async def turns(limits_redis_url: str) -> AsyncIterator[RedisTurns]:
    """The store in Redis."""
    backend = RedisBackend(limits_redis_url, timeout_s=5)
    await backend.start()
    yield RedisTurns(backend)
    await backend.stop()


async def test_every_turn_is_added_once_and_in_one_order(turns: RedisTurns) -> None:
    """Three hundred at once: each sees exactly those before it; the last ninety-six are kept."""
    key = RunName("acme", "key_1", uuid4().hex).key
    turn = encode_turn(Turn(b"a" * 8, b"b" * 8, b"c" * 8, 5))
    found = await asyncio.gather(*(turns.add(key, turn) for _ in range(300)))
    assert sorted(one.number for one in found) == [*range(1, 301)]
    assert {one.number: len(decode_turns(one.kept)) for one in found} == {
        number: min(96, number - 1) for number in range(1, 301)
    }


async def test_quarantined_runs_are_listed_until_they_end(turns: RedisTurns) -> None:
    """One released, one ended, one that goes on."""
    runs = [RunName("acme", "key_1", uuid4().hex) for _ in range(3)]
    for run, duration_ms in zip(runs, (60_000, 1, 60_000), strict=True):
        await turns.quarantine(run, run.name.encode(), duration_ms)
    assert await turns.release(runs[0])
    assert not await turns.release(runs[0])
    await asyncio.sleep(0.01)
    listed = {evidence for evidence, _ in await turns.quarantined()}
    assert {run.name.encode() for run in runs} & listed == {runs[2].name.encode()}
    await turns.release(runs[2])


def guarded(rule: GuardRule) -> tuple[Caller, LimitPolicy]:
    """A caller of a run, and the policy of its tenant that has this rule."""
    caller = Caller("key_1", "internal", tenant=f"t-{uuid4().hex}", run_id=uuid4().hex)
    return caller, LimitPolicy("tenant", caller.tenant or "", caller.tenant or "", loop_guard=rule)


async def until_stopped(replicas: list[AdmissionController], caller: Caller) -> tuple[int, AgentLoopDetected]:
    """Makes the calls of a run, each at the next replica, until it is stopped; at which step, and how."""
    for step in range(30):
        try:
            lease = await replicas[step % len(replicas)].admit(caller, repeated_call(step), uuid4())
        except AgentLoopDetected as stopped:
            return step, stopped
        lease.settle(10, 1000, answered=True)
        await lease.wait_settled()
    raise AssertionError("never stopped")


async def test_a_run_is_stopped_over_replicas_released_and_stopped_again(replicas: Replicas) -> None:
    """At the fifth repetition, wherever its calls went; every replica rejects it until it is released."""
    caller, policy = guarded(GuardRule(mode="stop", quarantine_s=60))
    two = [
        await replicas.start(None, policy, store_timeout_ms=PATIENT_MS, internal_api_key=SECRET)
        for _ in range(2)
    ]
    step, stopped = await until_stopped(two, caller)
    assert step == 5
    assert stopped.retryable is False
    assert "the tool `look` was called 5 times" in stopped.message
    assert dict(stopped.headers)["x-llm-proxy-loop"] == "stop; signal=repeat; times=5; tool=look"
    for one in two:
        with pytest.raises(AgentLoopDetected, match="called 5 times"):
            await one.admit(caller, repeated_call(0, "something else"), uuid4())
    run = RunName(caller.tenant, caller.key_id, caller.run_id or "")
    [listed] = [one for one in await two[1].guard.quarantined() if one["run"] == run.name]
    assert (listed["tenant"], listed["key"], listed["signal"], listed["times"]) == (
        caller.tenant, "key_1", "repeat", 5,
    )  # fmt: skip
    assert await two[1].guard.release(run)
    assert (await until_stopped(two, caller))[0] == 5


async def test_another_key_is_another_run_and_a_call_without_one_is_never_asked_about(
    replicas: Replicas,
) -> None:
    """Names are below the key."""
    caller, policy = guarded(GuardRule(mode="stop", quarantine_s=60))
    admission = await replicas.start(None, policy, store_timeout_ms=PATIENT_MS)
    await until_stopped([admission], caller)
    for other in (
        Caller("key_2", "internal", tenant=caller.tenant, run_id=caller.run_id),
        Caller("key_1", "internal", tenant=caller.tenant),
    ):
        (await admission.admit(other, repeated_call(9), uuid4())).settle(1, 1, answered=True)
    assert admission.guard.begin(Caller("key_1", "internal", tenant=caller.tenant), repeated_call(9)) is None
    assert admission.guard.begin(Caller("key_1", "internal", run_id="r"), repeated_call(9)) is None
    observed = admission.guard.begin(Caller("key_1", "virtual", run_id="r"), repeated_call(9))
    assert observed is not None
    observed.forget()


async def test_observing_and_warning_tell_and_admit(replicas: Replicas) -> None:
    """A header and a verdict; the rest of the run goes on."""
    for mode in ("observe", "warn"):
        caller, policy = guarded(GuardRule(mode=mode, notice=True))
        admission = await replicas.start(None, policy, store_timeout_ms=PATIENT_MS)
        for step in range(7):
            lease = await admission.admit(caller, repeated_call(step), uuid4())
            header = dict(lease.headers).get(b"x-llm-proxy-loop")
            assert lease.guarded is not None
            verdict = lease.guarded.verdict
            assert (verdict is not None) is (header is not None) is (step >= 5)
            if verdict is not None:
                assert header == f"{mode}; signal=repeat; times={step}; tool=look".encode()
                assert (verdict.action, verdict.notice) == (mode, mode == "warn")
            lease.settle(10, 1000, answered=True)
            await lease.wait_settled()


async def test_without_the_store_the_guard_is_silent_and_says_so(own: OwnValkey, replicas: Replicas) -> None:
    """No call is stopped, none waits; with the store back the run is judged by what it has of it."""
    caller, policy = guarded(GuardRule(mode="stop", quarantine_s=60))
    admission = await replicas.start(None, policy, store_timeout_ms=PATIENT_MS)
    own.kill()
    for step in range(12):
        lease = await admission.admit(caller, repeated_call(step), uuid4())
        assert (b"x-llm-proxy-loop", b"unavailable") in lease.headers
        lease.settle(10, 1000, answered=True)
    own.start()
    async with asyncio.timeout(10):
        while admission.state().store != "up":  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.05)
    step, _ = await until_stopped([admission], caller)
    assert step == 5


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    calls=st.lists(st.tuples(st.integers(0, 12), st.sampled_from([0, 0, 0.0002, 0.001])), max_size=8),
    mode=st.sampled_from(["observe", "stop"]),
)
async def test_a_call_that_is_cancelled_anywhere_leaves_no_turn_that_runs(
    limits_redis_url: str, calls: list[tuple[int, float]], mode: GuardMode
) -> None:
    """At any await of its admission: also while its run is judged, or put into quarantine."""
    replicas = Replicas(limits_redis_url)
    caller, policy = guarded(GuardRule(mode=mode, quarantine_s=60, repeats=2))
    caller = replace(caller, limits=Limits(rpm=1000))
    run = RunName(caller.tenant, caller.key_id, caller.run_id or "")
    backend = RedisBackend(limits_redis_url, timeout_s=5)
    await backend.start()
    try:
        admission = await replicas.start(None, policy, store_timeout_ms=PATIENT_MS)
        for at, (cycles, pause_s) in enumerate(calls):
            admitting = asyncio.create_task(admission.admit(caller, repeated_call(at), uuid4()))
            for _ in range(cycles):
                await asyncio.sleep(pause_s)
            admitting.cancel()
            with contextlib.suppress(asyncio.CancelledError, AgentLoopDetected):
                (await admitting).settle(0, 0, answered=False)
        async with asyncio.timeout(5):
            while b"r" in await outcomes(backend, run):  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.01)
        await admission.guard.release(run)
    finally:
        await replicas.stop()
        await backend.stop()


async def outcomes(backend: RedisBackend, run: RunName) -> list[bytes]:
    """How the turns of a run have ended, as the store has them."""
    kept = await backend.cluster.execute(run.key, "HGET", run.key, "turns")
    return [one.outcome for one in decode_turns(kept or b"")]


async def test_a_late_turn_is_ended_when_the_store_answers(own: OwnValkey, replicas: Replicas) -> None:
    """The call went on without the guard, which had waited as long as it may."""
    caller, policy = guarded(GuardRule(mode="observe"))
    admission = await replicas.start(None, policy, store_timeout_ms=100)
    own.freeze()
    lease = await admission.admit(caller, repeated_call(1), uuid4())
    assert (b"x-llm-proxy-loop", b"unavailable") in lease.headers
    lease.settle(0, 0, answered=True)
    own.thaw()
    run = RunName(caller.tenant, caller.key_id, caller.run_id or "")
    backend = RedisBackend(own.url, timeout_s=5)
    await backend.start()
    async with asyncio.timeout(10):
        while await outcomes(backend, run) != [b"f"]:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.02)
    await backend.stop()


async def test_a_rejected_call_is_no_turn(replicas: Replicas) -> None:
    """An agent that its rate limit rejects sends the same request again: that is no repetition."""
    caller, policy = guarded(GuardRule(mode="stop", burst=3))
    admission = await replicas.start(None, policy, store_timeout_ms=PATIENT_MS)
    lease = await admission.admit(caller, repeated_call(1), uuid4())
    lease.settle(10, 1000, answered=False)
    await lease.wait_settled()
    for _ in range(4):
        lease = await admission.admit(caller, repeated_call(1), uuid4())
        assert lease.guarded is not None
        assert lease.guarded.verdict is None
        lease.settle(0, 0, answered=False)
        await lease.wait_settled()
