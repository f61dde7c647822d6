"""The sidecar's HTTP: uvicorn's protocol, with a head and what follows it in one write.

Invariants: a head waits for the next message only if it states the size of its body, or if its sender says
that the body comes at once; what is not plain is written by uvicorn's own code. A second write costs a
packet, and wakes the gateway a second time.
"""

import re
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import (
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.responses import Message, Receive, ReceiveAgain, Send

SIZE_HEADER = b"content-length"
LAST_CHUNK = b"0\r\n\r\n"
BODY_FOLLOWS = "llmp.body_follows"
"""Key of a message with a head: its sender waits for nothing before it sends the first part of the body."""
PLAIN_NAME_RE = re.compile(rb"[a-z0-9_-]+")
UNPLAIN_NAMES = frozenset({b"connection", b"transfer-encoding"})
"""Headers that change how a response is sent."""


class JoiningCycle(RequestResponseCycle):
    """One request and its response.

    Attributes:
        on_leave: Is called when the caller hangs up.
    """

    on_leave: Callable[[], None] | None = None
    _held: Untyped = None  # the message of a head that waits for its body

    async def send(self, message: Untyped) -> None:
        """Send one ASGI message."""
        if self._held is not None:
            held, self._held = self._held, None
            if self._send_with_head(held, message):
                return
            self.response_started = False
            await super().send(held)
        elif (
            message["type"] == "http.response.start"
            and not self.response_started
            and self.scope["method"] != "HEAD"
            and (BODY_FOLLOWS in message or any(name == SIZE_HEADER for name, _ in message["headers"]))
        ):
            self._held, self.response_started = message, True
            return
        await super().send(message)

    def write_chunk(self, body: bytes) -> bool:
        """Write a further part of a streamed response at once; return False if it cannot go now."""
        streams = self.chunked_encoding and self.response_started and not self.response_complete
        if not streams or self.flow.write_paused or self.disconnected:
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        return True

    def write_whole(self, start: Message, body: bytes) -> bool:
        """Write a complete response at once; return False, with nothing done, if it has to be sent."""
        if self.response_started or self.scope["method"] == "HEAD":
            return False
        self.response_started = self._send_with_head(start, {"type": "http.response.body", "body": body})
        return self.response_started

    def take_body(self) -> bytes | None:
        """Return the request's body if all of it is there; None for what `receive` has to wait for."""
        if self.more_body or self.disconnected or self.waiting_for_100_continue:
            return None
        if not self.message_event.is_set():
            return None  # it was read already
        self.message_event.clear()
        self.flow.resume_reading()
        body, self.body = bytes(self.body), bytearray()
        return body

    def _send_with_head(self, start: Untyped, message: Untyped) -> bool:
        """Send a head and a body, or its first part, if both are plain: uvicorn's steps, fewer calls."""
        body: bytes = message.get("body", b"")
        if message["type"] != "http.response.body" or not self.keep_alive:
            return False
        if self.flow.write_paused or self.disconnected:
            return False
        headers = [*self.default_headers, *start["headers"]]
        names, values = zip(*headers, strict=True)
        if not PLAIN_NAME_RE.fullmatch(b"".join(names)) or HEADER_VALUE_RE.search(b"".join(values)):
            return False
        named, ends = dict(headers), not message.get("more_body", False)
        size = named.get(SIZE_HEADER)
        if not UNPLAIN_NAMES.isdisjoint(named):
            return False
        if not (body if size is None else ends and size == b"%d" % len(body)):
            return False
        if size is None:
            self.chunked_encoding, self.waiting_for_100_continue = True, False
            headers.append((b"transfer-encoding", b"chunked"))
            body = b"%x\r\n%b\r\n%b" % (len(body), body, LAST_CHUNK if ends else b"")
        head = b"\r\n".join(map(b": ".join, headers))
        self.transport.write(b"%b%b\r\n\r\n%b" % (STATUS_LINE[start["status"]], head, body))
        if ends:
            self.response_complete = True
            self.message_event.set()
            self.on_response()
        return True


def request_of(channel: Receive | Send) -> JoiningCycle | None:
    """Return the request of an ASGI `receive` or `send`; None for a call that came by no connection."""
    while isinstance(channel, ReceiveAgain):
        channel = channel.original
    cycle = getattr(channel, "__self__", None)
    return cycle if isinstance(cycle, JoiningCycle) else None


class SidecarHttpProtocol(HttpToolsProtocol):
    """One connection of a gateway."""

    def connection_lost(self, exc: Exception | None) -> None:
        """End the running call."""
        super().connection_lost(exc)
        cycle: Untyped = self.cycle
        if cycle is not None and cycle.disconnected and cycle.on_leave is not None:
            cycle.on_leave()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Untyped) -> None:
        cycle.__class__ = JoiningCycle  # uvicorn names its own class where it makes one
        super()._start_asgi_task(cycle, app)
