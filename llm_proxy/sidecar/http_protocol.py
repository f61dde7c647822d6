"""The sidecar's HTTP: uvicorn's protocol, with less parsing, and a head and what follows it in one write.

Invariants: a head waits for the next message only if it states the size of its body, or if its sender says
that the body comes at once; what is not plain is written by uvicorn's own code. A second write costs a
packet, and wakes the gateway a second time. A request that no parser has read is shown as one that it has.
"""

import re
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import (
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from llm_proxy.http_server import new_cycle
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.responses import Message, Receive, ReceiveAgain, Send

SIZE_HEADER = b"content-length"
LAST_CHUNK = b"0\r\n\r\n"
BODY_FOLLOWS = "llmp.body_follows"
"""Key of a message with a head: its sender waits for nothing before it sends the first part of the body."""
PLAIN_NAME_RE = re.compile(rb"[a-z0-9_-]+")
UNPLAIN_NAMES = frozenset({b"connection", b"transfer-encoding"})
"""Headers that change how a response is sent."""
ID_HEADER = b"x-litellm-call-id"
ALIKE_REST_RE = re.compile(rb"([0-9a-f-]{36})\r\ncontent-length: ([1-9][0-9]{0,7})\r\n\r\n")
MAX_HEADS_LEARNED = 16
"""Of one connection."""
FRAMING = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"connection"})
"""Headers that frame a request or the connection otherwise."""


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

    def write_answer(self, head: bytes, body: bytes) -> bool:
        """Write a complete response of status 200 at once; return False, with nothing done, if it cannot go.

        Args:
            head: The lines of its head, each with its end; they state the size of the body.
            body: The body.
        """
        if self.response_started or self.default_headers or self.scope["method"] == "HEAD":
            return False
        if not self.keep_alive or self.flow.write_paused or self.disconnected:
            return False
        self.response_started = True
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[200], head, body))
        self._end_response()
        return True

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
            self._end_response()
        return True

    def _end_response(self) -> None:
        self.response_complete = True
        self.message_event.set()
        self.on_response()


def request_of(channel: Receive | Send) -> JoiningCycle | None:
    """Return the request of an ASGI `receive` or `send`; None for a call that came by no connection."""
    while isinstance(channel, ReceiveAgain):
        channel = channel.original
    cycle = getattr(channel, "__self__", None)
    return cycle if isinstance(cycle, JoiningCycle) else None


class _AlikeHeads:
    """The heads of a gateway's calls to one path: alike but for the call's id and the size of its body.

    Invariants: such a head is the bytes of the earlier one up to its id, an id, and the size of the body; no
    header frames the body otherwise.
    """

    def __init__(self, before: bytes, scope: Untyped) -> None:
        """`before` is the head up to the id; `scope` the request's, as the parser made it."""
        self._before, self._scope = before, {**scope}
        self._headers: list[tuple[bytes, bytes]] = scope["headers"][:-2]

    def read(self, data: bytes) -> tuple[Untyped, bytes] | None:
        """Return scope and body of a segment that is one whole request with such a head, else None."""
        if not data.startswith(self._before):
            return None
        rest = ALIKE_REST_RE.match(data, len(self._before))
        if rest is None or len(data) - rest.end() != int(rest[2]):
            return None
        last = [(ID_HEADER, rest[1]), (SIZE_HEADER, rest[2])]
        return self._scope | {"headers": self._headers + last}, data[rest.end() :]


def _alike_heads(data: bytes, scope: Untyped) -> _AlikeHeads | None:
    """Return the heads alike that of a segment, if it is one whole request of a gateway's call."""
    headers = scope["headers"]
    names = [name for name, _ in headers]
    is_plain = scope["method"] == "POST" and scope["http_version"] == "1.1" and FRAMING.isdisjoint(names)
    if not is_plain or names[-2:] != [ID_HEADER, SIZE_HEADER] or names.count(SIZE_HEADER) != 1:
        return None
    at = data.find(b"\r\n" + ID_HEADER + b": ")
    if at < 0:
        return None
    found = _AlikeHeads(data[: at + len(ID_HEADER) + 4], scope)
    again = found.read(data)
    return found if again is not None and again[0]["headers"] == headers else None


class SidecarHttpProtocol(HttpToolsProtocol):
    """One connection of a gateway; the parser need not read a head that is alike an earlier one."""

    app: Untyped
    _alike: _AlikeHeads | None = None
    _unlearned = MAX_HEADS_LEARNED
    _is_between = True  # no request has begun that the parser has not read to its end

    def data_received(self, data: bytes) -> None:
        """Take a segment."""
        known = self._alike
        before: Untyped = self.cycle
        if self._is_between and (before is None or before.response_complete):
            if known is not None and (found := known.read(data)) is not None:
                self._begin_at_once(*found)
                return
            super().data_received(data)
            if self._unlearned and self._is_between and self.cycle is not before and self.cycle.keep_alive:
                self._unlearned -= 1
                self._alike = _alike_heads(data, self.cycle.scope) or known
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Take the beginning of a request."""
        self._is_between = False
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        super().on_message_complete()
        self._is_between = True

    def _begin_at_once(self, scope: Untyped, body: bytes) -> None:
        """Begin a request that came whole: uvicorn's steps without its parser."""
        self._unset_keepalive_if_required()
        scope["state"] = self.app_state.copy()
        self.scope, self.headers = scope, scope["headers"]
        self.cycle = cycle = new_cycle(JoiningCycle, self, self.transport, expects=False, keep_alive=True)
        cycle.body, cycle.more_body = bytearray(body), False
        cycle.message_event.set()
        self._start_asgi_task(cycle, self.app)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the running call."""
        super().connection_lost(exc)
        cycle: Untyped = self.cycle
        if cycle is not None and cycle.disconnected and cycle.on_leave is not None:
            cycle.on_leave()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Untyped) -> None:
        cycle.__class__ = JoiningCycle  # uvicorn names its own class where it makes one
        super()._start_asgi_task(cycle, app)
