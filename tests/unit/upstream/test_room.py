"""Who waits for a place, in what order, and what one is told for whom there is none."""

import asyncio

import pytest

from llm_proxy.errors import Overloaded
from llm_proxy.upstream.pool import MAX_ESTIMATE_S, CompletionRate, Sidecar, SidecarPool, SlotQueue


def room(most_waiting: int = 10, queue_s: float = 5.0) -> tuple[SlotQueue, Sidecar]:
    """A room with one place, and its sidecar."""
    pool = SidecarPool(["http://127.0.0.1:4101"], max_in_flight=1)
    return SlotQueue(pool, queue_s=queue_s, max_waiting=most_waiting), pool.sidecars[0]


async def test_places_go_to_those_who_wait_in_order_and_not_to_a_newcomer() -> None:
    """First come, first served, also against one who comes at the moment a place is free."""
    places, sidecar = room()
    held = await places.acquire(0.0)
    got: list[str] = []

    async def wait(name: str) -> None:
        await places.acquire(0.0)
        got.append(name)

    tasks = [asyncio.create_task(wait(name)) for name in ("first", "second")]
    await asyncio.sleep(0)
    places.release(held, 0.0)
    tasks.append(asyncio.create_task(wait("newcomer")))
    await asyncio.sleep(0.01)
    assert got == ["first"]
    for _ in range(2):
        places.release(sidecar, 0.0)
        await asyncio.sleep(0.01)
    assert got == ["first", "second", "newcomer"]
    await asyncio.gather(*tasks)


async def test_nobody_waits_longer_than_the_queues_time() -> None:
    """Then it is refused, with a word on when to come again."""
    places, sidecar = room(queue_s=0.05)
    await places.acquire(0.0)
    began = asyncio.get_running_loop().time()
    with pytest.raises(Overloaded) as refused:
        await places.acquire(began)
    assert asyncio.get_running_loop().time() - began < 1.0
    assert refused.value.retry_after_s is not None
    assert places.waiting == 0
    assert sidecar.in_flight == 1


async def test_a_full_queue_refuses_at_once() -> None:
    """Before anything was done for the call."""
    places, sidecar = room(most_waiting=1)
    held = await places.acquire(0.0)
    places.check(0.0)
    waiting = asyncio.create_task(places.acquire(0.0))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        places.check(0.0)
    places.release(held, 0.0)
    assert await waiting is sidecar
    places.check(0.0)


async def test_a_place_handed_to_one_who_has_just_left_goes_on_to_the_next() -> None:
    """No place is lost between a hand-over and a cancellation."""
    places, sidecar = room()
    held = await places.acquire(0.0)
    leaver = asyncio.create_task(places.acquire(0.0))
    heir = asyncio.create_task(places.acquire(0.0))
    await asyncio.sleep(0)
    places.release(held, 0.0)
    leaver.cancel()
    assert await heir is sidecar
    assert leaver.cancelled()
    assert sidecar.in_flight == 1


async def test_who_waits_and_leaves_is_forgotten() -> None:
    """A cancelled wait leaves the queue."""
    places, sidecar = room()
    held = await places.acquire(0.0)
    leaver = asyncio.create_task(places.acquire(0.0))
    await asyncio.sleep(0)
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    assert places.waiting == 0
    places.release(held, 0.0)
    assert sidecar.in_flight == 0


def test_the_word_on_when_to_come_again_follows_the_pace_at_which_places_come_free() -> None:
    """Two a second: six places ahead are three seconds."""
    drained = CompletionRate()
    for at in range(40):
        drained.record(at / 2)
    assert 2.5 < drained.seconds_until_free(6, 20.0) < 3.5
    assert drained.seconds_until_free(1, 20.0) == 1.0
    assert drained.seconds_until_free(10_000, 20.0) == MAX_ESTIMATE_S


def test_when_nothing_comes_free_it_is_the_longest() -> None:
    """And a second while nothing is known yet."""
    drained = CompletionRate()
    assert drained.seconds_until_free(3, 100.0) == 1.0
    assert drained.seconds_until_free(3, 140.0) == MAX_ESTIMATE_S
    drained.record(141.0)
    assert drained.seconds_until_free(1, 142.0) < 5.0
    assert drained.seconds_until_free(1, 160.0) == MAX_ESTIMATE_S
