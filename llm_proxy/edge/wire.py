"""A connection before it is a request: how long a head may be, and how long it may take.

uvicorn keeps what it is sent until a head ends, and waits for that end for ever. Invariants: a connection
whose head passes `MAX_HEAD_BYTES`, or is not whole within the server's limit, is closed; a connection that
waits between two requests is uvicorn's own to close. Units: bytes; seconds of the event loop's clock.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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


class BoundedHead(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 connection, with bounds.

    Attributes:
        head_since: When the head that is being received began; None while none is.
    """

    head_since: float | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's signature
        """A client has connected: its first head begins."""
        super().connection_made(transport)
        self.head_since = self.loop.time()

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


def close_slow(connections: Iterable[Any], now: float, limit_s: float) -> None:
    """Close every connection whose head has been arriving for longer than the limit."""
    for connection in list(connections):
        if isinstance(connection, BoundedHead):
            since = connection.head_since
            if since is not None and now - since > limit_s:
                connection.transport.close()
