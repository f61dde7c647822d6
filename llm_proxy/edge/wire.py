"""A connection around its requests: how many there may be, how long a head, or a body nobody reads, may take.

uvicorn keeps what it is sent until a head ends, waits for that end for ever, reads what follows an answered
head without end, and accepts all who come. Invariants: a connection whose head passes `MAX_HEAD_BYTES`, or
that sends on after its answer beyond `MAX_DRAINED_BYTES`, or does either for longer than the server's limit,
is closed; one that waits for its next request is closed after uvicorn's keep-alive; one whose peer takes
nothing is the kernel's; HTTP/1.0 gets no chunks. Units: bytes; seconds of the event loop's clock.
"""

import asyncio
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable, MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S = 60, 15
MAX_HEAD_BYTES = 256 * 2**10
"""Where memory ends. What `max_header_bytes` allows is less, and is refused with words by the doors."""
MAX_DRAINED_BYTES = 32 * 2**20
"""What is read and thrown away after an early refusal, so that callers who read last of all see it."""

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
        self.is_closing = transport.is_closing  # asked after every answer: no way round by `__getattr__`

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
        drained_since: When the answer to a request was whole whose body was not; None while there is none.
    """

    head_since: float | None = None
    drained_since: float | None = None
    _head_bytes = 0
    _drained_bytes = 0

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
        if self.scope["http_version"] == "1.0":
            self.cycle.send = _unframed(self.cycle)  # type: ignore[assignment, method-assign]  # uvicorn frames every version alike

    def on_response_complete(self) -> None:
        """An answer is whole; whether its request is will be seen."""
        if not self.pipeline and self.cycle.more_body:
            self.drained_since, self._drained_bytes = self.loop.time(), 0
        super().on_response_complete()

    def on_message_complete(self) -> None:
        """The parser saw the end of a body."""
        self.drained_since = None
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Bytes came in."""
        super().data_received(data)
        if self.head_since is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse()
        elif self.cycle and self.cycle.response_complete:
            self._drain(len(data))

    def _drain(self, size: int) -> None:
        """Bytes came that belong to nothing that will be read."""
        if self.transport.is_closing():
            return
        if self.drained_since is None:
            # They were the last of it, or empty lines: the wait for a request goes on.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            return
        self._drained_bytes += size
        if self._drained_bytes > MAX_DRAINED_BYTES:
            self.transport.close()

    def _refuse(self) -> None:
        if not self.transport.is_closing():
            if not self.cycle or self.cycle.response_complete:
                self.transport.write(_TOO_LARGE)
            self.transport.close()


Message = MutableMapping[str, Any]


def _unframed(cycle: RequestResponseCycle) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """A way to answer that ends with the connection where no length is stated (RFC 9112, 6.1 and 6.3)."""
    framed = cycle.send

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            if all(name != b"content-length" for name, _ in message["headers"]):
                cycle.chunked_encoding = False
        elif not cycle.expected_content_length:
            cycle.expected_content_length = len(message.get("body", b""))
        await framed(message)  # type: ignore[arg-type]  # the same message

    return send


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
    """Close every connection whose head, or unread rest, has been arriving for longer than the limit."""
    for connection in list(connections):
        if isinstance(connection, BoundedHead):
            since = connection.head_since or connection.drained_since
            if since is not None and now - since > limit_s:
                connection.transport.close()
