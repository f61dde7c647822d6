"""HTTP/1.1 to the sidecars on httptools: one request at a time a connection, idle connections kept.

Invariants: a response is delivered in the pieces it arrived in; a connection is reused only after a complete
response; a failure before the request was sent is `ConnectError` (may be repeated), any later one is not.
Kept because a streamed frame costs 1.3 times its CPU with aiohttp and 2.5 times with httpx (measured), on
every frame of every stream.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import cache
from time import monotonic
from typing import cast
from urllib.parse import urlsplit

import httptools

KEEPALIVE_S = 20.0
"""Idle connections live shorter than a sidecar keeps them (75 s)."""
CONNECT_TIMEOUT_S = 3.0
MAX_UNREAD_BYTES = 2**18
MAX_HEAD_BYTES = 2**18
"""Of a response's head with interim ones, of chunk extensions in a row, or of trailers."""
MAX_BODY_BYTES = 2**27
"""Of a body that is read at once."""
_FRAMING = (b"content-length", b"transfer-encoding")


class ConnectError(OSError):
    """No connection could be made; nothing was sent."""


class ConnectionBroken(OSError):  # noqa: N818 -- named for the state
    """The connection broke, or the data is not HTTP; the request may have run."""


@dataclass(frozen=True, slots=True, eq=False)
class SidecarAddress:
    """Where a sidecar listens, parsed from its URL; one object for one URL.

    Attributes:
        path: The URL's path, before each endpoint's own.
        name: Host and port as in a request's `Host`.
    """

    host: str
    port: int
    secure: bool
    path: str
    name: str

    @classmethod
    @cache
    def of(cls, url: str) -> "SidecarAddress":
        """Returns the address of a URL; raises `ValueError` for one without."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"not the URL of a sidecar: {url}")
        secure = parts.scheme == "https"
        name = parts.netloc.rpartition("@")[2]
        return cls(parts.hostname, parts.port or (443 if secure else 80), secure, parts.path, name)


class HTTPConnection(asyncio.Protocol):
    """A connection that carries one request at a time.

    Attributes:
        address: The sidecar's address.
        status: Of the response; 0 before its head.
        headers: Of the response, names in lower case.
        idle_since: When it was last released, by `time.monotonic`.
        chunks: Data of the body that was received and not taken yet.
        is_complete: The whole body was received.
    """

    def __init__(self, address: SidecarAddress, loop: asyncio.AbstractEventLoop) -> None:
        self.address = address
        self._loop = loop
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._fields: dict[bytes, bytes] = {}
        self.on_header = self._fields.__setitem__  # no function of ours for each header of each response
        self._parser = httptools.HttpResponseParser(self)
        self.chunks: list[bytes] = []
        self._unread_bytes = self._framing_bytes = 0
        self._in_use = self.is_complete = self._paused = self._half_sent = self._write_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._take: Callable[[], bool] | None = None

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent: the last response is complete and the connection open."""
        transport = self._transport
        usable = not (self._in_use or self._paused or self._half_sent)
        return usable and transport is not None and not transport.is_closing()

    async def send_request(
        self,
        request: bytes,
        body: AsyncIterator[bytes] | None = None,
        on_sent: Callable[[], object] | None = None,
    ) -> None:
        """Sends a request; returns when the response's head is there. Raises `ConnectionBroken`.

        `body` follows `request`, as fast as the server reads it; an answer before its end ends it, and then
        the connection is not used again. `on_sent` is called before the answer is waited for.
        """
        if self._transport is None:
            raise ConnectionBroken
        self.status, self.headers, self.chunks = 0, {}, []
        self._in_use, self.is_complete, self._framing_bytes = True, False, 0
        self._transport.write(request)
        if body is not None:
            await self._send_body(body)
        if on_sent is not None:
            on_sent()
        while not self.status:
            await self.wait_for_data()

    async def _send_body(self, body: AsyncIterator[bytes]) -> None:
        async for part in body:
            if self._transport is None:
                raise ConnectionBroken
            self._transport.write(part)
            while self._write_paused and not self.status:
                await self.wait_for_data()
            if self.status:
                self._half_sent = True
                return

    async def read(self) -> bytes:
        """Returns what was received so far, waiting for data; b"" at the end. Raises `ConnectionBroken`."""
        while not (self.chunks or self.is_complete):
            await self.wait_for_data()
        return self.take_chunks()

    def take_chunks(self) -> bytes:
        """Returns the bytes received and not taken yet; none at the body's end, or while there are none."""
        parts, self.chunks = self.chunks, []
        self._unread_bytes = 0
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read_all(self, max_bytes: int = MAX_BODY_BYTES) -> bytes:
        """Returns the rest of the body, or about `max_bytes` of it; raises `ConnectionBroken`."""
        if self.is_complete:
            return self.take_chunks()
        parts: list[bytes] = []
        size = 0
        while size <= max_bytes and (part := await self.read()):
            parts.append(part)
            size += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def peek_all(self, max_bytes: int) -> bytes:
        """Returns what `read_all` does, and leaves it to be read again; raises `ConnectionBroken`."""
        text = await self.read_all(max_bytes)
        self.chunks.insert(0, text)
        return text

    def abort(self) -> None:
        """Closes the connection at once; the server sees it and cancels its work."""
        if self._transport is not None:
            self._transport.abort()

    def wait_for_data(self) -> "asyncio.Future[None]":
        """A future, done when data came or the connection broke; raises `ConnectionBroken` after that."""
        if self._transport is None:
            raise ConnectionBroken
        self._waiter = self._loop.create_future()
        return self._waiter

    async def pass_on(self, take: Callable[[], bool]) -> None:
        """Calls `take` at once for data that comes, until it returns False; or waits as `wait_for_data`.

        It takes the chunks, and is not called for the body's end. Raises what it raises, and
        `ConnectionBroken`.
        """
        self._take = take
        try:
            await self.wait_for_data()
        finally:
            self._take = None

    def _is_taken(self, take: Callable[[], bool], waiter: "asyncio.Future[None]") -> bool:
        """Whether what came was taken, and the task goes on waiting."""
        try:
            return not self.is_complete and (not self.chunks or take())
        except Exception as error:  # noqa: BLE001 -- it is the task's, not the event loop's
            waiter.set_exception(error)
            return True

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass

    def data_received(self, data: bytes) -> None:
        """Parses received bytes; passes them on, or wakes the waiting task once."""
        if not self._in_use:
            self.abort()
            return
        unread_bytes, self._framing_bytes = self._unread_bytes, self._framing_bytes + len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort()
            return
        if self._unread_bytes > unread_bytes:
            self._framing_bytes = 0
        elif self._framing_bytes > MAX_HEAD_BYTES:
            self.abort()
            return
        if self._unread_bytes > MAX_UNREAD_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        waiter, take = self._waiter, self._take
        if waiter is not None and not waiter.done() and (take is None or not self._is_taken(take, waiter)):
            waiter.set_result(None)

    def pause_writing(self) -> None:
        """Holds a body back: the server reads it slower than it comes."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """Wakes the task that sends a body."""
        self._write_paused = False
        if (waiter := self._waiter) is not None and not waiter.done():
            waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the connection, and with it a body that has no length of its own."""
        self._transport = None
        if exc is None and self.status and not any(name in self.headers for name in _FRAMING):
            self.is_complete = True
        if (waiter := self._waiter) is not None and not waiter.done():
            waiter.set_result(None)

    # Called by the parser

    def on_message_begin(self) -> None:
        """Rejects bytes after a complete response; the parser treats our `ValueError` as its own."""
        if self.is_complete:
            raise ValueError("bytes after a response")
        self._fields.clear()

    def on_headers_complete(self) -> None:
        """Stores status and headers: the head is complete. A header after it is a trailer, and is dropped."""
        self.headers = dict(zip(map(bytes.lower, self._fields), self._fields.values(), strict=True))
        self.status = self._parser.get_status_code()
        if self.status == 101 or self.status < 100:
            raise ValueError("unexpected status")

    def on_body(self, part: bytes) -> None:
        """Stores some of the body."""
        self.chunks.append(part)
        self._unread_bytes += len(part)

    def on_message_complete(self) -> None:
        """Ends the response, unless it was an interim one."""
        if self.status < 200:
            self.status, self.headers = 0, {}
            return
        self.is_complete = True
        self._in_use = not self._parser.should_keep_alive()


class ConnectionPool:
    """The connections of one process; idle ones are kept for the next call."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """`tls` has the authorities trusted behind `https`; without it, the system's."""
        self._idle: dict[SidecarAddress, deque[HTTPConnection]] = {}
        self._busy: set[HTTPConnection] = set()
        self._context = tls

    async def acquire(self, address: SidecarAddress) -> HTTPConnection:
        """Returns a connection for one caller until it is released; raises `ConnectError`."""
        idle = self._idle.get(address)
        while idle:
            kept = idle.pop()
            if kept.reusable and monotonic() - kept.idle_since < KEEPALIVE_S:
                self._busy.add(kept)
                return kept
            kept.abort()
        return await self._connect(address)

    def release(self, connection: HTTPConnection) -> None:
        """Keeps a connection whose response was read to its end; closes any other."""
        self._busy.discard(connection)
        if not connection.reusable:
            connection.abort()
            return
        connection.idle_since = now = monotonic()
        idle = self._idle.setdefault(connection.address, deque())
        idle.append(connection)
        while now - idle[0].idle_since > KEEPALIVE_S:
            idle.popleft().abort()

    def close(self) -> None:
        """Closes every connection."""
        for connection in (*self._busy, *(one for idle in self._idle.values() for one in idle)):
            connection.abort()
        self._idle.clear()

    async def _connect(self, address: SidecarAddress) -> HTTPConnection:
        if address.secure and self._context is None:
            self._context = ssl.create_default_context()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await loop.create_connection(
                    lambda: HTTPConnection(address, loop),
                    address.host,
                    address.port,
                    ssl=self._context if address.secure else None,
                )
        except (OSError, TimeoutError) as fault:
            raise ConnectError(str(fault)) from fault
        self._busy.add(connection)
        return connection
