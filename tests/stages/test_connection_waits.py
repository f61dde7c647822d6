"""How long a connection may wait, and for what, on a socket of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from llm_proxy.edge.waits import close_slow
from llm_proxy.edge.wire import Connection

IDLE_S = 1
LIMIT_S = 0.5
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
EARLY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"

Message = dict[str, Any]


async def application(_scope: Any, _receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
    """Answers at once, whatever comes after the head."""
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
    )
    for body, more in ((b"one,", True), (b"two", True), (b"", False)):
        await send({"type": "http.response.body", "body": body, "more_body": more})


@dataclass
class Client:
    """One connection and the state of the server behind it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    state: ServerState

    async def says(self, raw: bytes) -> None:
        """Send bytes."""
        self.writer.write(raw)
        await self.writer.drain()

    async def hears(self) -> bytes:
        """An answer, to its last chunk."""
        return await self.reader.readuntil(b"0\r\n\r\n")

    async def is_let_go(self, patience_s: float) -> bool:
        """Whether the server, which looks over its connections all the while, closes this one before then."""
        ended = asyncio.ensure_future(self.reader.read(1))
        ends_at = asyncio.get_running_loop().time() + patience_s
        while not ended.done() and asyncio.get_running_loop().time() < ends_at:
            self.looked_over()
            await asyncio.wait({ended}, timeout=0.05)
        if not ended.done():
            ended.cancel()
            return False
        return ended.exception() is not None or ended.result() == b""

    def looked_over(self) -> None:
        """What the server does once a second."""
        now = asyncio.get_running_loop().time()
        close_slow(self.state.connections, now, head_s=LIMIT_S, idle_s=IDLE_S)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """A connection to a server that waits a second for the next request."""
    config = Config(application, access_log=False, log_config=None, ws="none")
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(config=config, server_state=state, app_state={}), "127.0.0.1"
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    yield Client(reader, writer, state)
    writer.close()
    server.close()


@pytest.mark.parametrize("more", [pytest.param(b"", id="nothing"), pytest.param(b"\r\n", id="an empty line")])
async def test_who_says_nothing_after_an_answer_is_let_go(client: Client, more: bytes) -> None:
    """Also when bytes came that begin no request."""
    await client.says(GET)
    await client.hears()
    await client.says(more)
    assert await client.is_let_go(10)


async def test_who_ends_its_body_after_the_answer_is_let_go_too(client: Client) -> None:
    """And may ask again before that."""
    await client.says(EARLY)
    await client.hears()
    await client.says(b"12345")
    await client.says(GET)
    assert await client.hears()
    await client.says(EARLY)
    await client.hears()
    await client.says(b"12345")
    assert await client.is_let_go(10)


async def test_who_drips_its_body_after_the_answer_is_let_go(client: Client) -> None:
    """Each byte puts off uvicorn's keep-alive; the limit is counted from the answer."""
    await client.says(EARLY)
    await client.hears()
    for _ in range(3):
        await client.says(b"1")
        await asyncio.sleep(LIMIT_S / 2)
    client.looked_over()
    assert await client.is_let_go(IDLE_S / 4)


async def test_http_1_0_gets_no_chunks(client: Client) -> None:
    """The end of the connection is the end of the answer, RFC 9112, 6.3."""
    await client.says(b"GET / HTTP/1.0\r\n\r\n")
    head, _, body = (await client.reader.read()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    assert body == b"one,two"
