"""A request whose head is alike an earlier one is read without the parser, as the parser would read it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import uvicorn
from uvicorn.server import ServerState

from llm_proxy.sidecar.http_protocol import MAX_HEADS_LEARNED, SidecarHttpProtocol

COMMON = ("host: sidecar", "content-type: application/json", "authorization: Bearer k")


def request(body: str, *headers: str, path: str = "/v1/chat/completions?a=b", last: str = "") -> bytes:
    """A call as a gateway sends it."""
    lines = [f"POST {path} HTTP/1.1", *COMMON, *headers]
    return "\r\n".join([*lines, last or f"content-length: {len(body)}", "", body]).encode()


def call_id() -> str:
    """The header of a call's id."""
    return f"x-litellm-call-id: {uuid4()}"


class Served:
    """An application that answers with the body it got, and keeps each request's scope."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []
        self.state = ServerState()
        config = uvicorn.Config(self._answer, interface="asgi3", lifespan="off", proxy_headers=False)
        config.load()
        self._config = config

    def protocol(self) -> SidecarHttpProtocol:
        """A connection's protocol."""
        return SidecarHttpProtocol(self._config, self.state, {})

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def lose_parser(self) -> None:
        """From now on only what needs no parser is read."""
        [connection] = self.state.connections
        connection.parser = None  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue] -- uvicorn names no one type


class Connection:
    """A client's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def ask(self, *segments: bytes) -> bytes:
        """Sends a request in segments; returns the body of its answer."""
        for segment in segments:
            self.writer.write(segment)
            await asyncio.sleep(0.01)
        return await self.answer()

    async def answer(self) -> bytes:
        """Returns the body of the next answer."""
        async with asyncio.timeout(5):
            head = await self._reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return await self._reader.readexactly(size)


@pytest.fixture
def served() -> Served:
    """The application."""
    return Served()


@pytest.fixture
async def connection(served: Served) -> AsyncIterator[Connection]:
    """One connection to it."""
    server = await asyncio.get_running_loop().create_server(served.protocol, "127.0.0.1")
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    yield Connection(reader, writer)
    writer.close()
    server.close()


async def test_an_alike_head_needs_no_parser(served: Served, connection: Connection) -> None:
    """Whatever id, size and body; the application sees what the parser would have shown it."""
    sent = [request("x" * size, call_id()) for size in (5, 12, 3000)]
    parsed = [await connection.ask(one) for one in sent]
    assert parsed == [b"x" * 5, b"x" * 12, b"x" * 3000]
    served.lose_parser()
    assert [await connection.ask(one) for one in sent] == parsed
    once, again = served.scopes[:3], served.scopes[3:]
    assert again == once
    assert len({id(one["state"]) for one in served.scopes}) == 6


@pytest.mark.parametrize(
    "other",
    [
        request("abc", call_id(), path="/v1/embeddings"),
        request("abc", "x-more: 1", call_id()),
        request("abc", call_id(), "x-more: 1"),
        request("abc", call_id().upper()),
        request("abc", "x-litellm-call-id: 7"),
        request("abc", call_id(), last="Content-Length: 3"),
        request("abc", call_id(), last="content-length: 03"),
        request("abc", call_id(), last="content-length:  3"),
        request("abc", "connection: keep-alive", call_id()),
        request("3\r\nabc\r\n0\r\n\r\n", call_id(), last="transfer-encoding: chunked"),
    ],
)
async def test_any_other_head_is_read_by_the_parser(
    served: Served, connection: Connection, other: bytes
) -> None:
    """And after it one that is alike."""
    assert await connection.ask(request("first", call_id())) == b"first"
    assert await connection.ask(other) == b"abc"
    assert await connection.ask(request("last", call_id())) == b"last"
    assert len(served.scopes) == 3


async def test_requests_cut_or_joined_anywhere(served: Served, connection: Connection) -> None:
    """One that comes in two segments, and two that come in one, are whole."""
    assert await connection.ask(request("first", call_id())) == b"first"
    whole = request("abcdef", call_id())
    for at in (1, len(whole) // 2, len(whole) - 6, len(whole) - 1):
        assert await connection.ask(whole[:at], whole[at:]) == b"abcdef"
    connection.writer.write(request("one", call_id()) + request("two", call_id()))
    assert [await connection.answer(), await connection.answer()] == [b"one", b"two"]
    connection.writer.write(request("three", call_id()) + b"\r\n")
    assert await connection.answer() == b"three"
    assert await connection.ask(request("four", call_id())) == b"four"
    assert len(served.scopes) == 9


async def test_a_connection_learns_a_bounded_number_of_heads(served: Served, connection: Connection) -> None:
    """One that always differs costs nothing more for long."""
    for number in range(MAX_HEADS_LEARNED + 2):
        assert await connection.ask(request("a", f"x-number: {number}", call_id())) == b"a"
    served.lose_parser()
    assert await connection.ask(request("b", f"x-number: {MAX_HEADS_LEARNED - 1}", call_id())) == b"b"
