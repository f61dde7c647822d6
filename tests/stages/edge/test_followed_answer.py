"""The answer of another process's call, in real Valkeys: passed on once that call shows that it lives."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

import pytest

from llm_proxy.admission.idempotency import ClaimReply, IdempotentRequest
from llm_proxy.admission.redis.claims import BATCH_SEGMENTS, AnswerName, AnswerStore, ClaimStore
from llm_proxy.edge.followed_answer import FollowedAnswer
from llm_proxy.edge.live_answer import BODY, LAST, Frame, LiveAnswer, encode_frames
from llm_proxy.errors import FirstCallLost, ReplayGone
from llm_proxy.sealing import SegmentCipher
from llm_proxy.telemetry import uuid7

LEASE_MS, KEEP_MS = 1500, 60_000


@dataclass(slots=True)
class OtherProcess:
    """A call of another process, and a listener of this one."""

    claims: ClaimStore
    answers: AnswerStore
    wanted: IdempotentRequest
    name: AnswerName
    number: int = 0

    async def add(self, frame: Frame) -> None:
        """Publishes one more frame."""
        sealed = SegmentCipher(self.wanted.secret, self.name.call).seal(self.number, encode_frames([frame]))
        assert await self.answers.append(self.name, self.number, sealed, KEEP_MS)
        self.number += 1

    async def listen(self) -> tuple[LiveAnswer, "asyncio.Task[list[Frame]]"]:
        """Joins the call as another request does; the task has the frames."""
        live = LiveAnswer(2**20)
        reply = await self.claims.claim(self.wanted, uuid7().hex, LEASE_MS)
        live.listeners += 1
        task = asyncio.create_task(self._frames(live, reply))
        return live, task

    async def _frames(self, live: LiveAnswer, reply: ClaimReply) -> list[Frame]:
        followed = FollowedAnswer((self.claims, self.answers), self.wanted, self.name, reply, live)
        reading = asyncio.create_task(followed.read(LEASE_MS))
        try:
            return [frame async for frame in live.follow()]
        finally:
            await reading


@pytest.fixture
async def other(limits_redis_url: str, cache_redis_url: str) -> AsyncIterator[OtherProcess]:
    """A call that holds its claim."""
    claims, answers = ClaimStore(limits_redis_url), AnswerStore(cache_redis_url, max_total_bytes=2**20)
    await claims.store.start()
    await answers.store.start()
    made = IdempotentRequest(uuid4().hex, "f", b"secret")
    name = AnswerName(None, made.claim, uuid7().hex)
    assert (await claims.claim(made, name.call, LEASE_MS)).verdict == "yours"
    yield OtherProcess(claims, answers, made, name)
    await answers.store.stop()
    await claims.store.stop()


@pytest.mark.parametrize("count", [0, 3, 2 * BATCH_SEGMENTS + 3])
async def test_nothing_is_passed_on_of_a_call_that_has_died(other: OtherProcess, count: int) -> None:
    """However much of it is there; the wait is what is left of its lease."""
    for at in range(count):
        await other.add(Frame(BODY, b"%d" % at))
    live, task = await other.listen()
    with pytest.raises(FirstCallLost) as lost:
        await task
    assert live.frames == []
    assert lost.value.retry_after_s == 1


async def test_a_call_that_adds_to_its_answer_is_passed_on_at_once(other: OtherProcess) -> None:
    """From the first frame on."""
    frames = [Frame(BODY, b"%d" % at) for at in range(BATCH_SEGMENTS + 3)]
    for frame in frames:
        await other.add(frame)
    live, task = await other.listen()
    await asyncio.sleep(0.2)
    assert live.frames == []
    await other.add(Frame(BODY, b"more"))
    async with asyncio.timeout(5):
        while not live.frames:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.01)
    assert live.frames == [*frames, Frame(BODY, b"more")]
    await other.add(Frame(LAST, b"end"))
    assert (await task)[-1] == Frame(LAST, b"end")


async def test_a_silent_call_that_renews_its_lease_is_passed_on(other: OtherProcess) -> None:
    """It waits for its provider."""
    await other.add(Frame(BODY, b"ping"))
    live, task = await other.listen()
    async with asyncio.timeout(10):
        while not live.frames:
            await other.claims.renew(other.wanted, other.name.call, LEASE_MS)
            await asyncio.sleep(0.1)
    await other.claims.finish(other.wanted, other.name.call, KEEP_MS, "gone")
    with pytest.raises(ReplayGone):
        await task


async def test_an_answer_sealed_with_another_secret_is_gone(other: OtherProcess) -> None:
    """As one that was exchanged in the store."""
    await other.answers.append(other.name, 0, b"not sealed", KEEP_MS)
    _, task = await other.listen()
    with pytest.raises(ReplayGone):
        await task
