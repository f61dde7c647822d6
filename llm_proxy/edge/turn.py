"""One request and its answer on a connection: what ASGI calls `receive` and `send`.

Invariants: nothing leaves before the first bytes of the body, head and body in one write; an answer's length
is the one its head states, or its end is marked; a header with a line break in it is never written; whoever
fails to answer, the caller hears of it, by a 500 or a cut connection. Source: RFC 9112; ASGI HTTP 2.3.
"""

import asyncio
import http
from collections.abc import Iterable
from typing import Literal, Protocol

from llm_proxy.edge.request import Message, Scope

MOST_UNREAD_BYTES = 2**16
"""So much of a body is taken from the kernel before somebody asks for it."""

_PHRASES = {one.value: one.phrase for one in http.HTTPStatus}
_STATUS_LINE = {
    status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}".encode() for status in range(100, 600)
}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE = (b"connection", b"close")
_CHUNKED = (b"transfer-encoding", b"chunked")
_NO_BODY = frozenset({204, 304})
_BUG = (
    b'{"error":{"message":"The server had an error while processing your request.",'
    b'"type":"server_error","param":null,"code":"internal_error"}}'
)
_BUG_HEADERS = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BUG)))
Framing = Literal["length", "chunks", "none", "end"]
"""How a reader knows where a body ends; `end`: with the connection."""
_GONE: Message = {"type": "http.disconnect"}


class Carrier(Protocol):
    """What a turn needs of its connection."""

    transport: asyncio.Transport
    writable: asyncio.Future[None] | None

    def resume_reading(self) -> None:
        """Take more from the kernel."""
        ...

    def answered(self, turn: "Turn") -> None:
        """The turn's answer is whole."""
        ...


class Turn:
    """One request and its answer.

    Attributes:
        scope: The request's head, as ASGI has it.
        keep_alive: Whether another request may follow on the connection.
        more_body: Whether some of the request is still to come.
        unread_bytes: Of its body, what nobody has asked for.
        started: Bytes of the answer have left.
        complete: All of them have.
        gone: The caller has left.
    """

    __slots__ = (
        "_carrier", "_continued", "_framing", "_head", "_left_bytes", "_loop", "_news", "_parts", "_streams",
        "_waiter", "complete", "gone", "keep_alive", "more_body", "scope", "started", "unread_bytes",
    )  # fmt: skip

    def __init__(self, carrier: Carrier, scope: Scope, loop: asyncio.AbstractEventLoop) -> None:
        self._carrier = carrier
        self._loop = loop
        self._parts: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._news = False
        self._head: bytes | None = None
        self._framing: Framing = "end"
        self._left_bytes = 0
        self.scope = scope
        self.keep_alive = True
        self.more_body = True
        self.unread_bytes = 0
        self._continued = self._streams = self.started = self.complete = self.gone = False

    def came(self, part: bytes) -> None:
        """Some of the body."""
        self._parts.append(part)
        self.unread_bytes += len(part)
        self.wake()

    def whole(self) -> None:
        """The body is."""
        self.more_body = False
        self.wake()

    def wake(self) -> None:
        """There is news for who waits for it."""
        self._news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> Message:
        """The next of the body; once all of it was taken, that the caller has left or was answered."""
        if not self._news and not self.gone and not self.complete:
            if self.more_body and not self.started and self._awaits_continue():
                self._continued = True
                self._carrier.transport.write(_CONTINUE)
            self._carrier.resume_reading()
            if self._waiter is None or self._waiter.done():
                self._waiter = self._loop.create_future()
            await self._waiter
        self._news = False
        if self.gone or self.complete:
            return _GONE
        parts, self._parts, self.unread_bytes = self._parts, [], 0
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Message) -> None:
        """Send what an application says; raises `RuntimeError` when it is out of turn."""
        carrier = self._carrier
        while carrier.writable is not None and not self.gone:
            await asyncio.shield(carrier.writable)
        if self.gone:
            return
        if self._streams and message.get("more_body"):
            body: bytes = message.get("body", b"")
            if body:
                carrier.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        elif message["type"] == "http.response.start":
            if self._head is not None:
                raise RuntimeError("a second head")
            self._head = self._framed(message["status"], message.get("headers", ()))
        elif self._head is None or self.complete:
            raise RuntimeError("bytes outside of an answer")
        else:
            self._pass(self._head, message.get("body", b""), more=message.get("more_body", False))

    def fail(self) -> None:
        """Whoever was to answer has given up: say so, or, with half an answer out, end the connection."""
        if self.gone or self.complete:
            return
        if self.started:
            self._carrier.transport.close()
            return
        self.keep_alive = False
        self._pass(self._framed(500, _BUG_HEADERS), _BUG, more=False)

    def _awaits_continue(self) -> bool:
        """Whether the caller keeps its body until it is asked for it (RFC 9110, 10.1.1)."""
        return (
            not self._continued
            and self.scope["http_version"] != "1.0"
            and any(
                name == b"expect" and value.lower() == b"100-continue"
                for name, value in self.scope["headers"]
            )
        )

    def _framed(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The head's bytes; how the body is framed is settled with it."""
        pairs = [*headers]
        named = dict(pairs)
        length = named.get(b"content-length")
        if b"close" in named.get(b"connection", b""):
            self.keep_alive = False
        elif not self.keep_alive or (self.more_body and self._awaits_continue()):
            self.keep_alive = False  # who was never asked for its body sends it, or its next request
            pairs.append(_CLOSE)
        if self.scope["method"] == "HEAD" or status in _NO_BODY:
            self._framing = "none"
        elif length is not None:
            self._framing, self._left_bytes = "length", int(length)
        elif self.scope["http_version"] != "1.0":
            self._framing = "chunks"
            pairs.append(_CHUNKED)
        head = b"\r\n".join((_STATUS_LINE[status], *map(b": ".join, pairs), b"", b""))
        breaks = len(pairs) + 2
        if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
            raise RuntimeError("a header with a line break in it")
        return head

    def _pass(self, head: bytes, body: bytes, *, more: bool) -> None:
        """Write bytes of the body, behind the head if they are the first."""
        if self._framing == "chunks":
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                body += b"0\r\n\r\n"
        elif self._framing == "none":
            body = b""
        elif self._framing == "length":
            self._left_bytes -= len(body)
            if self._left_bytes < 0 or (self._left_bytes and not more):
                raise RuntimeError("an answer of another length than it states")
        if not self.started:
            self.started = True
            self._streams = self._framing == "chunks"
            body = head + body
        if body:
            self._carrier.transport.write(body)
        if not more:
            self.complete = True
            self._streams = False
            self.wake()
            self._carrier.answered(self)
