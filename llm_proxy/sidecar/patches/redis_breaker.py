"""A circuit breaker for the Redis of answers, cooldowns and counters: one timeout opens it for every call.

LiteLLM accesses Redis several times a call, waits each time, and retries at a caller's cost. Invariants:
while the breaker is open no call waits; a background task pings Redis and closes it. Units: seconds.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TypeVar

from llm_proxy.background import spawn
from llm_proxy.sidecar import litellm_internals
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch

PATIENCE_S = 0.5
"""The longest one access may take; its parts (connecting, one answer) are given less."""
MIN_PROBE_INTERVAL_S, MAX_PROBE_INTERVAL_S = 0.05, 1.0
"""The first looks follow each other closely: a busy process is late for its own, and no fault of Redis."""
STABLE_S = 10.0
"""One that fails again sooner is believed later each time."""
LONGEST_PAUSE_S = 30.0
START_TIMEOUT_S = 2.0

_T = TypeVar("_T")


def install() -> None:
    """Put the gate in the place of LiteLLM's breakers; before LiteLLM's start."""
    cache, batch, clients = litellm_internals.redis_modules()
    run = _with_timeout(cache._run_under_circuit_breaker)  # noqa: SLF001 -- where every access passes
    cache._run_under_circuit_breaker = batch._run_under_circuit_breaker = run  # noqa: SLF001 -- the same
    cache.RedisCache._setup_health_pings = _install_breaker  # noqa: SLF001 -- runs once its breaker is made
    clients.get_redis_client = _without_retries(clients.get_redis_client)


async def wait_for_redis() -> None:
    """Wait a little for the first answer, so that who serves from now on serves with a cache."""
    gate = getattr(litellm_internals.proxy_module().redis_usage_cache, "_circuit_breaker", None)
    if isinstance(gate, RedisCircuitBreaker):
        await gate.wait_closed(START_TIMEOUT_S)


def _with_timeout(run: Untyped) -> Untyped:
    async def bounded(gate: Untyped, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        async def in_time() -> _T:
            async with asyncio.timeout(PATIENCE_S):
                return await call()

        found: _T = await run(gate, name, in_time)
        return found

    return bounded


def _install_breaker(cache: Untyped) -> None:
    cache._circuit_breaker = RedisCircuitBreaker(cache.init_async_client)  # noqa: SLF001 -- no setting does this


def _without_retries(make: Untyped) -> Untyped:
    """A blocking client stops the whole process while it waits: it asks once."""

    @wraps(make)
    def once(*words: Untyped, **options: Untyped) -> Untyped:
        client = make(*words, **options)
        if hasattr(client, "set_retry"):
            client.set_retry(litellm_internals.no_retries())
        return client

    return once


class RedisCircuitBreaker:
    """What stands in for one of LiteLLM's breakers, and has its words: an open circuit is a shut gate.

    It is shut until Redis was seen to answer.
    """

    enabled = True
    generation = 0

    def __init__(self, client: Callable[[], Untyped]) -> None:
        self._client = client
        self._open = True
        self._probe_task: asyncio.Task[None] | None = None
        self._pause_s, self._closed_at_s = 0.0, 0.0
        self._start_probe()

    async def wait_closed(self, patience_s: float) -> None:
        """Wait until Redis answers, but no longer than this."""
        if self._probe_task is not None:
            await asyncio.wait({self._probe_task}, timeout=patience_s)

    def is_open(self) -> bool:
        """Whether Redis is to be left alone."""
        if self._open:
            self._start_probe()
        return self._open

    def record_failure(self, *, is_timeout: bool = False) -> None:  # noqa: ARG002 -- LiteLLM's signature
        """Redis did not answer, or not in time."""
        if self._open:
            return
        again = time.monotonic() - self._closed_at_s < STABLE_S
        self._pause_s = min(max(MAX_PROBE_INTERVAL_S, self._pause_s * 2), LONGEST_PAUSE_S) if again else 0.0
        self._open = True
        self._start_probe()

    def record_success(self) -> None:
        """It answered; that is what the gate is open for."""

    def _start_probe(self) -> None:
        if self._probe_task is not None:
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # no loop in this thread: the next call that comes in one looks
        self._probe_task = spawn("cache-redis", self._probe())
        self._probe_task.add_done_callback(self._probe_ended)

    def _probe_ended(self, _: "asyncio.Task[None]") -> None:
        """Whatever ended a look, the next call may begin another while the gate is shut."""
        self._probe_task = None

    async def _probe(self) -> None:
        await asyncio.sleep(self._pause_s)
        pause_s = MIN_PROBE_INTERVAL_S
        while not await self._ping():
            if MAX_PROBE_INTERVAL_S / 2 < pause_s < MAX_PROBE_INTERVAL_S:
                _print("the cache's Redis does not answer; it is left alone until it does")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MAX_PROBE_INTERVAL_S)
        if pause_s == MAX_PROBE_INTERVAL_S:
            _print("the cache's Redis answers again")
        self._open, self._closed_at_s = False, time.monotonic()

    async def _ping(self) -> bool:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._client().ping()
        except Exception:  # noqa: BLE001 -- whatever a client says of a Redis that is not well
            return False
        return True


def _print(message: str) -> None:
    print(f"sidecar: {message}", file=sys.stderr, flush=True)  # noqa: T201 -- the log of this part


PATCH = LiteLLMPatch(
    name="cache_gate",
    install=install,
    reason=(
        "A silent Redis costs every call several waits: reads and writes of answers, cooldowns and counts "
        "are each tried, and tried again."
    ),
    since="1.106.2",
    report=(
        "https://github.com/BerriAI/litellm/issues/34299; the breaker of 35273 opens after several "
        "failures of each kind and holds for a minute."
    ),
    until="LiteLLM's breaker opens at the first wait in vain and is probed beside the calls.",
    tests=("tests/stages/test_sidecar_cache.py::test_a_frozen_cache_costs_less_than_a_second_once",),
)
