"""Which Redis node holds a key: a single server, or the nodes of a Redis Cluster.

Invariants: a command follows MOVED and ASK at most `MAX_REDIRECTS` times, and is tried again, as long as the
timeout lasts, while its keys are on their way between two nodes; the slot table is read again after a slot
has moved and while a node is unreachable. redis-py's cluster client is not used: it retries commands, and
cannot hand over a reply that arrives after its timeout.
"""

import asyncio
import binascii
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from llm_proxy.admission.limiter import LimiterUnavailable
from llm_proxy.admission.redis.connection import Argument, RedisConnection
from llm_proxy.background import BackgroundLoop, spawn
from llm_proxy.redis_urls import redis_address

log = logging.getLogger(__name__)

SLOTS = 16_384
MAX_REDIRECTS = 4
REFRESH_INTERVAL_S = 0.5
TRY_AGAIN_S = 0.005


class ClusterClient:
    """Finds the connection for each key."""

    def __init__(self, url: str, connection: Callable[[str], RedisConnection], *, timeout_s: float) -> None:
        self._address = redis_address(url)
        self._connect = connection
        self._timeout_s = timeout_s
        self._first = connection(url)
        self._by_address: dict[str, RedisConnection] = {}
        self._slots: list[RedisConnection] | None = None
        self._is_stale = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._refresh_loop = BackgroundLoop("limits-cluster", self._refresh_table, every_s=REFRESH_INTERVAL_S)

    @property
    def is_available(self) -> bool:
        """Whether every node can be reached now."""
        return all(connection.is_available for connection in self.connections)

    @property
    def fault(self) -> str:
        """Why a node cannot be reached, without addresses and passwords; empty where all can."""
        return next((one.fault for one in self.connections if one.fault), "")

    @property
    def is_cluster(self) -> bool:
        """Whether the store is a Redis Cluster, as far as is known."""
        return self._slots is not None

    @property
    def connections(self) -> tuple[RedisConnection, ...]:
        """A connection to each node that has keys."""
        return (self._first,) if self._slots is None else tuple(self._by_address.values())

    async def start(self) -> None:
        """Connects, or keeps trying in the background."""
        await self._first.start()
        with contextlib.suppress(LimiterUnavailable):
            await self._read_table()

    async def stop(self) -> None:
        """Closes every connection."""
        await self._refresh_loop.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in (self._first, *self._by_address.values()):
            await connection.stop()

    def connection_for(self, key: str) -> RedisConnection:
        """Returns the connection to the node of a key."""
        return self._first if self._slots is None else self._slots[key_slot(key.encode())]

    async def execute(
        self, key: str, *args: Argument, on_late_reply: Callable[[Any], None] | None = None
    ) -> Any:  # noqa: ANN401 -- RESP
        """Returns the reply of the node that has the key; raises `LimiterUnavailable`."""
        connection, asking, redirects = self.connection_for(key), False, 0
        give_up_at = asyncio.get_running_loop().time() + self._timeout_s
        while redirects < MAX_REDIRECTS:
            if asking:
                connection.execute("ASKING").add_done_callback(_forget)
            reply = connection.execute(*args, on_late_reply=on_late_reply)
            connection.flush_if_alone()
            try:
                return await reply
            except asyncio.CancelledError:
                arrived = reply.done() and not reply.cancelled() and not reply.exception()
                if on_late_reply is not None and arrived:  # in the same cycle of the event loop
                    on_late_reply(reply.result())
                raise
            except LimiterUnavailable as unavailable:
                asking, words = False, str(unavailable).split()
                match words:
                    case [("MOVED" | "ASK") as how, slot, address]:
                        connection, redirects = await self._connection_at(address), redirects + 1
                        asking = how == "ASK"
                        if not asking:
                            self._assign_slot(int(slot), connection)
                    case ["TRYAGAIN", *_] if asyncio.get_running_loop().time() < give_up_at:
                        await asyncio.sleep(TRY_AGAIN_S)
                        connection, redirects = self.connection_for(key), 0
                    case ["CROSSSLOT", *_] if self._slots is None:
                        with contextlib.suppress(LimiterUnavailable):
                            await self._read_table()  # unreachable at start, and a cluster
                        raise
                    case _:
                        raise
        raise LimiterUnavailable

    def _assign_slot(self, slot: int, connection: RedisConnection) -> None:
        if self._slots is None:
            self._slots = [self._first] * SLOTS
            self._refresh_loop.start()
        self._slots[slot] = connection
        self._is_stale = True

    async def _connection_at(self, address: str) -> RedisConnection:
        """Returns the connection to a node; a new one is waited for at most the timeout."""
        connection = self._by_address.get(address)
        if connection is None:
            connection = self._by_address[address] = self._connect(self._url_at(address))
            await asyncio.wait({self._run(connection.start())}, timeout=self._timeout_s)
        return connection

    def _url_at(self, address: str) -> str:
        """Returns the address of a node; one without a host is at the first node's."""
        host, _, port = address.rpartition(":")
        known = self._address.hosts or (("127.0.0.1", 0),)
        return self._address.server_at(host.strip("[]") or known[0][0], int(port))

    async def _read_table(self) -> None:
        """Reads which node has which slots; raises `LimiterUnavailable` without a cluster's answer."""
        rows: list[Any] | None = None
        for connection in (self._first, *self._by_address.values()):
            try:
                rows = await connection.execute("CLUSTER", "SLOTS")
                break
            except LimiterUnavailable:
                continue
        if not rows:
            raise LimiterUnavailable
        slots = [self._first] * SLOTS
        for low, high, (host, port, *_), *_ in rows:
            connection = await self._connection_at(f"{(host or b'').decode()}:{port}")
            slots[low : high + 1] = [connection] * (high + 1 - low)
        if self._slots is None:
            self._refresh_loop.start()
        self._slots, self._is_stale = slots, False
        for address in [one for one, connection in self._by_address.items() if connection not in set(slots)]:
            self._run(self._by_address.pop(address).stop())

    async def _refresh_table(self) -> None:
        """Reads the table again when a slot has moved, and while a node is unreachable."""
        if self._is_stale or not self.is_available:
            with contextlib.suppress(LimiterUnavailable):
                await self._read_table()

    def _run(self, work: Any) -> "asyncio.Task[None]":  # noqa: ANN401 -- a coroutine
        task = spawn("limits-cluster", work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def key_slot(key: bytes) -> int:
    """Returns the slot of a key, or of what its first braces hold (Redis Cluster specification)."""
    _, brace, rest = key.partition(b"{")
    tag, end, _ = rest.partition(b"}")
    return binascii.crc_hqx(tag if brace and end and tag else key, 0) % SLOTS


def _forget(reply: "asyncio.Future[Any]") -> None:
    """Ignores the reply: the command that follows fails for the same reason."""
    if not reply.cancelled():
        reply.exception()
