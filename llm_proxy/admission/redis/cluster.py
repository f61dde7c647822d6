"""Which Redis node holds a key: a single server, or the nodes of a Redis Cluster.

Invariants: a command follows MOVED at most `MAX_REDIRECTS` times; the slot table is read again after a slot
has moved and while a node is unreachable. redis-py's cluster client is not used: it retries commands, and
cannot hand over a reply that arrives after its timeout.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from llm_proxy.admission.limiter import LimiterUnavailable
from llm_proxy.admission.redis.connection import Argument, RedisConnection
from llm_proxy.background import BackgroundLoop, spawn

log = logging.getLogger(__name__)

MAX_REDIRECTS = 4
REFRESH_INTERVAL_S = 0.5


class ClusterClient:
    """Knows which connection a key is asked at."""

    def __init__(self, url: str, wire: Callable[[str], RedisConnection], *, timeout_s: float) -> None:
        self._url = url
        self._wire = wire
        self._timeout_s = timeout_s
        self._first = wire(url)
        self._by_address: dict[str, RedisConnection] = {}
        self._slots: list[RedisConnection] | None = None
        self._table_is_old = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._table = BackgroundLoop("limits-cluster", self._keep_table, every_s=REFRESH_INTERVAL_S)

    @property
    def is_available(self) -> bool:
        """Whether every node can be asked now."""
        return all(wire.is_available for wire in self.connections)

    @property
    def is_cluster(self) -> bool:
        """Whether the store is a Redis Cluster, as far as it has told."""
        return self._slots is not None

    @property
    def connections(self) -> tuple[RedisConnection, ...]:
        """A connection to each node that has keys."""
        return (self._first,) if self._slots is None else tuple(self._by_address.values())

    async def start(self) -> None:
        """Connect, or keep trying in the background."""
        await self._first.start()
        with contextlib.suppress(LimiterUnavailable):
            await self._read_table()

    async def stop(self) -> None:
        """Close every connection."""
        await self._table.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for wire in (self._first, *self._by_address.values()):
            await wire.stop()

    def connection_for(self, key: str) -> RedisConnection:
        """Whom to ask about a key."""
        return self._first if self._slots is None else self._slots[key_slot(key.encode())]

    async def execute(
        self, key: str, *words: Argument, on_late_reply: Callable[[Any], None] | None = None
    ) -> Any:  # noqa: ANN401 -- RESP
        """The reply to a command about a key, at whichever node has it; raises `LimiterUnavailable`."""
        wire = self.connection_for(key)
        for _ in range(MAX_REDIRECTS):
            asked = wire.execute(*words, on_late_reply=on_late_reply)
            try:
                return await asked
            except asyncio.CancelledError:
                if (
                    on_late_reply is not None
                    and asked.done()
                    and not asked.cancelled()
                    and not asked.exception()
                ):
                    on_late_reply(
                        asked.result()
                    )  # the reply and the cancellation came in one turn of the loop
                raise
            except LimiterUnavailable as away:
                match str(away).split():
                    case ["MOVED", slot, address]:
                        wire = await self._at(address)
                        self._learn(int(slot), wire)
                    case ["CROSSSLOT", *_] if self._slots is None:
                        with contextlib.suppress(LimiterUnavailable):
                            await self._read_table()  # it was away at the start, and is a cluster
                        raise
                    case _:
                        raise
        raise LimiterUnavailable

    def _learn(self, slot: int, wire: RedisConnection) -> None:
        if self._slots is None:
            self._slots = [self._first] * REDIS_CLUSTER_HASH_SLOTS
            self._table.start()
        self._slots[slot] = wire
        self._table_is_old = True

    async def _at(self, address: str) -> RedisConnection:
        """The connection to a node; a new one is waited for no longer than for an answer."""
        wire = self._by_address.get(address)
        if wire is None:
            wire = self._by_address[address] = self._wire(_url_at(self._url, address))
            await asyncio.wait({self._begin(wire.start())}, timeout=self._timeout_s)
        return wire

    async def _read_table(self) -> None:
        """Reads which node has which slots; raises `LimiterUnavailable` without a cluster's answer."""
        rows: list[Any] | None = None
        for wire in (self._first, *self._by_address.values()):
            try:
                rows = await wire.execute("CLUSTER", "SLOTS")
                break
            except LimiterUnavailable:
                continue
        if not rows:
            raise LimiterUnavailable
        slots = [self._first] * REDIS_CLUSTER_HASH_SLOTS
        for low, high, (host, port, *_), *_ in rows:
            wire = await self._at(f"{(host or b'').decode()}:{port}")
            slots[low : high + 1] = [wire] * (high + 1 - low)
        if self._slots is None:
            self._table.start()
        self._slots, self._table_is_old = slots, False
        for address in [one for one, wire in self._by_address.items() if wire not in set(slots)]:
            self._begin(self._by_address.pop(address).stop())

    async def _keep_table(self) -> None:
        """Read the table again when a slot has moved, and while a node does not answer."""
        if self._table_is_old or not self.is_available:
            with contextlib.suppress(LimiterUnavailable):
                await self._read_table()

    def _begin(self, work: Any) -> "asyncio.Task[None]":  # noqa: ANN401 -- a coroutine
        task = spawn("limits-cluster", work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _url_at(url: str, address: str) -> str:
    """The same address at another node; one without a host is where the first is."""
    parts = urlsplit(url)
    host, _, port = address.rpartition(":")
    host = host or parts.hostname or "127.0.0.1"
    who = parts.netloc.rpartition("@")[0]
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return urlunsplit(parts._replace(netloc=f"{who}@{place}" if who else place))
