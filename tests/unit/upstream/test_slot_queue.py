"""The queue for slots: who waits gets one in turn, none is lost, and the estimated wait."""

import asyncio

import pytest

from llm_proxy.errors import Overloaded
from llm_proxy.identity import QueueShare
from llm_proxy.upstream.pool import Sidecar, SidecarPool
from llm_proxy.upstream.slot_queue import MAX_ESTIMATE_S, CompletionRate, QueueTimes, Slot, SlotQueue

ONE, OTHER, BATCH = QueueShare("one", "k"), QueueShare("other", "k"), QueueShare("one", "k", is_batch=True)


def queue_of_one(
    most_waiting: int = 10, queue_s: float = 5.0, batch_s: float = 5.0
) -> tuple[SlotQueue, Sidecar]:
    """A queue with one slot, and its sidecar."""
    pool = SidecarPool(["http://127.0.0.1:4101"], max_in_flight=1)
    return SlotQueue(pool, QueueTimes(queue_s, batch_s), max_waiting=most_waiting), pool.sidecars[0]


async def acquire(places: SlotQueue, now: float | None = None, share: QueueShare = ONE) -> Slot:
    """Takes a slot, now or after a wait."""
    now = asyncio.get_running_loop().time() if now is None else now
    return places.take(share, now) or await places.wait(share, now)


def release(places: SlotQueue, slot: Slot) -> None:
    """Releases a slot now."""
    places.release(slot, asyncio.get_running_loop().time())


async def test_slots_go_to_waiting_calls_in_order_and_not_to_a_newcomer() -> None:
    """First come, first served, also against a call that comes when a slot is released."""
    places, _ = queue_of_one()
    held = await acquire(places)
    got: list[tuple[str, Slot]] = []

    async def wait(name: str) -> None:
        got.append((name, await acquire(places)))

    tasks = [asyncio.create_task(wait(name)) for name in ("first", "second")]
    await asyncio.sleep(0)
    release(places, held)
    tasks.append(asyncio.create_task(wait("newcomer")))
    await asyncio.sleep(0.01)
    assert [name for name, _ in got] == ["first"]
    for _ in range(2):
        release(places, got[-1][1])
        await asyncio.sleep(0.01)
    assert [name for name, _ in got] == ["first", "second", "newcomer"]
    await asyncio.gather(*tasks)


async def test_no_call_waits_longer_than_the_queues_time() -> None:
    """Then it is rejected, with a retry-after."""
    places, sidecar = queue_of_one(queue_s=0.05)
    await acquire(places)
    began = asyncio.get_running_loop().time()
    with pytest.raises(Overloaded) as rejected:
        await acquire(places, began)
    assert asyncio.get_running_loop().time() - began < 1.0
    assert rejected.value.retry_after_s is not None
    assert places.waiting == 0
    assert sidecar.in_flight == 1


async def test_a_full_queue_rejects_at_once() -> None:
    """Before anything was done for the call."""
    places, sidecar = queue_of_one(most_waiting=1)
    held = await acquire(places)
    places.check(ONE, 0.0)
    waiting = asyncio.create_task(acquire(places))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        places.check(ONE, 0.0)
    release(places, held)
    assert (await waiting).sidecar is sidecar
    places.check(ONE, 0.0)


async def test_a_slot_given_to_a_cancelled_call_goes_to_the_next() -> None:
    """None is lost between a hand-over and a cancellation."""
    places, sidecar = queue_of_one()
    held = await acquire(places)
    leaver = asyncio.create_task(acquire(places))
    heir = asyncio.create_task(acquire(places))
    await asyncio.sleep(0)
    release(places, held)
    leaver.cancel()
    assert (await heir).sidecar is sidecar
    assert leaver.cancelled()
    assert sidecar.in_flight == 1


async def test_a_cancelled_wait_leaves_the_queue() -> None:
    """And takes no slot."""
    places, sidecar = queue_of_one()
    held = await acquire(places)
    leaver = asyncio.create_task(acquire(places))
    await asyncio.sleep(0)
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    assert places.waiting == 0
    release(places, held)
    assert sidecar.in_flight == 0


def test_retry_after_follows_the_rate_at_which_slots_are_released() -> None:
    """Two a second: six slots ahead are three seconds."""
    drained = CompletionRate()
    for at in range(40):
        drained.record(at / 2)
    assert 2.5 < drained.seconds_until_free(6, 20.0) < 3.5
    assert drained.seconds_until_free(1, 20.0) == 1.0
    assert drained.seconds_until_free(10_000, 20.0) == MAX_ESTIMATE_S


def test_without_released_slots_retry_after_is_the_longest() -> None:
    """And a second while nothing is known yet."""
    drained = CompletionRate()
    assert drained.seconds_until_free(3, 100.0) == 1.0
    assert drained.seconds_until_free(3, 140.0) == MAX_ESTIMATE_S
    drained.record(141.0)
    assert drained.seconds_until_free(1, 142.0) < 5.0
    assert drained.seconds_until_free(1, 160.0) == MAX_ESTIMATE_S


async def test_a_full_queue_sends_the_flooder_away_and_not_the_newcomer() -> None:
    """Its newest call gets the error; the newcomer waits, and is the next."""
    places, _ = queue_of_one(most_waiting=2)
    held = await acquire(places)
    flood = [asyncio.create_task(acquire(places)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        places.check(ONE, 0.0)
    places.check(OTHER, 0.0)
    newcomer = asyncio.create_task(acquire(places, share=OTHER))
    with pytest.raises(Overloaded, match="most are yours"):
        await flood[1]
    assert places.waiting == 2
    release(places, held)
    release(places, await flood[0])
    release(places, await newcomer)
    assert places.waiting == 0


async def test_batch_calls_wait_longer_and_make_way_for_interactive_ones() -> None:
    """A class's own time; a batch call that leaves gets the reason."""
    places, sidecar = queue_of_one(most_waiting=1, queue_s=0.02, batch_s=30)
    held = await acquire(places)
    batch = asyncio.create_task(acquire(places, share=BATCH))
    await asyncio.sleep(0.1)
    assert not batch.done()
    interactive = asyncio.create_task(acquire(places))
    with pytest.raises(Overloaded, match="interactive ones come first"):
        await batch
    with pytest.raises(Overloaded):
        await interactive
    places, sidecar = queue_of_one()
    held = await acquire(places, share=BATCH)
    batch = asyncio.create_task(acquire(places, share=BATCH))
    await asyncio.sleep(0)
    release(places, held)
    async with asyncio.timeout(10):
        release(places, await batch)
    assert sidecar.in_flight == 0


async def test_a_slot_that_was_kept_goes_on_when_nobody_comes_for_it() -> None:
    """The tenant that was below its share does not come again: the flood gets its slot in a moment."""
    pool = SidecarPool(["http://127.0.0.1:4101"], max_in_flight=2)
    places = SlotQueue(pool, QueueTimes(5, 5), max_waiting=10)
    light, _ = await acquire(places, share=OTHER), await acquire(places)
    flood = asyncio.create_task(acquire(places))
    await asyncio.sleep(0)
    release(places, light)
    assert pool.in_flight == 1
    async with asyncio.timeout(10):
        await flood
    assert pool.in_flight == 2


async def test_a_call_that_failed_at_the_only_free_sidecar_lets_others_pass() -> None:
    """It keeps its place until the other sidecar has a slot."""
    pool = SidecarPool(["http://127.0.0.1:4101-4102"], max_in_flight=1)
    places = SlotQueue(pool, QueueTimes(5, 5), max_waiting=10)
    slots = {slot.sidecar.url: slot for slot in (await acquire(places), await acquire(places))}
    first, second = slots.values()
    picky = asyncio.create_task(places.wait(ONE, 0.0, [first.sidecar]))
    other = asyncio.create_task(acquire(places))
    await asyncio.sleep(0)
    release(places, first)
    assert (await other).sidecar is first.sidecar
    assert not picky.done()
    release(places, second)
    assert (await picky).sidecar is second.sidecar
