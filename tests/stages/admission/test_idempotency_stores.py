"""The script of claims and its rules in Python, and the kept answers with their bounds, on real Valkeys."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_proxy.admission import idempotency as rules
from llm_proxy.admission.redis.claims import AnswerName, AnswerStore, ClaimStore
from llm_proxy.telemetry import uuid7

HANDS = "local function clock() return tonumber(redis.call('GET', 'test-clock-%s')) end"
START_MS = 1_800_000_000_000
LEASE_MS, KEEP_MS = 15_000, 3_600_000
CALLS = st.sampled_from(["call-1", "call-2"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), CALLS, st.sampled_from(["f", "g"])),
        st.tuples(st.sampled_from(["listen", "renew", "release"]), CALLS),
        st.tuples(st.just("finish"), CALLS, st.sampled_from(["stored", "gone"])),
        st.tuples(st.just("wait"), st.sampled_from([1, 7_000, LEASE_MS - 1, LEASE_MS, KEEP_MS])),
    ),
    max_size=30,
)


class Both:
    """A claim in the store and one of the rules, given the same steps."""

    def __init__(self, store: ClaimStore, name: str) -> None:
        self.store, self.name = store, name
        self.claim: rules.Claim | None = None
        self.now_ms = START_MS

    async def wait(self, by_ms: int) -> None:
        """Moves both clocks."""
        self.now_ms += by_ms
        await self.store.store.execute("", "SET", f"test-clock-{self.name}", self.now_ms)

    async def play(self, step: tuple[Any, ...]) -> None:
        """Plays one step at both; they reply the same."""
        kind, call, *more = step
        if kind == "wait":
            await self.wait(call)
            return
        fingerprint = more[0] if kind == "claim" else "f"
        wanted = rules.IdempotentRequest(self.name, fingerprint, b"")
        now, found = self.now_ms, self.claim
        match kind:
            case "claim":
                reply = await self.store.claim(wanted, call, LEASE_MS)
                expected, self.claim = rules.claim(found, fingerprint, call, now, LEASE_MS)
            case "listen":
                reply = await self.store.listen(wanted, call)
                expected, self.claim = rules.listen(found, call, now)
            case "renew":
                reply = await self.store.renew(wanted, call, LEASE_MS)
                expected, self.claim = rules.renew(found, fingerprint, call, now, LEASE_MS)
            case "finish":
                await self.store.finish(wanted, call, KEEP_MS, more[0])
                _, self.claim = rules.finish(found, fingerprint, call, now, KEEP_MS, more[0])
                return
            case _:
                await self.store.release(wanted, call)
                _, self.claim = rules.release(found, call, now)
                return
        assert reply == expected


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=STEPS)
async def test_script_and_rules_agree_on_any_history(
    limits_redis_url: str, history: list[tuple[Any, ...]]
) -> None:
    """Whatever is claimed, listened to, renewed, finished, released or expired."""
    name = uuid4().hex
    store = ClaimStore(limits_redis_url, clock=HANDS % name)
    await store.store.start()
    both = Both(store, name)
    try:
        await both.wait(0)
        for step in history:
            await both.play(step)
    finally:
        await store.store.stop()


@pytest.fixture
async def answers(cache_redis_url: str) -> AsyncIterator[AnswerStore]:
    """Kept answers of at most 100 bytes together."""
    store = AnswerStore(cache_redis_url, max_total_bytes=100)
    await store.store.start()
    for key in await store.store.execute("", "KEYS", "lp:{answers}:*"):
        await store.store.execute("", "DEL", key)
    yield store
    await store.store.stop()


def a_name(person: str | None = None) -> AnswerName:
    """The name of an answer to a call that begins now."""
    return AnswerName(person, uuid4().hex, uuid7().hex)


async def test_a_segment_is_added_once_and_in_its_order(answers: AnswerStore) -> None:
    """The same again is no other one; one beyond the next is lost."""
    name = a_name()
    assert await answers.append(name, 0, b"one", KEEP_MS)
    assert await answers.append(name, 0, b"one", KEEP_MS)
    assert await answers.append(name, 1, b"two", KEEP_MS)
    assert not await answers.append(name, 3, b"four", KEEP_MS)
    assert [*await answers.read(name, 0)] == [b"one", b"two"]
    assert [*await answers.read(name, 1)] == [b"two"]


async def test_an_answer_that_was_evicted_is_not_begun_in_its_middle(answers: AnswerStore) -> None:
    """The rest of it would be taken for the whole."""
    name = a_name()
    assert await answers.append(name, 0, b"one", KEEP_MS)
    await answers.store.execute("", "DEL", name.key)
    assert not await answers.append(name, 1, b"two", KEEP_MS)


async def test_the_oldest_answers_make_room_and_one_too_large_is_dropped(answers: AnswerStore) -> None:
    """Together they have at most the bound."""
    names = [a_name() for _ in range(4)]
    for name in names[:3]:
        assert await answers.append(name, 0, b"x" * 40, KEEP_MS)
        await asyncio.sleep(0.005)  # ages are in whole milliseconds
    assert [len(await answers.read(name, 0)) for name in names] == [0, 1, 1, 0]
    assert not await answers.append(names[3], 0, b"x" * 101, KEEP_MS)
    assert [len(await answers.read(name, 0)) for name in names] == [0, 1, 1, 0]
    assert await answers.append(a_name(), 0, b"x" * 100, KEEP_MS)


async def test_the_bound_holds_after_its_figures_were_evicted(answers: AnswerStore) -> None:
    """In whatever order the Redis drops them."""
    for lost in ("order", "sizes"):
        assert await answers.append(a_name(), 0, b"x" * 60, KEEP_MS)
        await answers.store.execute("", "DEL", f"lp:{{answers}}:{lost}")
        for _ in range(3):
            await asyncio.sleep(0.005)
            assert await answers.append(a_name(), 0, b"x" * 60, KEEP_MS)
        total = await answers.store.execute("", "HGET", "lp:{answers}:sizes", "total")
        assert total is None or 0 <= int(total) <= 100


async def test_a_persons_answers_are_erased_with_those_of_calls_that_still_run(answers: AnswerStore) -> None:
    """And no other person's; a call that begins later keeps its answer."""
    running, kept, other = a_name("ada"), a_name("ada"), a_name("bob")
    for name in (kept, other):
        assert await answers.append(name, 0, b"one", KEEP_MS)
    assert await answers.erase("ada") == 1
    assert not await answers.read(kept, 0)
    assert await answers.read(other, 0)
    assert not await answers.append(running, 0, b"one", KEEP_MS)
    assert await answers.append(a_name("bob"), 0, b"one", KEEP_MS)
