"""The sidecar's HTTP: uvicorn's protocol, with a whole response in one write.

Invariants: only a head that states the size of its body waits for the body; what is not plain is written by
uvicorn's own code. A second write costs a packet, and wakes the gateway a second time.
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
from llm_proxy.sidecar.responses import Send

SIZE_HEADER = b"content-length"


class JoiningCycle(RequestResponseCycle):
    """One request and its response."""

    _held: Untyped = None  # the message of a head that waits for its body

    async def send(self, message: Untyped) -> None:
        """Send one ASGI message."""
        if self._held is not None:
            held, self._held = self._held, None
            if self._send_whole(held, message):
                return
            self.response_started = False
            await super().send(held)
        elif (
            message["type"] == "http.response.start"
            and not self.response_started
            and self.scope["method"] != "HEAD"
            and any(name == SIZE_HEADER for name, _ in message["headers"])
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

    def _send_whole(self, start: Untyped, message: Untyped) -> bool:
        """Send a whole response, if it is a plain one: uvicorn's steps, fewer calls."""
        body: bytes = message.get("body", b"")
        if message.get("more_body") or message["type"] != "http.response.body" or not self.keep_alive:
            return False
        if self.flow.write_paused or self.disconnected:
            return False
        headers = [*self.default_headers, *start["headers"]]
        names, values = (b"".join(parts) for parts in zip(*headers, strict=True))
        named = dict(headers)
        if names != names.lower() or HEADER_RE.search(names) or HEADER_VALUE_RE.search(values):
            return False
        if b"connection" in named or b"transfer-encoding" in named or named[SIZE_HEADER] != b"%d" % len(body):
            return False
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join((STATUS_LINE[start["status"]], *lines, b"\r\n", body)))
        self.response_complete = True
        self.message_event.set()
        self.on_response()
        return True


def chunk_writer(send: Send) -> Callable[[bytes], bool] | None:
    """Return `JoiningCycle.write_chunk` of the response of an ASGI `send`; None for any other one."""
    cycle = getattr(send, "__self__", None)
    return cycle.write_chunk if isinstance(cycle, JoiningCycle) else None


class SidecarHttpProtocol(HttpToolsProtocol):
    """One connection of a gateway."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Untyped) -> None:
        cycle.__class__ = JoiningCycle  # uvicorn names its own class where it makes one
        super()._start_asgi_task(cycle, app)
