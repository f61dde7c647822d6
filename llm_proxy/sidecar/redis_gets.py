"""GETs of one Redis server on one connection, each sent without waiting for the replies of others.

LiteLLM's client takes 60 us of CPU for a GET, this connection 10. LiteLLM's client still opens it, so that
address, TLS, credentials, database and sentinels are its business; a cluster has no such connection.
Invariants: replies come in the order of the requests, so a late one ends the connection and what waits on it;
a closed one is opened again by the next request. A connection has one timer, a turn of the loop one write.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

import hiredis

from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.redis_breaker import ACCESS_TIMEOUT_S


class RedisGets:
    """Reads values by key."""

    def __init__(self, client: Callable[[], Untyped]) -> None:
        """`client` returns LiteLLM's client of the server."""
        self._client = client
        self._pipeline: _Pipeline | None = None
        self._opening = asyncio.Lock()

    async def get(self, key: str) -> bytes | None:
        """Return a key's value; raises `TimeoutError`, `ConnectionError` or what LiteLLM's client raises."""
        pipeline = self._pipeline
        if pipeline is None or pipeline.closed:
            async with asyncio.timeout(ACCESS_TIMEOUT_S):
                pipeline = await self._open()
                if pipeline is None:
                    found: bytes | None = await self._client().get(key)
                    return found
        return await pipeline.request(key.encode())

    async def _open(self) -> "_Pipeline | None":
        """Return an open connection; None for a client that is not of one server."""
        async with self._opening:
            if self._pipeline is not None and not self._pipeline.closed:
                return self._pipeline
            pool = getattr(self._client(), "connection_pool", None)
            if pool is None:
                return None
            connection = pool.make_connection()
            await connection.connect()
            self._pipeline = _Pipeline(connection)
            return self._pipeline

    def close(self) -> None:
        """Close the connection; what waits on it fails."""
        if self._pipeline is not None:
            self._pipeline.close(ConnectionError("closed"))


class _Pipeline(asyncio.Protocol):
    """Takes over the socket of a connection that has authenticated."""

    def __init__(self, connection: Untyped) -> None:
        self._writer = connection._writer  # noqa: SLF001 -- no public name; it closes the socket when it goes
        connection._reader = connection._writer = None  # noqa: SLF001 -- else the connection closes it
        self._transport = cast("asyncio.Transport", self._writer.transport)
        self._transport.set_protocol(self)
        self._replies = hiredis.Reader()
        self._waiting: deque[tuple[asyncio.Future[bytes | None], float]] = deque()  # and until when
        self._unsent = list[bytes]()
        self._timer: asyncio.TimerHandle | None = None
        self.closed = False

    def request(self, key: bytes) -> asyncio.Future[bytes | None]:
        """Send a request; return the future of its reply."""
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[bytes | None] = loop.create_future()
        self._waiting.append((reply, loop.time() + ACCESS_TIMEOUT_S))
        if not self._unsent:
            loop.call_soon(self._send)
        self._unsent.append(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key))
        if self._timer is None:
            self._timer = loop.call_later(ACCESS_TIMEOUT_S, self._check_time)
        return reply

    def _send(self) -> None:
        """Write the requests that wait."""
        unsent, self._unsent = self._unsent, []
        if not self.closed:
            self._transport.write(b"".join(unsent))

    def _check_time(self) -> None:
        """Close the connection if a reply is late; look again when the next one would be."""
        loop, self._timer = asyncio.get_running_loop(), None
        if self._waiting and self._waiting[0][1] <= loop.time():
            self.close(TimeoutError("Redis did not respond in time"))
        elif self._waiting:
            self._timer = loop.call_at(self._waiting[0][1], self._check_time)

    def data_received(self, data: bytes) -> None:
        """Hand each reply to the request that waits longest."""
        self._replies.feed(data)
        while (reply := self._replies.gets()) is not False:
            if isinstance(reply, hiredis.PushNotification):
                continue
            if isinstance(reply, hiredis.ReplyError) or not self._waiting:
                self.close(ConnectionError(f"Redis replied: {reply}"))
                return
            waiting, _ = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits."""
        self.close(ConnectionError(f"Redis closed the connection: {exc or 'end of stream'}"))

    def close(self, error: Exception) -> None:
        """Close the connection and fail what waits on it."""
        self.closed = True
        self._transport.abort()
        while self._waiting:
            waiting, _ = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(error)
