"""A connection that carries requests, HTTP/1.1: how many there may be, and how long each part may take.

Driven by uvicorn's server in the place of its own protocol, at half of what that costs a request. Invariants:
what is no HTTP is refused in OpenAI's words and ends the connection; so does a head beyond `MAX_HEAD_BYTES`
or trailers beyond that, and what is sent on after an answer beyond `MAX_DRAINED_BYTES`; requests are answered
in their order, one at a time. Units: bytes; seconds of the event loop's clock. Source: RFC 9112.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn import Config
from uvicorn.server import ServerState

from llm_proxy.edge.bare import NO_HTTP, TOO_LARGE, TOO_MANY
from llm_proxy.edge.boundaries import MessageBoundaries
from llm_proxy.edge.request import Receive, Scope, Send
from llm_proxy.edge.turn import MOST_UNREAD_BYTES, Turn

log = logging.getLogger(__name__)

App = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]

MAX_HEAD_BYTES = 256 * 2**10
"""Where memory ends, beside the segment a head began in. `max_header_bytes` is less, refused by the doors."""
MAX_TARGET_BYTES = 2**16
MAX_DRAINED_BYTES = 32 * 2**20
"""What is read and thrown away after an early refusal, so that callers who read last of all see it."""
MOST_PIPELINED, MOST_AT_ONCE = 16, 1024
"""So many requests are taken from a connection, and of one segment, before the first of them is answered."""
_LINGER_S = 2  # when the server stops: it waits for those who linger
_USED = -1  # in the place of a count: some of the segment being read is of use to somebody
_ASGI = {"version": "3.0", "spec_version": "2.3"}


class Connection(asyncio.Protocol):
    """A client's connection.

    Attributes:
        head_since: When the head that is being received began; None while none is.
        drained_since: When the answer to a request was whole whose body was not; None while there is none.
        idle_since: When it last began to wait for a request; None while it does not.
    """

    transport: asyncio.Transport

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """The arguments are uvicorn's."""
        self._app = cast("App", config.loaded_app)
        self._most = config.limit_concurrency
        self._server = server_state
        self._connections: set[Any] = server_state.connections  # uvicorn names its own protocols
        self._loop = _loop or asyncio.get_running_loop()
        self._state = app_state
        self._template: Scope = {"type": "http", "asgi": _ASGI, "root_path": ""}
        self._parser = httptools.HttpRequestParser(self)
        # Which request is the last its head says (`on_headers_complete`); the parser would heed a trailer.
        self._parser.set_dangerous_leniencies(lenient_keep_alive=True)
        self._boundaries = MessageBoundaries()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._turns: deque[Turn] = deque()
        self._reading: Turn | None = None
        self._unused_bytes = 0
        self._paused = self._deaf = self._last = self._stops = False
        self.writable: asyncio.Future[None] | None = None
        self.head_since: float | None = None
        self.drained_since: float | None = None
        self.idle_since: float | None = None

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected: its first head begins."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self.head_since = self._loop.time()
        self._connections.add(self)
        for side, name in (("server", "sockname"), ("client", "peername")):
            address = cast("tuple[Any, ...] | str | None", transport.get_extra_info(name))
            self._template[side] = address[:2] if isinstance(address, tuple) else None
        self._template["scheme"] = "https" if transport.get_extra_info("sslcontext") else "http"
        if self._most is not None and len(self._connections) >= self._most:
            self._deaf = True
            self.transport.write(TOO_MANY)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """The caller has left, or was let go."""
        self._connections.discard(self)
        self._deaf = True
        for turn in self._turns:
            turn.gone = True
            turn.wake()
        self._turns.clear()
        self._reading = None  # it holds on to us
        self.resume_writing()
        del self._parser  # it holds on to us

    def data_received(self, data: bytes) -> None:
        """Bytes came in."""
        try:
            self._parse(data)
        except httptools.HttpParserUpgrade:
            self._deaf = True  # what follows is another protocol's, or nobody's
            self._turns[-1].keep_alive = False
        except (httptools.HttpParserError, ValueError):
            self._refuse(NO_HTTP)
            return
        if self.head_since is not None or self._deaf or self._reading is not None:
            self._measure(len(data))

    def pause_writing(self) -> None:
        """The caller takes nothing for now."""
        self.writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """It does again, or is gone."""
        waiting, self.writable = self.writable, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    # What the parser calls

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self.head_since, self._unused_bytes = self._loop.time(), _USED
        self._url, self._headers = b"", []

    def on_url(self, part: bytes) -> None:
        """Some of its target; a `ValueError` of ours is to the parser as one of its own."""
        self._url += part
        if len(self._url) > MAX_TARGET_BYTES:
            raise ValueError("a target without an end")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; after the head, one of the trailers, which have no say."""
        if self._reading is None:
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """The end of its head."""
        self.head_since = self.idle_since = None
        named = dict(self._headers)
        self._boundaries.head_complete(
            None if b"transfer-encoding" in named else int(named.get(b"content-length", 0))
        )
        parser, raw_path = self._parser, self._url
        if raw_path[:1] != b"/":  # a whole URL, by `REQUEST_LINE`
            raw_path = b"/" + raw_path.split(b"/", 3)[3]
        raw_path, _, query = raw_path.partition(b"?")
        path, version = raw_path.decode("ascii"), parser.get_http_version()
        scope = {
            **self._template,
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self._headers,
            "state": self._state.copy(),
        }
        self._headers = []
        turn = self._reading = Turn(self, scope, self._loop)
        turn.keep_alive = version != "1.0" and parser.should_keep_alive()
        self._turns.append(turn)
        if len(self._turns) == 1:
            self._begin(turn)
        elif len(self._turns) > MOST_PIPELINED:
            self._pause_reading()
            if len(self._turns) > MOST_AT_ONCE:
                raise ValueError("requests without an end")

    def on_body(self, part: bytes) -> None:
        """Some of its body."""
        turn = self._reading
        if turn is not None and not turn.complete:
            self._unused_bytes = _USED
            turn.came(part)
            if turn.unread_bytes > MOST_UNREAD_BYTES:
                self._pause_reading()

    def on_message_complete(self) -> None:
        """The end of it."""
        turn, self._reading, self.drained_since = self._reading, None, None
        if turn is not None:
            self._last = not turn.keep_alive
            turn.whole()
            if turn.complete:
                self.idle_since = self._loop.time()

    # What a turn and the server call

    def answered(self, turn: Turn) -> None:
        """A turn's answer is whole; whether its request is will be seen."""
        self._server.total_requests += 1
        self._turns.popleft()
        if not turn.keep_alive:
            if self._deaf or self._turns or self._reading is not None:
                self._linger()
            else:
                self.transport.close()
        elif self._turns:
            self._begin(self._turns[0])
        elif self._reading is None:
            self.idle_since = self._loop.time()
        else:
            self.drained_since, self._unused_bytes = self._loop.time(), 0
        if self._paused:
            self.resume_reading()

    def resume_reading(self) -> None:
        """Somebody waits for what comes next."""
        if self._paused and len(self._turns) <= MOST_PIPELINED and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def shutdown(self) -> None:
        """The server stops: the answer that is being given is the last."""
        self._stops = True
        if self._turns:
            self._turns[0].keep_alive = False
        else:
            self.transport.close()

    @property
    def answering(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._turns)

    # Its own

    def _parse(self, data: bytes) -> None:
        """Has the parser read one head and one request at a time, and hold with us where each ends."""
        at, boundaries = 0, self._boundaries
        while at < len(data) and not (self._deaf or self._last):
            end = boundaries.next_boundary(data, at)
            self._parser.feed_data(data if end - at == len(data) else memoryview(data)[at:end])
            if boundaries.head_ended or (boundaries.request_ended and self._reading is not None):
                raise ValueError("a request that ends elsewhere for other servers")
            at = end

    def _begin(self, turn: Turn) -> None:
        task: asyncio.Task[None] = self._loop.create_task(self._app(turn.scope, turn.receive, turn.send))
        self._server.tasks.add(task)
        task.add_done_callback(partial(self._ended, turn))

    def _ended(self, turn: Turn, task: "asyncio.Task[None]") -> None:
        """The application is done with a turn."""
        self._server.tasks.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            log.error("an application failed", exc_info=fault)
        elif turn.complete or turn.gone:
            return
        turn.fail()

    def _measure(self, size: int) -> None:
        """Bytes came: there is an end to those nobody uses, in segments of which nobody uses any."""
        self._unused_bytes = 0 if self._unused_bytes == _USED else self._unused_bytes + size
        drains = self._deaf or (self._reading is not None and self._reading.complete)
        if self._unused_bytes > (MAX_DRAINED_BYTES if drains else MAX_HEAD_BYTES):
            if drains:
                self.transport.close()
            else:
                self._refuse(TOO_LARGE)

    def _refuse(self, refusal: bytes) -> None:
        """What came is no request. The answers to those before it are given, then the connection ends."""
        if self._reading is not None and self._turns and self._turns[-1] is self._reading:
            turn = self._turns.pop()
            turn.gone = True
            turn.wake()
        self._deaf, self.head_since = True, None
        if self._turns:
            self._turns[-1].keep_alive = False
            return
        if self._reading is None or not self._reading.started:
            self.transport.write(refusal)
        self._linger()

    def _linger(self) -> None:
        """End our side alone: closed whole, what is still being sent would wipe out what we said last."""
        self._deaf, self.head_since, self.drained_since = True, None, self._loop.time()
        self._turns.clear()  # they came after the last one
        if self.transport.can_write_eof():
            with contextlib.suppress(OSError):  # of a peer that is gone; we shall be told
                self.transport.write_eof()
            self.resume_reading()
        else:
            self.transport.close()
        if self._stops:
            self._loop.call_later(_LINGER_S, self.transport.close)

    def _pause_reading(self) -> None:
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()
