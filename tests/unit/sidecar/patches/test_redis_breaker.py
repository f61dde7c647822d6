"""One timeout opens the circuit breaker; only its own probe closes it."""

import asyncio

from llm_proxy.sidecar.patches.redis_breaker import RedisCircuitBreaker


class Redis:
    """A Redis that responds or not; counts its pings."""

    def __init__(self, *, responds: bool = True) -> None:
        self.responds, self.pings = responds, 0

    async def ping(self) -> None:
        self.pings += 1
        if not self.responds:
            raise ConnectionError

    async def info(self, section: str) -> dict[str, int]:
        return {f"{section}_enabled": 0}


async def breaker_of(redis: Redis) -> RedisCircuitBreaker:
    """Return a breaker that has had time to probe."""
    breaker = RedisCircuitBreaker(lambda: redis)
    await breaker.wait_closed(1)
    return breaker


async def test_it_is_open_until_redis_responds() -> None:
    """A process that starts beside an unresponsive Redis makes no call wait."""
    breaker = RedisCircuitBreaker(Redis)
    assert breaker.is_open()
    await breaker.wait_closed(1)
    assert not breaker.is_open()


async def test_one_failure_opens_it_for_every_call() -> None:
    """However many calls come."""
    redis = Redis()
    breaker = await breaker_of(redis)
    redis.responds = False
    breaker.record_failure(is_timeout=True)
    assert all(breaker.is_open() for _ in range(100))
    await asyncio.sleep(0.3)
    assert breaker.is_open()
    assert redis.pings < 10
    redis.responds = True
    await breaker.wait_closed(3)
    assert not breaker.is_open()


async def test_a_redis_that_fails_again_soon_is_probed_later() -> None:
    """It responds to pings and nothing else: callers would wait each time."""
    redis = Redis()
    breaker = await breaker_of(redis)
    breaker.record_failure()
    await asyncio.sleep(0.3)
    assert breaker.is_open()
    assert redis.pings == 1


async def test_a_probe_that_ends_unexpectedly_is_followed_by_another() -> None:
    """Cancelled or failed: the breaker does not stay open forever."""
    redis = Redis(responds=False)
    breaker = await breaker_of(redis)
    for task in asyncio.all_tasks():
        if task.get_name() == "cache-redis":
            task.cancel()
    await asyncio.sleep(0.01)
    redis.responds = True
    assert breaker.is_open()
    await breaker.wait_closed(3)
    assert not breaker.is_open()
