"""One timeout opens the circuit breaker; only its own probe closes it."""

import asyncio

from llm_proxy.sidecar.patches.redis_breaker import RedisCircuitBreaker


class Redis:
    """A Redis that responds or not; counts its pings."""

    def __init__(self, *, well: bool = True) -> None:
        self.well, self.asked = well, 0

    async def ping(self) -> None:
        self.asked += 1
        if not self.well:
            raise ConnectionError


async def breaker_of(redis: Redis) -> RedisCircuitBreaker:
    """Return a breaker that has had time to probe."""
    gate = RedisCircuitBreaker(lambda: redis)
    await gate.wait_closed(1)
    return gate


async def test_it_is_open_until_redis_responds() -> None:
    """A process that starts beside an unresponsive Redis makes no call wait."""
    gate = RedisCircuitBreaker(Redis)
    assert gate.is_open()
    await gate.wait_closed(1)
    assert not gate.is_open()


async def test_one_failure_opens_it_for_every_call() -> None:
    """However many calls come."""
    redis = Redis()
    gate = await breaker_of(redis)
    redis.well = False
    gate.record_failure(is_timeout=True)
    assert all(gate.is_open() for _ in range(100))
    await asyncio.sleep(0.3)
    assert gate.is_open()
    assert redis.asked < 10
    redis.well = True
    await gate.wait_closed(3)
    assert not gate.is_open()


async def test_a_redis_that_fails_again_soon_is_probed_later() -> None:
    """It responds to pings and nothing else: callers would wait each time."""
    redis = Redis()
    gate = await breaker_of(redis)
    gate.record_failure()
    await asyncio.sleep(0.3)
    assert gate.is_open()
    assert redis.asked == 1


async def test_a_probe_that_ends_unexpectedly_is_followed_by_another() -> None:
    """Cancelled or failed: the breaker does not stay open forever."""
    redis = Redis(well=False)
    gate = await breaker_of(redis)
    for task in asyncio.all_tasks():
        if task.get_name() == "cache-redis":
            task.cancel()
    await asyncio.sleep(0.01)
    redis.well = True
    assert gate.is_open()
    await gate.wait_closed(3)
    assert not gate.is_open()
