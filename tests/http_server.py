"""A server of bare connections on a socket of its own, before `Behaviours`; and its clients.

Invariants: what an event loop reports to nobody, a server keeps in `faults`; a client never interprets what
it sends; nothing waits longer than `CHECK_TIMEOUT_S`.
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

from scripted_asgi import Behaviours
from uvicorn import Config
from uvicorn.server import ServerState

from llm_proxy.edge.http_protocol import BoundedHttpProtocol, close_slow_connections

PATIENCE_S = 5
HEAD_S, IDLE_S = 0.3, 0.6
"""How long a server of these waits, where it looks at all."""
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
class Answer:
    """One answer as it came; `whole` when its end was seen."""

    status: int
    head: bytes
    body: bytes
    whole: bool


def answers(raw: bytes, *methods: bytes) -> list[Answer]:
    """What was said on a connection that has ended, the interim too; by methods, for `HEAD`."""
    found: list[Answer] = []
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
        found.append(Answer(status, head, body, whole))
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

    async def says(self, *pieces: bytes, gap_s: float = 0) -> None:
        """Send bytes, each piece a segment of its own if there is a gap."""
        for piece in pieces:
            self.writer.write(piece)
            with contextlib.suppress(ConnectionError):
                await self.writer.drain()
            if gap_s:
                await asyncio.sleep(gap_s)

    async def hears(self, until: bytes) -> bytes:
        """What came, to the end of that."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readuntil(until)

    async def rest(self) -> bytes:
        """What comes until the server ends its side."""
        came = b""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                while more := await self.reader.read(2**16):
                    came += more
        return came

    async def is_quiet(self, for_s: float = 0.1) -> bool:
        """Whether nothing comes for that long, and the connection stays."""
        try:
            async with asyncio.timeout(for_s):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False

    def closes(self) -> None:
        """Leave."""
        self.writer.close()

    def ends(self) -> None:
        """End its own side alone."""
        self.writer.write_eof()

    def breaks_off(self) -> None:
        """Leave without a farewell: a reset."""
        held: socket.socket = self.writer.get_extra_info("socket")
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass
class Wired:
    """A server, what it noted, and what the loop complained of."""

    address: tuple[str, int]
    state: ServerState
    app: Behaviours
    made: "weakref.WeakSet[BoundedHttpProtocol]"
    """Every connection there was, while it is in memory."""
    clients: list[Client] = field(default_factory=list[Client])

    async def client(self, buffer_bytes: int | None = None) -> Client:
        """A connection, accepted."""
        held = socket.socket()
        held.setblocking(False)  # noqa: FBT003 -- a socket's own
        if buffer_bytes:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        await asyncio.get_running_loop().sock_connect(held, self.address)
        client = Client(*await asyncio.open_connection(sock=held, limit=2**16))
        self.clients.append(client)
        return client

    async def says(self, *pieces: bytes, gap_s: float = 0, ends: bool = False) -> bytes:
        """What comes back on a connection that sent that, until the server ends it."""
        client = await self.client()
        await client.says(*pieces, gap_s=gap_s)
        if ends:
            await asyncio.sleep(0.1)
            client.ends()
        return await client.rest()

    async def connection(self) -> BoundedHttpProtocol:
        """The server's side of the only connection there is."""
        await self.until(lambda: len(self.state.connections) == 1)
        (only,) = self.state.connections
        assert isinstance(only, BoundedHttpProtocol)
        return only

    async def until(self, true: Callable[[], object]) -> None:
        """Wait for that."""
        async with asyncio.timeout(PATIENCE_S):
            while not true():  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.005)

    async def has_noted(self, what: str) -> None:
        """Wait until the application has."""
        await self.until(lambda: what in self.app.noted)

    def looks(self, later_s: float = 0) -> None:
        """What the server does once a second, as if it were later."""
        now = asyncio.get_running_loop().time() + later_s
        close_slow_connections(self.state.connections, now, timeout_s=HEAD_S)


@contextlib.asynccontextmanager
async def wired(*, most: int | None = None) -> AsyncGenerator[Wired]:
    """A server of `Behaviours`; at its end nobody is left, and no loop has complained."""
    app, loop = Behaviours(), asyncio.get_running_loop()
    faults: list[Any] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))
    config = Config(
        app,
        access_log=False,
        log_config=None,
        ws="none",
        proxy_headers=False,
        limit_concurrency=most,
        timeout_keep_alive=IDLE_S,  # type: ignore[arg-type]  # uvicorn hands it to call_later
    )
    config.load()
    state = ServerState()
    made = weakref.WeakSet[BoundedHttpProtocol]()

    def connected() -> BoundedHttpProtocol:
        one = BoundedHttpProtocol(config=config, server_state=state, app_state={})
        made.add(one)
        return one

    server = await loop.create_server(connected, "127.0.0.1")
    at = Wired(server.sockets[0].getsockname(), state, app, made)
    try:
        yield at
    finally:
        server.close()
        for client in at.clients:
            client.writer.transport.abort()
        await at.until(lambda: not state.connections and not state.tasks)
        loop.set_exception_handler(None)
    assert faults == []
