"""The sidecar's HTTP: uvicorn's protocol, with a head and what follows it in one write.

Invariants: a head waits for the next message only if it states the size of its body, or if its sender says
that the body comes at once; what is not plain is written by uvicorn's own code. A second write costs a
packet, and wakes the gateway a second time.
"""

from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.responses import Receive, ReceiveAgain, Send

SIZE_HEADER = b"content-length"
LAST_CHUNK = b"0\r\n\r\n"
BODY_FOLLOWS = "llmp.body_follows"
"""Key of a message with a head: its sender waits for nothing before it sends the first part of the body."""


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

    def _send_with_head(self, start: Untyped, message: Untyped) -> bool:
        """Send a head and a body, or its first part, if both are plain: uvicorn's steps, fewer calls."""
        body: bytes = message.get("body", b"")
        if message["type"] != "http.response.body" or not self.keep_alive:
            return False
        if self.flow.write_paused or self.disconnected:
            return False
        headers = [*self.default_headers, *start["headers"]]
        names, values = (b"".join(parts) for parts in zip(*headers, strict=True))
        named = dict(headers)
        if names != names.lower() or HEADER_RE.search(names) or HEADER_VALUE_RE.search(values):
            return False
        if b"connection" in named or b"transfer-encoding" in named:
            return False
        lines, ends = [b"%b: %b\r\n" % header for header in headers], not message.get("more_body", False)
        if not (ends and named[SIZE_HEADER] == b"%d" % len(body) if SIZE_HEADER in named else body):
            return False
        if SIZE_HEADER not in named:
            self.chunked_encoding, self.waiting_for_100_continue = True, False
            lines.append(b"transfer-encoding: chunked\r\n")
            body = b"%x\r\n%b\r\n%b" % (len(body), body, LAST_CHUNK if ends else b"")
        self.transport.write(b"".join((STATUS_LINE[start["status"]], *lines, b"\r\n", body)))
        if ends:
            self.response_complete = True
            self.message_event.set()
            self.on_response()
        return True


def chunk_writer(send: Send) -> Callable[[bytes], bool] | None:
    """Return `JoiningCycle.write_chunk` of the response of an ASGI `send`; None for any other one."""
    cycle = getattr(send, "__self__", None)
    return cycle.write_chunk if isinstance(cycle, JoiningCycle) else None


def request_of(receive: Receive) -> JoiningCycle | None:
    """Return the request of an ASGI `receive`; None for a call that came by no connection."""
    while isinstance(receive, ReceiveAgain):
        receive = receive.original
    cycle = getattr(receive, "__self__", None)
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
