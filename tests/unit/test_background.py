"""Background loops survive failing steps, log them once a kind, and count them."""

import asyncio
import logging

import pytest

from llm_proxy import background
from llm_proxy.background import BEAT_S, LOOP_DONE, BackgroundLoop, FailureGuard, Started, pause, spawn


async def test_failing_step_is_retried_logged_once_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log has the traceback; `failing_loops` names the loop until a step succeeds."""
    name, steps = "of-a-test", 0

    async def step() -> None:
        nonlocal steps
        steps += 1
        if steps <= 3:
            raise RuntimeError("unexpected")

    loop = BackgroundLoop(name, step)
    loop.start()
    seen_failing = False
    async with asyncio.timeout(10):
        while steps < 5:
            seen_failing = seen_failing or name in background.failing_loops()
            await asyncio.sleep(0.01)
    await loop.stop()
    assert seen_failing
    assert name not in background.failing_loops()
    assert background.failure_counts()[name] == 3
    failed = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert len(failed) == 1
    assert failed[0].exc_info is not None
    assert vars(failed[0])["loop"] == name


async def test_cancellation_inside_a_step_does_not_end_the_loop() -> None:
    """Only `stop` ends it, and waits for the end."""
    steps = 0

    async def step() -> None:
        nonlocal steps
        steps += 1
        other = asyncio.create_task(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(other.cancel)
        await other

    loop = BackgroundLoop("cancelled-inside", step)
    loop.start()
    async with asyncio.timeout(10):
        while steps < 3:  # noqa: ASYNC110 -- no event
            await asyncio.sleep(0.01)
    await loop.stop()
    ended_at = steps
    await asyncio.sleep(0.05)
    assert steps == ended_at


async def test_loop_ends_when_its_step_returns_loop_done() -> None:
    """`wait_until_done` returns then."""
    steps = 0

    async def step() -> object:
        nonlocal steps
        steps += 1
        return LOOP_DONE if steps == 2 else None

    loop = BackgroundLoop("done-after-two", step, at_once=True)
    loop.start()
    await loop.wait_until_done(5)
    assert steps == 2
    await loop.stop()


async def test_failure_of_a_spawned_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """No code awaits the task."""

    async def broken() -> None:
        raise KeyError("nobody expected this")

    task = spawn("once", broken())
    await asyncio.wait({task})
    assert background.failure_counts()["once"] == 1
    assert [one for one in caplog.records if one.exc_info]


async def test_failing_step_does_not_stop_the_others() -> None:
    """The guard returns None instead of raising."""

    async def broken() -> int:
        raise OSError("a disk")

    async def fine() -> int:
        return 7

    guard = FailureGuard("of-another-test")
    assert await guard.run(broken) is None
    assert guard.failing
    assert await guard.run(fine) == 7
    assert not guard.failing


async def test_pauses_of_whole_beats_end_together() -> None:
    """Those of several moments end in one turn of the event loop, in two where a beat is between."""
    loop, turns, ended = asyncio.get_running_loop(), 0, list[int]()

    def count_turn() -> None:
        nonlocal turns
        turns += 1
        if len(ended) < 5:
            loop.call_soon(count_turn)

    async def one(after_s: float) -> None:
        await asyncio.sleep(after_s)
        await pause(BEAT_S)
        ended.append(turns)

    count_turn()
    await asyncio.gather(*(one(number * 0.002) for number in range(5)))
    assert len(set(ended)) <= 2


async def test_started_work_runs_up_to_its_first_wait_at_once() -> None:
    """What its owner does then comes before what it waits for; then it goes on in the owner's task."""
    steps: list[str] = []
    reply = asyncio.get_running_loop().create_future()

    async def work() -> str:
        steps.append("asked")
        found = await reply
        await asyncio.sleep(0)
        steps.append(found)
        assert asyncio.current_task() is owner
        return "done"

    owner = asyncio.current_task()
    started = Started(work())
    steps.append("meanwhile")
    reply.set_result("answered")
    assert await started == "done"
    assert steps == ["asked", "meanwhile", "answered"]


async def test_started_work_without_a_wait_has_ended() -> None:
    """Its result is there, and what it raises is raised where it was started."""

    async def work(*, fails: bool) -> str:
        if fails:
            raise RuntimeError("unexpected")
        return "done"

    assert await Started(work(fails=False)) == "done"
    with pytest.raises(RuntimeError, match="unexpected"):
        Started(work(fails=True))


async def test_started_work_is_cancelled_with_its_owner() -> None:
    """Where it waits, with what it waits for."""
    reply = asyncio.get_running_loop().create_future()
    cleaned = asyncio.Event()

    async def work() -> str:
        try:
            await reply
        finally:
            await asyncio.sleep(0)
            cleaned.set()
        return ""

    async def own() -> str:
        return await Started(work())

    task = asyncio.create_task(own())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reply.cancelled()
    assert cleaned.is_set()


async def test_started_work_gets_the_error_of_what_it_waits_for() -> None:
    """As any coroutine does that awaits it."""
    reply = asyncio.get_running_loop().create_future()

    async def work() -> str:
        with pytest.raises(RuntimeError):
            await reply
        return "done"

    started = Started(work())
    reply.set_exception(RuntimeError("unexpected"))
    assert await started == "done"
