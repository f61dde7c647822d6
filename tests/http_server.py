"""ProtocolServer: `BoundedHttpProtocol` on a socket of its own, with `ScriptedApp`; and its clients.

Invariants: an error that only the event loop reports fails the test; a client never interprets what it sends;
nothing waits longer than `TIMEOUT_S`.
"""

import asyncio
import contextlib
import re
import socket
import struct
import weakref
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

from scripted_asgi import ScriptedApp
from uvicorn import Config
from uvicorn.server import ServerState

from llm_proxy.edge.http_protocol import BoundedHttpProtocol, close_slow_connections

TIMEOUT_S = 5
HEAD_S, IDLE_S = 0.3, 0.6
"""Timeouts of a server: of a head or unread body, of an idle connection."""
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")


def get(path: str = "/", more: bytes = b"", *, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    """A request without a body."""
    return b"%b %b HTTP/%b\r\nHost: x\r\n%b\r\n" % (method, path.encode(), version, more)


def post(path: str, body: bytes = b"", more: bytes = b"", *, length: int | None = None) -> bytes:
    """A request with a body, of a length that may be stated wrongly."""
    stated = len(body) if length is None else length
    return (
        b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n" % (path.encode(), stated, more) + body
    )


def chunked(path: str, body: bytes = b"") -> bytes:
    """A request with a body in chunks, those given."""
    return b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%b" % (path.encode(), body)


@dataclass(frozen=True, slots=True)
class Response:
    """One response as it came; `whole` if it is complete."""

    status: int
    head: bytes
    body: bytes
    whole: bool


def read_responses(raw: bytes, *methods: bytes) -> list[Response]:
    """Returns the responses on a connection that has ended, interim ones too; `methods` tells of `HEAD`."""
    found: list[Response] = []
    final = 0
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        head += b"\r\n"
        line = _STATUS.match(head)
        assert line is not None, head
        status, sized = int(line[1]), _LENGTH.search(head)
        bare = status in {100, 204, 304} or methods[final : final + 1] == (b"HEAD",)
        final += status != 100
        body, whole = b"", True
        if not bare and b"\r\ntransfer-encoding: chunked\r\n" in head:
            body, raw, whole = _chunks(raw)
        elif not bare:
            size = int(sized[1]) if sized else len(raw)
            body, raw, whole = raw[:size], raw[size:], len(raw) >= size
        found.append(Response(status, head, body, whole))
    return found


def _chunks(raw: bytes) -> tuple[bytes, bytes, bool]:
    body = b""
    while True:
        line, ended, rest = raw.partition(b"\r\n")
        if not ended:
            return body, b"", False
        size = int(line, 16)
        if len(rest) < size + 2:
            return body, b"", False
        assert rest[size : size + 2] == b"\r\n"
        body, raw = body + rest[:size], rest[size + 2 :]
        if not size:
            return body, raw, True


@dataclass
class Client:
    """A connection to a server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *pieces: bytes, gap_s: float = 0) -> None:
        """Sends bytes; with a gap each piece is a segment of its own."""
        for piece in pieces:
            self.writer.write(piece)
            with contextlib.suppress(ConnectionError):
                await self.writer.drain()
            if gap_s:
                await asyncio.sleep(gap_s)

    async def read_until(self, until: bytes) -> bytes:
        """Returns what comes up to and with `until`."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self.reader.readuntil(until)

    async def read_all(self) -> bytes:
        """Returns what comes until the server closes its side."""
        came = b""
        async with asyncio.timeout(TIMEOUT_S):
            with contextlib.suppress(ConnectionError):
                while more := await self.reader.read(2**16):
                    came += more
        return came

    async def is_quiet(self, for_s: float = 0.1) -> bool:
        """Returns whether nothing comes for `for_s` seconds and the connection stays open."""
        try:
            async with asyncio.timeout(for_s):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        """Closes the connection."""
        self.writer.close()

    def half_close(self) -> None:
        """Closes the client's side alone."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Resets the connection."""
        held: socket.socket = self.writer.get_extra_info("socket")
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass
class ProtocolServer:
    """A server, its application and its connections."""

    address: tuple[str, int]
    state: ServerState
    app: ScriptedApp
    made: "weakref.WeakSet[BoundedHttpProtocol]"
    """Every connection that is still in memory."""
    clients: list[Client] = field(default_factory=list[Client])

    async def connect(self, buffer_bytes: int | None = None) -> Client:
        """Returns a new connection."""
        held = socket.socket()
        held.setblocking(False)  # noqa: FBT003 -- a socket's own
        if buffer_bytes:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        await asyncio.get_running_loop().sock_connect(held, self.address)
        client = Client(*await asyncio.open_connection(sock=held, limit=2**16))
        self.clients.append(client)
        return client

    async def send(self, *pieces: bytes, gap_s: float = 0, ends: bool = False) -> bytes:
        """Sends on a new connection and returns what comes back until the server closes it."""
        client = await self.connect()
        await client.send(*pieces, gap_s=gap_s)
        if ends:
            await asyncio.sleep(0.1)
            client.half_close()
        return await client.read_all()

    async def connection(self) -> BoundedHttpProtocol:
        """Returns the server's side of the only connection."""
        await self.wait_until(lambda: len(self.state.connections) == 1)
        (only,) = self.state.connections
        assert isinstance(only, BoundedHttpProtocol)
        return only

    async def wait_until(self, true: Callable[[], object]) -> None:
        """Waits until `true` returns a true value."""
        async with asyncio.timeout(TIMEOUT_S):
            while not true():  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.005)

    async def wait_for_event(self, what: str) -> None:
        """Waits until the application has noted `what`."""
        await self.wait_until(lambda: what in self.app.events)

    def close_slow(self, later_s: float = 0) -> None:
        """Closes slow connections, as the server does once a second, as if it were `later_s` later."""
        now = asyncio.get_running_loop().time() + later_s
        close_slow_connections(self.state.connections, now, timeout_s=HEAD_S)


@contextlib.asynccontextmanager
async def protocol_server(*, max_connections: int | None = None) -> AsyncGenerator[ProtocolServer]:
    """Runs a server of `ScriptedApp`; at its end, connections are closed and the loop reported no error."""
    app, loop = ScriptedApp(), asyncio.get_running_loop()
    errors: list[Any] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    config = Config(
        app,
        access_log=False,
        log_config=None,
        ws="none",
        proxy_headers=False,
        limit_concurrency=max_connections,
        timeout_keep_alive=IDLE_S,  # type: ignore[arg-type]  # only ours reads it
    )
    config.load()
    state = ServerState()
    made = weakref.WeakSet[BoundedHttpProtocol]()

    def connected() -> BoundedHttpProtocol:
        one = BoundedHttpProtocol(config=config, server_state=state, app_state={})
        made.add(one)
        return one

    listener = await loop.create_server(connected, "127.0.0.1")
    server = ProtocolServer(listener.sockets[0].getsockname(), state, app, made)
    try:
        yield server
    finally:
        listener.close()
        for client in server.clients:
            client.writer.transport.abort()
        await server.wait_until(lambda: not state.connections and not state.tasks)
        loop.set_exception_handler(None)
    assert errors == []
