"""A connection before it is a request: how many there may be, how long a head may be and may take.

uvicorn keeps what it is sent until a head ends, waits for that end for ever, and accepts all who come.
Invariants: a connection whose head passes `MAX_HEAD_BYTES`, or is not whole within the server's limit, is
closed; one beyond the number allowed is told so and closed; one that waits between two requests is uvicorn's
own to close; one whose peer takes nothing is the kernel's. Units: bytes; seconds of the event loop's clock.
"""

import asyncio
import socket
import sys
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S = 60, 15
MAX_HEAD_BYTES = 256 * 2**10
"""Where memory ends. What `max_header_bytes` allows is less, and is refused with words by the doors."""

_BODY = (
    b'{"error":{"message":"The request\'s headers are too large.","type":"invalid_request_error",'
    b'"param":null,"code":"headers_too_large"}}'
)
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


_BUSY = (
    b'{"error":{"message":"Too many connections; please try again.","type":"server_error",'
    b'"param":null,"code":"overloaded"}}'
)
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_BUSY), _BUSY)
)


class HeadWithBody:
    """A transport on which a response's head waits for the first bytes of its body: one system call for both.

    The wait ends with the event loop's turn at the latest. All but writing is the transport's own.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        """Send bytes, a head with what follows it."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self.flush)
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Send a head nothing has followed yet."""
        if self._head:
            data, self._head = self._head, b""
            self._transport.write(data)

    def close(self) -> None:
        """Close, after what was written."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 -- whatever the transport has
        return getattr(self._transport, name)


class BoundedHead(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 connection, with bounds.

    Attributes:
        head_since: When the head that is being received began; None while none is.
    """

    head_since: float | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's signature
        """A client has connected: its first head begins."""
        super().connection_made(HeadWithBody(transport, self.loop))  # type: ignore[arg-type]  # it is one in all but type
        self.head_since = self.loop.time()
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            transport.write(_TOO_MANY)
            transport.close()

    def on_message_begin(self) -> None:
        """The parser saw the first byte of a request."""
        super().on_message_begin()
        self.head_since, self._head_bytes = self.loop.time(), 0

    def on_headers_complete(self) -> None:
        """The parser saw the end of a head."""
        self.head_since = None
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Bytes came in."""
        super().data_received(data)
        if self.head_since is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse()

    def _refuse(self) -> None:
        if not self.transport.is_closing():
            if not self.cycle or self.cycle.response_complete:
                self.transport.write(_TOO_LARGE)
            self.transport.close()


def bound_waits(listener: socket.socket, unread_s: float) -> None:
    """Have the kernel end what connections of this listener can wait for without end.

    A peer that is gone is asked for after a minute's quiet; one that takes nothing of what it was sent for
    `unread_s` seconds is let go, answer or not. Accepted sockets inherit both (tcp(7)).
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_EVERY_S)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(unread_s * 1000))


def close_slow(connections: Iterable[Any], now: float, limit_s: float) -> None:
    """Close every connection whose head has been arriving for longer than the limit."""
    for connection in list(connections):
        if isinstance(connection, BoundedHead):
            since = connection.head_since
            if since is not None and now - since > limit_s:
                connection.transport.close()
