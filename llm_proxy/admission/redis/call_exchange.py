"""Exchange of running calls and of stops between the processes of a deployment, through the limits store.

Invariants: nothing is written for a call; a process asks every `REPORT_INTERVAL_S` whether they are watched,
and publishes its calls only then; all keys expire within seconds and share one hash tag, so that a Redis
Cluster has them at one node. Raises LimiterUnavailable. Units: milliseconds of the store's clock.
"""

from dataclasses import dataclass
from typing import Any

from llm_proxy.admission.redis.cluster import ClusterClient
from llm_proxy.admission.redis.script import Script

REPORT_INTERVAL_S = 0.5
WORKER_TTL_MS = 10_000
"""Time without a report after which a process counts as ended."""
WATCH_TTL_MS = 10_000
CALLS_TTL_MS = 2_000
STOP_TTL_MS = 10_000

_WORKERS, _WATCHED, _STOPS = "lp:{calls}:workers", "lp:{calls}:watched", "lp:{calls}:stops"
_CALLS, _STOPPED = "lp:{calls}:of:", "lp:{calls}:stopped:"


@dataclass(frozen=True, slots=True)
class WorkerOrders:
    """What a process has to do.

    Attributes:
        watched: The running calls are watched.
        stops: The calls to be stopped: the scope in which each was requested, by request id.
    """

    watched: bool
    stops: dict[str, bytes]


class CallExchange:
    """Running calls and stops, exchanged through the limits store."""

    def __init__(self, cluster: ClusterClient) -> None:
        self._cluster = cluster
        self._report = Script(cluster, "report")

    async def report(self, worker: str) -> WorkerOrders:
        """Registers this process as alive; returns what it shall do."""
        keys = (_WORKERS, _WATCHED, _STOPS)
        watched, stops = await self._report.run(keys, (worker, WORKER_TTL_MS))
        pairs = zip(stops[::2], stops[1::2], strict=True)
        return WorkerOrders(bool(watched), {name.decode(): scope for name, scope in pairs})

    async def publish(self, worker: str, calls: bytes) -> None:
        """Publishes the calls of this process, for as long as `CALLS_TTL_MS`."""
        await self._run("SET", _CALLS + worker, calls, "PX", CALLS_TTL_MS)

    async def leave(self, worker: str) -> None:
        """Removes this process, which ends."""
        await self._run("ZREM", _WORKERS, worker)
        await self._run("DEL", _CALLS + worker)

    async def watch(self) -> None:
        """Asks every process to publish its calls for a while."""
        await self._run("SET", _WATCHED, "1", "PX", WATCH_TTL_MS)

    async def published(self) -> dict[str, bytes | None]:
        """Returns what each living process has published; None where it has published nothing (yet)."""
        workers: list[bytes] = await self._run("ZRANGE", _WORKERS, 0, -1)
        if not workers:
            return {}
        names = [name.decode() for name in workers]
        found = await self._run("MGET", *(_CALLS + name for name in names))
        return dict(zip(names, found, strict=True))

    async def ask_to_stop(self, request_id: str, scope: bytes) -> None:
        """Asks the process that has a call to stop it."""
        await self._run("HSET", _STOPS, request_id, scope)
        await self._run("PEXPIRE", _STOPS, STOP_TTL_MS)

    async def report_stopped(self, request_id: str, call: bytes) -> None:
        """Says that a call was stopped here."""
        await self._run("SET", _STOPPED + request_id, call, "PX", STOP_TTL_MS)
        await self._run("HDEL", _STOPS, request_id)

    async def find_stopped(self, request_id: str) -> bytes | None:
        """Returns the call as the process that stopped it saw it; None while none has."""
        found: bytes | None = await self._run("GET", _STOPPED + request_id)
        return found

    async def _run(self, *args: str | int | bytes) -> Any:  # noqa: ANN401 -- RESP
        return await self._cluster.execute(_WORKERS, *args)
