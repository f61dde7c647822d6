"""BoundedHttpProtocol: uvicorn's httptools protocol with bounds on time, bytes and connections.

Invariants: what is no HTTP/1.1 is answered in OpenAI's envelope and ends the connection; a head has
at most `MAX_HEAD_BYTES`, its target `MAX_TARGET_BYTES`; of an unread body `MAX_DRAINED_BYTES` are drained;
requests are answered in order, one at a time; trailers are dropped. Units: bytes; the event loop's seconds.
Source: RFC 9112. Overridden members of uvicorn: `tests/unit/edge/test_http_protocol.py`.
"""

import asyncio
import contextlib
import socket
import sys
from collections import deque
from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from llm_proxy.edge.boundaries import MessageBoundaries
from llm_proxy.edge.repeated_head import RepeatedHead, learn_head
from llm_proxy.edge.request_cycle import BoundedRequestCycle, ResponseTransport
from llm_proxy.edge.responses import WRITE_CHUNK
from llm_proxy.http_server import new_cycle

MAX_HEAD_BYTES = 256 * 2**10
"""Memory bound of a head, chunk extensions or trailers; `max_header_bytes` is lower and checked after it."""
MAX_TARGET_BYTES = 2**16
MAX_DRAINED_BYTES = 32 * 2**20
"""Read and dropped after an early response, so that a client that reads last still gets the response."""
MAX_PIPELINED, MAX_PIPELINED_PER_SEGMENT = 16, 1024
"""Requests taken from a connection before reading pauses, and of one segment, ahead of the running one."""
MAX_HEADS_LEARNED = 3
"""Heads of a connection that are kept, one after the other: some clients send no head twice."""
LINGER_WHEN_STOPPING_S = 2
KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S = 60, 15
_USED = -1  # instead of a count of unused bytes: the segment being read held something used


def _error_response(
    line: bytes, code: bytes, message: bytes, kind: bytes = b"invalid_request_error"
) -> bytes:
    body = b'{"error":{"message":"%b","type":"%b","param":null,"code":"%b"}}' % (message, kind, code)
    head = b"HTTP/1.1 %b\r\nconnection: close\r\ncontent-type: application/json\r\n" % line
    if kind == b"server_error":
        head += b"retry-after: 1\r\n"
    return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


INVALID_HTTP = _error_response(
    b"400 Bad Request", b"invalid_http", b"What was sent is not an HTTP/1.1 request."
)
HEAD_TOO_LARGE = _error_response(
    b"431 Request Header Fields Too Large", b"headers_too_large", b"The request's headers are too large."
)
TOO_MANY_CONNECTIONS = _error_response(
    b"503 Service Unavailable", b"overloaded", b"Too many connections; please try again.", b"server_error"
)


class _BoundedFlow(FlowControl):
    """Flow control that does not resume reading while enough requests are waiting."""

    def __init__(self, transport: asyncio.Transport, pipeline: deque[Any]) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if self.read_paused and len(self._pipeline) <= MAX_PIPELINED:
            super().resume_reading()


class BoundedHttpProtocol(HttpToolsProtocol):
    """A client's connection.

    Attributes:
        head_since: When the head being received began; None while none is.
        drained_since: When draining of unread bytes began; None while nothing is drained.
        idle_since: When the last request and its response were complete; None before that, and once another
            request begins.
    """

    app: Any
    scope: Any
    parser: httptools.HttpRequestParser  # None once the connection is lost: nothing is parsed then

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """The arguments are uvicorn's; `config.limit_concurrency` bounds connections, the new one counted."""
        super().__init__(config, server_state, app_state, _loop)
        # The head says which request is the last (`on_message_complete`); the parser would heed a trailer.
        self.parser.set_dangerous_leniencies(lenient_keep_alive=True)
        self._boundaries = MessageBoundaries()
        self._running: BoundedRequestCycle | None = None
        self._receiving = self._is_last = self._ignores = self._lingers = self._stops = False
        self._ends_next = False
        self._repeated: RepeatedHead | None = None
        self._unlearned, self._rest_bytes = MAX_HEADS_LEARNED, 0
        self._unused_bytes = 0
        self.head_since: float | None = None
        self.drained_since: float | None = None
        self.idle_since: float | None = None

    @property
    def is_responding(self) -> bool:
        """Whether a client waits for the response of the running request."""
        running = self._running
        if running is None or self._lingers:
            return False
        return not running.response_complete and not running.disconnected

    # Called by asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's too
        """Starts the time for the first head; rejects a connection above the cap."""
        super().connection_made(transport)
        self.flow = _BoundedFlow(transport, self.pipeline)
        self._response_transport: Any = ResponseTransport(transport, self.flow, self._end_connection)
        self.head_since = self.loop.time()
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            self._ignores = True
            transport.write(TOO_MANY_CONNECTIONS)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Notifies the running request; drops every reference to the connection, so that none is circular."""
        super().connection_lost(exc)
        if self._running is not None:
            self._running.disconnect()
        self._ignores, self._running, self._repeated = True, None, None
        self.cycle = self.scope = cast("Any", None)
        self.pipeline.clear()
        del self._response_transport

    def data_received(self, data: bytes) -> None:
        """Takes a segment: a request with the head of an earlier one, or what the parser has to read."""
        if self._repeated is not None and self.idle_since is not None and self._repeat(data):
            return
        before = self.cycle
        learns = self._unlearned and not (self._receiving or self._ignores) and self._boundaries.is_between
        try:
            self._feed(self._take_rest(data) if self._rest_bytes and not self._ignores else data)
        except httptools.HttpParserUpgrade:
            self._ignores = True  # what follows is in another protocol
            self.cycle.keep_alive = False
        except (httptools.HttpParserError, ValueError):
            self._reject(INVALID_HTTP)
            return
        if self.head_since is not None or self._ignores or self._receiving:
            self._count_unused(len(data))
        if learns and self.cycle is not before and self.cycle.keep_alive and not self._ignores:
            self._learn(data)

    # Called by the parser

    def on_message_begin(self) -> None:
        """Starts the time for a head."""
        super().on_message_begin()
        self.head_since, self.idle_since, self._unused_bytes = self.loop.time(), None, _USED

    def on_url(self, url: bytes) -> None:
        """Takes a piece of the target; raises ValueError beyond `MAX_TARGET_BYTES`."""
        super().on_url(url)
        if len(self.url) > MAX_TARGET_BYTES:
            raise ValueError("the target is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header; drops a trailer."""
        if not self._receiving:
            self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Starts or queues the request; raises ValueError for more than `MAX_PIPELINED_PER_SEGMENT`."""
        self.head_since = None
        self._complete_scope()
        version = self.scope["http_version"]
        cycle = new_cycle(
            BoundedRequestCycle,
            self,
            self._response_transport,
            expects=version != "1.0" and self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive() and not self._ends_next,
        )
        self.cycle, self._receiving = cycle, True
        if not self.is_responding:
            self._start_asgi_task(cycle, self.app)
            return
        self.pipeline.appendleft((cycle, self.app))
        if len(self.pipeline) > MAX_PIPELINED:
            self.flow.pause_reading()
            if len(self.pipeline) > MAX_PIPELINED_PER_SEGMENT:
                raise ValueError("too many requests in one segment")

    def on_body(self, body: bytes) -> None:
        """Takes a piece of the body; drops it once the response is complete."""
        cycle = self.cycle
        if cycle.response_complete:
            return
        self._unused_bytes = _USED
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Ends the request; nothing is parsed after one whose head closes the connection."""
        cycle = self.cycle
        self._receiving, self.drained_since = False, None
        cycle.waiting_for_100_continue = False
        self._is_last = not cycle.keep_alive
        if cycle.response_complete:
            self.idle_since = self.loop.time()
            return
        cycle.more_body = False
        cycle.message_event.set()

    # Called by request cycles and the server

    def on_response_complete(self) -> None:
        """Starts the next request, if one waits; drains the rest of an unread body.

        Uvicorn's steps without its timer: idle connections are closed by `close_slow_connections`.
        """
        self.server_state.total_requests += 1
        if self._lingers:
            return
        now = self.loop.time()
        if self.head_since is not None:
            self.head_since = now
        if self._receiving and not self.pipeline:
            self.drained_since, self._unused_bytes = now, 0
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif not self._receiving:
            self.idle_since = now

    def end_with_next_response(self) -> None:
        """Sends `connection: close` with the next response, so that its client opens another connection."""
        self._ends_next = True

    def shutdown(self) -> None:
        """Makes the running response the last; closes a connection without one."""
        self._stops = True
        if self._running is not None and self.is_responding:
            self._running.keep_alive = False
        else:
            self.transport.close()

    def _learn(self, data: bytes) -> None:
        """Keeps the head of the request that began with this segment, if it was a POST."""
        scope = self.cycle.scope
        if scope["method"] == "POST":
            self._unlearned -= 1
            self._repeated = learn_head(data, scope)

    def _repeat(self, data: bytes) -> bool:
        """Starts a request with the kept head, which the parser does not see; False for any other segment.

        Nothing runs on this connection, and no request has begun.
        """
        known = self._repeated
        if known is None or self._ignores or not self._boundaries.is_between:
            return False
        found = known.read(data)
        if found is None:
            return False
        scope, body, length = found
        self.idle_since, self._unused_bytes = None, 0
        scope["state"] = self.app_state.copy()
        self.scope = scope
        self.cycle = cycle = new_cycle(
            BoundedRequestCycle,
            self,
            self._response_transport,
            expects=False,
            keep_alive=not self._ends_next,
        )
        self._rest_bytes = length - len(body)
        if self._rest_bytes:
            self._receiving = True
            if body:
                self.on_body(body)
        else:
            cycle.take_whole(body)
            self._is_last, self._unused_bytes = not cycle.keep_alive, _USED
        self._start_asgi_task(cycle, self.app)
        return True

    def _take_rest(self, data: bytes) -> bytes:
        """Takes what belongs to the body of a request that the parser has not seen; returns the others."""
        body = data[: self._rest_bytes]
        self._rest_bytes -= len(body)
        self.on_body(body)
        if not self._rest_bytes:
            self.on_message_complete()
        return data[len(body) :]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 -- as `send`
        self._running = cast("BoundedRequestCycle", cycle)
        super()._start_asgi_task(cycle, app)

    def _complete_scope(self) -> None:
        """Completes the ASGI scope from the parser; the target is a path or a whole URL."""
        named = dict(self.headers)
        self.expect_100_continue = named.get(b"expect", b"").lower() == b"100-continue"
        self._boundaries.head_complete(
            None if b"transfer-encoding" in named else int(named.get(b"content-length", 0))
        )
        target = self.url
        if target[:1] != b"/":
            target = b"/" + target.split(b"/", 3)[3]
        raw_path, _, query = target.partition(b"?")
        path, scope = raw_path.decode("ascii"), self.scope
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = self.parser.get_http_version()
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"], scope["query_string"] = raw_path, query
        if scope["http_version"] != "1.0" and scope["method"] != "HEAD":  # its streams are chunked
            scope["extensions"] = {WRITE_CHUNK: {"write": self._response_transport.write_chunk}}

    def _feed(self, data: bytes) -> None:
        """Feeds the parser one head and one request at a time; raises ValueError where it ends elsewhere."""
        at, boundaries = 0, self._boundaries
        while at < len(data) and not (self._ignores or self._is_last):
            end = boundaries.next_boundary(data, at)
            self.parser.feed_data(data if end - at == len(data) else memoryview(data)[at:end])
            if boundaries.head_ended or (boundaries.request_ended and self._receiving):
                raise ValueError("a request that ends elsewhere for other servers")
            at = end

    def _count_unused(self, size: int) -> None:
        """Counts bytes of segments of which nothing was used; rejects or closes beyond the bound."""
        self._unused_bytes = 0 if self._unused_bytes == _USED else self._unused_bytes + size
        drains = self._ignores or (self._receiving and self.cycle.response_complete)
        if self._unused_bytes > (MAX_DRAINED_BYTES if drains else MAX_HEAD_BYTES):
            if drains:
                self.transport.close()
            else:
                self._reject(HEAD_TOO_LARGE)

    def _reject(self, response: bytes) -> None:
        """Ends the connection with `response`, or with the responses to complete requests before it."""
        self._ignores, self.head_since, started = True, None, False
        if self._receiving:
            broken = cast("BoundedRequestCycle", self.cycle)
            started = broken.response_started
            if self.pipeline and self.pipeline[0][0] is broken:
                self.pipeline.popleft()
            broken.disconnect()
        if self.is_responding:
            last = self.pipeline[0][0] if self.pipeline else self._running
            cast("BoundedRequestCycle", last).keep_alive = False
            return
        if not started:
            self.transport.write(response)
        self._linger()

    def _end_connection(self) -> None:
        """Closes the connection after its last response; lingers where more of a request may come."""
        if self._ignores or self.pipeline or self._receiving:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Ends our side alone: a full close while the client sends would reset what it has not read yet."""
        self._ignores = self._lingers = True
        self.head_since, self.drained_since = None, self.loop.time()
        self.pipeline.clear()
        if self.transport.can_write_eof():
            with contextlib.suppress(OSError):  # the client has disconnected; `connection_lost` follows
                self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()
        if self._stops:
            self.loop.call_later(LINGER_WHEN_STOPPING_S, self.transport.close)


def close_slow_connections(connections: Iterable[Any], now: float, *, timeout_s: float) -> None:
    """Closes connections whose head, or whose unread body, takes longer than `timeout_s`, and idle ones.

    A connection whose client waits for a response is left alone.
    """
    for connection in list(connections):
        if not isinstance(connection, BoundedHttpProtocol) or connection.is_responding:
            continue
        since = connection.drained_since if connection.head_since is None else connection.head_since
        longest_s = timeout_s
        if since is None:
            since, longest_s = connection.idle_since, connection.timeout_keep_alive
        if since is not None and now - since > longest_s:
            connection.transport.close()


def set_socket_timeouts(listener: socket.socket, unread_s: float) -> None:
    """Makes the kernel end connections whose peer has vanished, or reads nothing for `unread_s` seconds.

    Accepted sockets inherit both options from the listener (tcp(7)).
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_EVERY_S)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(unread_s * 1000))
