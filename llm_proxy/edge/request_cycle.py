"""BoundedRequestCycle: one request on a connection and its response, as few writes as it takes.

Invariants: a head leaves with the first bytes of its body; a plain one is written by one format, any other as
uvicorn writes it. Overridden members of uvicorn: `tests/unit/edge/test_http_protocol.py`.
"""

import asyncio
import re
import socket
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle

RawHeaders = list[tuple[bytes, bytes]]

BREAK_OFF = "llm_proxy.response.break_off"
"""Our own ASGI message: ends the connection without the response's end, so that it is not taken for whole."""
_NAMES = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
_FORBIDDEN = bytes(one for one in range(256) if HEADER_VALUE_RE.search(bytes([one])))
"""What no value of a header holds; to leave it out of all values takes less than the pattern's search."""
_FRAMING = frozenset({b"connection", b"content-length", b"transfer-encoding"})
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_INTERNAL_ERROR = (
    b'{"error":{"message":"The server had an error while processing your request.",'
    b'"type":"server_error","param":null,"code":"internal_error"}}'
)


class ResponseTransport:
    """The transport as request cycles see it: a held head leaves with the next bytes, in one write."""

    def __init__(self, transport: asyncio.Transport, flow: FlowControl, close: Callable[[], None]) -> None:
        self._write, self._flow = transport.write, flow
        self._head = b""
        self.holds_next = False
        self._transport = transport
        self.is_closing = transport.is_closing
        self.close = close

    def write(self, data: bytes) -> None:
        """Writes bytes, or holds them if they are a head that waits for more."""
        if self.holds_next:
            self._head, self.holds_next = data, False
            return
        if self._head:
            data, self._head = self._head + data, b""
        self._write(data)

    def write_chunk(self, body: bytes) -> bool:
        """Writes a further chunk of a chunked body; False where it has to wait, or no client is left."""
        if self._flow.write_paused or self.is_closing():
            return False
        self._write(b"%x\r\n%b\r\n" % (len(body), body))
        return True

    def reset(self) -> None:
        """Resets the connection: its peer gets an error where a plain end would look like the response's."""
        accepted: socket.socket | None = self._transport.get_extra_info("socket")
        if accepted is not None:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()


class BoundedRequestCycle(RequestResponseCycle):
    """One request and its response; adds to uvicorn's what `Expect`, HTTP/1.0 and `BREAK_OFF` need."""

    transport: Any  # a `ResponseTransport`
    _ends_with_connection = False
    _whole: bytes | None = None  # a body that came with its head, until it is read

    def take_whole(self, body: bytes) -> None:
        """Takes the whole body of the request."""
        self._whole, self.more_body = body, False

    def read_whole(self) -> bytes | None:
        """Returns a body that came with its head, once; None for what `receive` has to wait for."""
        body, self._whole = self._whole, None
        return None if self.disconnected or self.response_complete else body

    async def receive(self) -> Any:  # noqa: ANN401 -- as `send`
        """Returns the next ASGI message; a body that is there at once, without a turn of its event."""
        body = self.read_whole()
        if body is None:
            return await super().receive()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Any) -> None:  # noqa: ANN401 -- uvicorn's types of ASGI messages are private
        """Sends one ASGI message; a body that never came ends the connection (RFC 9110, 10.1.1).

        A further chunk of a stream that nothing holds up is written at once: uvicorn's steps, fewer calls.
        """
        if (
            self.chunked_encoding
            and message.get("more_body")
            and not (self.flow.write_paused or self.disconnected or self.response_complete)
            and (body := message.get("body"))
            and self.scope["method"] != "HEAD"
        ):
            self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
            return
        kind = message["type"]
        if kind == BREAK_OFF:
            self._break_off()
            return
        if kind == "http.response.start" and not self.response_started:
            if self.flow.write_paused and not self.disconnected:
                await self.flow.drain()  # a call that is interrupted meanwhile has another head
            self._prepare_head(message)
        if kind == "http.response.body" and self._ends_with_connection:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)

    def _prepare_head(self, start: Any) -> None:  # noqa: ANN401 -- as `send`
        """Lets a head wait for the first bytes of its body, unless it has none."""
        if self.waiting_for_100_continue:
            self.keep_alive = self.waiting_for_100_continue = False
        if self.scope["http_version"] == "1.0" and b"content-length" not in dict(start.get("headers", ())):
            self._ends_with_connection, self.chunked_encoding = True, False
        self.transport.holds_next = self.scope["method"] != "HEAD"

    def write_answer(self, status: int, headers: RawHeaders, body: bytes) -> bool:
        """Writes a whole response at once; False, and nothing written, where it is uvicorn's to write.

        `headers` name no length of the body: it is added.
        """
        if (head := self._plain_head(status, headers)) is None:
            return False
        self.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        self.response_started = self.response_complete = True
        self.message_event.set()
        self.on_response()
        return True

    def write_beginning(self, headers: RawHeaders, chunk: bytes) -> bool:
        """Writes the head and the first chunk of a stream at once; False as `write_answer`."""
        if (head := self._plain_head(200, headers)) is None:
            return False
        self.transport.write(b"%btransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (head, len(chunk), chunk))
        self.response_started = self.chunked_encoding = True
        return True

    def _plain_head(self, status: int, headers: RawHeaders) -> bytes | None:
        """Returns a head without what frames its body; None if it is not plain, or cannot be written now."""
        is_plain = self.keep_alive and not (
            self.response_started
            or self.flow.write_paused
            or self.disconnected
            or self.default_headers
            or self.waiting_for_100_continue
            or self.scope["method"] == "HEAD"
        )
        if not is_plain:
            return None
        names, values = zip(*headers, strict=True)
        lines = plain_lines(names)
        text = b"".join(values)
        if not lines or len(text.translate(None, _FORBIDDEN)) < len(text):
            return None
        return STATUS_LINE[status] + lines % values

    def _break_off(self) -> None:
        """Ends the connection within the response, by a reset where a plain end would complete it."""
        self.disconnected, self.keep_alive = True, False
        if self._ends_with_connection:
            self.transport.reset()
        else:
            self.transport.close()

    async def send_500_response(self) -> None:
        """Sends an internal error in OpenAI's envelope, for an application that failed before it answered."""
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(_INTERNAL_ERROR)),
            (b"connection", b"close"),
        ]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": _INTERNAL_ERROR})

    def disconnect(self) -> None:
        """Notifies the application that its client has disconnected."""
        self.disconnected = not self.response_complete
        self.waiting_for_100_continue = False
        self.message_event.set()


@lru_cache(maxsize=256)
def plain_lines(names: tuple[bytes, ...]) -> bytes:
    """Returns the lines of headers with these names, `%b` for each value.

    No lines unless all names are valid, in lower case, and no header frames the response.
    """
    if _NAMES.fullmatch(b"".join(names)) is None or not _FRAMING.isdisjoint(names):
        return b""
    return b"".join(b"%b: %%b\r\n" % name.replace(b"%", b"%%") for name in names)
