"""A circuit breaker for the Redis of answers, cooldowns and counters: one timeout opens it for every call.

Invariants: while the breaker is open no call waits; a background task pings Redis and closes it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TypeVar

from llm_proxy.background import spawn
from llm_proxy.sidecar import litellm_internals
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch
from llm_proxy.sidecar.process_log import log_line

ACCESS_TIMEOUT_S = 0.5
"""Of one access; connecting and waiting for one response have shorter timeouts of their own."""
MIN_PROBE_INTERVAL_S, MAX_PROBE_INTERVAL_S = 0.05, 1.0
"""The interval doubles from the first to the second: a busy process may time out without Redis's fault."""
FAULTS = {
    "AuthenticationError": "it refuses this user or password",
    "MasterNotFoundError": "no Sentinel names its primary, or they refuse their password",
    "TimeoutError": "no answer in time",
    "ConnectionError": "the connection failed",
    "RedisClusterException": "no node of the cluster can be used",
}
"""By the exception's name."""
STABLE_S = 10.0
"""If the breaker opens sooner than this after it closed, the next probe waits longer each time."""
MAX_PAUSE_S = 30.0
START_TIMEOUT_S = 2.0

MISSING_EVICTION = (
    "the cache's Redis does not evict (maxmemory-policy noeviction): once its memory is full, nothing is"
    " cached, and if it keeps the limits too, they fail; CACHE_REDIS_URL names another, with allkeys-lru"
)

_T = TypeVar("_T")


def install() -> None:
    """Replace LiteLLM's circuit breakers; before LiteLLM's start."""
    cache, batch, clients = litellm_internals.redis_modules()
    run = _with_timeout(cache._run_under_circuit_breaker)  # noqa: SLF001 -- runs every access
    cache._run_under_circuit_breaker = batch._run_under_circuit_breaker = run  # noqa: SLF001 -- the same
    cache.RedisCache._setup_health_pings = _install_breaker  # noqa: SLF001 -- runs after LiteLLM's breaker is made
    clients.get_redis_client = _without_retries(clients.get_redis_client)


async def wait_for_redis() -> None:
    """Wait up to `START_TIMEOUT_S` for Redis, so that the first calls find the cache in use."""
    breaker = getattr(litellm_internals.proxy_module().redis_usage_cache, "_circuit_breaker", None)
    if isinstance(breaker, RedisCircuitBreaker):
        await breaker.wait_closed(START_TIMEOUT_S)
        if not breaker.is_open():
            await tell_missing_eviction(breaker.client())


async def tell_missing_eviction(client: Untyped) -> None:
    """Log that this Redis does not evict: a limits store is such a one, and a full one admits no call."""
    try:
        async with asyncio.timeout(ACCESS_TIMEOUT_S):
            memory = await client.info("memory")
    except Exception:  # noqa: BLE001 -- this user may not run it, or the server is gone again
        return
    if memory.get("maxmemory_policy") == "noeviction":
        log_line(MISSING_EVICTION)


def _with_timeout(run: Untyped) -> Untyped:
    async def run_with_timeout(breaker: Untyped, name: str, command: Callable[[], Awaitable[_T]]) -> _T:
        async def command_with_timeout() -> _T:
            async with asyncio.timeout(ACCESS_TIMEOUT_S):
                return await command()

        result: _T = await run(breaker, name, command_with_timeout)
        return result

    return run_with_timeout


def _install_breaker(cache: Untyped) -> None:
    cache._circuit_breaker = RedisCircuitBreaker(cache.init_async_client)  # noqa: SLF001 -- no setting does this


def _without_retries(make: Untyped) -> Untyped:
    """Make Redis clients that do not retry: a blocking client stops the whole process while it waits."""

    @wraps(make)
    def make_without_retries(*args: Untyped, **options: Untyped) -> Untyped:
        client = make(*args, **options)
        if hasattr(client, "set_retry"):
            client.set_retry(litellm_internals.no_retries())
        return client

    return make_without_retries


class RedisCircuitBreaker:
    """Replaces one of LiteLLM's circuit breakers and has its interface; open until Redis responds."""

    enabled = True
    generation = 0

    def __init__(self, client: Callable[[], Untyped]) -> None:
        self.client = client
        self._open = True
        self._probe_task: asyncio.Task[None] | None = None
        self._pause_s, self._closed_at_s = 0.0, 0.0
        self._start_probe()

    async def wait_closed(self, timeout_s: float) -> None:
        """Wait until the breaker closes, at most `timeout_s`."""
        if self._probe_task is not None:
            await asyncio.wait({self._probe_task}, timeout=timeout_s)

    def is_open(self) -> bool:
        """Whether Redis must not be accessed; starts a probe if none runs."""
        if self._open:
            self._start_probe()
        return self._open

    def record_failure(self, *, is_timeout: bool = False) -> None:  # noqa: ARG002 -- LiteLLM's signature
        """Open the breaker: an access failed or timed out."""
        if self._open:
            return
        unstable = time.monotonic() - self._closed_at_s < STABLE_S
        self._pause_s = min(max(MAX_PROBE_INTERVAL_S, self._pause_s * 2), MAX_PAUSE_S) if unstable else 0.0
        self._open = True
        self._start_probe()

    def record_success(self) -> None:
        """Do nothing: only a probe closes the breaker."""

    def _start_probe(self) -> None:
        if self._probe_task is not None:
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # no event loop in this thread: the next access from one starts the probe
        self._probe_task = spawn("cache-redis", self._probe())
        self._probe_task.add_done_callback(self._probe_ended)

    def _probe_ended(self, _: "asyncio.Task[None]") -> None:
        """Allow the next probe, whatever ended this one."""
        self._probe_task = None

    async def _probe(self) -> None:
        await asyncio.sleep(self._pause_s)
        pause_s, logged = MIN_PROBE_INTERVAL_S, ""
        while (fault := await self._find_fault()) is not None:
            if pause_s > MAX_PROBE_INTERVAL_S / 2 and fault != logged:
                logged = fault
                log_line(f"the cache's Redis does not answer; it is left alone until it does: {fault}")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MAX_PROBE_INTERVAL_S)
        if logged:
            log_line("the cache's Redis answers again")
        self._open, self._closed_at_s = False, time.monotonic()

    async def _find_fault(self) -> str | None:
        """Return why Redis cannot be used, without addresses and passwords; None if it can."""
        try:
            async with asyncio.timeout(ACCESS_TIMEOUT_S):
                client = self.client()
                await client.ping()
                return await _unnamed_cluster(client)
        except Exception as error:  # noqa: BLE001 -- any exception of the client means that Redis is unavailable
            name = type(error).__name__
            return FAULTS.get(name, name)


async def _unnamed_cluster(client: Untyped) -> str | None:
    """Return the fault of a client that would get nothing but redirections, which LiteLLM does not follow."""
    if litellm_internals.is_cluster_client(client):
        return None
    try:
        told: Untyped = await client.info("cluster")
    except litellm_internals.redis_error_class():  # not for this user: a cluster is not recognised
        return None
    return "it belongs to a cluster: write redis+cluster://" if told.get("cluster_enabled") else None


PATCH = LiteLLMPatch(
    name="cache_gate",
    install=install,
    reason=(
        "An unresponsive Redis costs every call several timeouts: reads and writes of answers, cooldowns and "
        "counters are each tried and retried."
    ),
    report=(
        "https://github.com/BerriAI/litellm/issues/34299; the breaker of 35273 opens after several "
        "failures of each kind and holds for a minute."
    ),
    until="LiteLLM's breaker opens at the first timeout and is probed in the background.",
    tests=(
        "tests/stages/sidecar/test_redis_cache.py::test_a_frozen_redis_delays_one_call_by_less_than_a_second",
    ),
)
