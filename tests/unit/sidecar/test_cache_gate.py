"""One wait in vain shuts the gate; only its own look opens it."""

import asyncio

from llm_proxy.sidecar.patches.redis_breaker import RedisCircuitBreaker


class Redis:
    """Answers when it is well; counts who asks."""

    def __init__(self, *, well: bool = True) -> None:
        self.well, self.asked = well, 0

    async def ping(self) -> None:
        self.asked += 1
        if not self.well:
            raise ConnectionError


async def gate_before(redis: Redis) -> RedisCircuitBreaker:
    """A gate that has had time to look."""
    gate = RedisCircuitBreaker(lambda: redis)
    await gate.wait_closed(1)
    return gate


async def test_it_is_shut_until_redis_was_seen() -> None:
    """A process that starts beside a silent one makes nobody wait."""
    gate = RedisCircuitBreaker(Redis)
    assert gate.is_open()
    await gate.wait_closed(1)
    assert not gate.is_open()


async def test_one_failure_is_enough_and_nobody_asks_meanwhile() -> None:
    """However many calls come."""
    redis = Redis()
    gate = await gate_before(redis)
    redis.well = False
    gate.record_failure(is_timeout=True)
    assert all(gate.is_open() for _ in range(100))
    await asyncio.sleep(0.3)
    assert gate.is_open()
    assert redis.asked < 10
    redis.well = True
    await gate.wait_closed(3)
    assert not gate.is_open()


async def test_one_that_fails_again_soon_is_believed_later() -> None:
    """It answers a look and nothing else: callers would pay each time."""
    redis = Redis()
    gate = await gate_before(redis)
    gate.record_failure()
    await asyncio.sleep(0.3)
    assert gate.is_open()
    assert redis.asked == 1


async def test_a_look_that_ends_unexpectedly_is_followed_by_another() -> None:
    """Cancelled from outside, or broken: the gate does not stay shut for good."""
    redis = Redis(well=False)
    gate = await gate_before(redis)
    for task in asyncio.all_tasks():
        if task.get_name() == "cache-redis":
            task.cancel()
    await asyncio.sleep(0.01)
    redis.well = True
    assert gate.is_open()
    await gate.wait_closed(3)
    assert not gate.is_open()
