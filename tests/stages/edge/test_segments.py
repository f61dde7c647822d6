"""The answers do not depend on where the bytes of the requests are cut into segments; seeded."""

import asyncio
import random
from collections.abc import Iterable, Iterator
from typing import Any, cast

import pytest
from http_server import ProtocolServer, chunked, get, post, read_responses

from llm_proxy.edge import http_protocol
from llm_proxy.edge.http_protocol import HEAD_TOO_LARGE, INVALID_HTTP

CASES = 150
GOOD = [
    get("/a?x=%41"), get("/b", method=b"HEAD"), get("/c", b"X-A: \xff\r\n"), get("/d", version=b"1.0"),
    get("/e", b"Connection: close\r\n"), get("/f", b"Connection: upgrade\r\nUpgrade: h2c\r\n"), get("//g%00"),
    get("http://h/i"), post("/echo", b"some body"), post("/echo"), get("/status/204"), get("/half"),
    chunked("/echo", b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n"),
    chunked("/echo", b"1\r\na\r\n0\r\nX-T: y\r\n\r\n"),
]  # fmt: skip
PIECES = [
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b" ", b":", b";", b"-", b"#", b"\xff", b"0\r\n\r\n", b"f" * 17,
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"GET / HTTP/1.1",
]  # fmt: skip


def mutated(chance: random.Random) -> bytes:
    """A few requests, most of them no longer quite that."""
    raw = bytearray(b"".join(chance.choices(GOOD, k=chance.randint(1, 4))))
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        where = chance.randrange(len(raw))
        what = chance.randrange(4)
        if what == 0:
            raw[where:where] = chance.choice(PIECES)
        elif what == 1:
            del raw[where : where + chance.randint(1, 6)]
        elif what == 2:
            raw[where] = chance.randrange(256)
        else:
            raw[where:where] = raw[where : where + chance.randint(1, 30)]
    return bytes(raw) or b"\n"


def cut(chance: random.Random, raw: bytes) -> Iterator[bytes]:
    """Its bytes, in segments of any size."""
    while raw:
        size = chance.choice((1, 2, 3, 7, 20, 80))
        yield raw[:size]
        raw = raw[size:]


async def response_to(server: ProtocolServer, pieces: Iterable[bytes]) -> bytes:
    """What was said to that, but for a last refusal: none follows an answer that was still to be given."""
    client = await server.connect()
    connection = await server.connection()
    for piece in pieces:
        if connection.transport.is_closing():
            break
        connection.data_received(piece)
        for _ in range(3):
            await asyncio.sleep(0)
    await server.wait_until(lambda: not server.state.tasks or server.app.events[-1:] == ["reads"])
    client.half_close()
    came = await client.read_all()
    client.writer.transport.abort()
    await server.wait_until(lambda: not server.state.connections and not server.state.tasks)
    server.app.events.clear()
    return came.removesuffix(INVALID_HTTP).removesuffix(HEAD_TOO_LARGE).replace(b"connection: close\r\n", b"")


async def test_segments_do_not_matter(server: ProtocolServer) -> None:
    """Good requests and broken ones, pipelined, whole and in pieces."""
    chance = random.Random(7)  # noqa: S311 -- no secret
    for _ in range(CASES):
        raw = mutated(chance)
        whole = await response_to(server, [raw])
        assert await response_to(server, list(cut(chance, raw))) == whole, raw


def repeated(chance: random.Random) -> list[bytes]:
    """Requests with the same head, of bodies of any length; each whole, in pieces or with the next."""
    path, more = chance.choice(["/echo", "/early", "/headers", "/half"]), chance.choice([b"", b"X-A: b\r\n"])
    requests = [post(path, b"b" * chance.choice((1, 2, 9, 10, 99)), more) for _ in range(4)]
    requests.insert(chance.randrange(5), chance.choice([b"", b"", mutated(chance), b"\r\n", b"\n", b"\r"]))
    found: list[bytes] = []
    for one in requests:
        at = chance.choice((0, one.find(b"\r\n\r\n") + 4, chance.randrange(len(one) + 1)))
        if at and chance.random() < 0.2 and found:
            found[-1] += one[:at]
        else:
            found.append(one[:at])
        found.append(one[at:])
    return [piece for piece in found if piece]


async def test_repeated_heads_do_not_matter(server: ProtocolServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request with the head of an earlier one is answered as the parser reads it."""
    chance = random.Random(8)  # noqa: S311 -- no secret
    for _ in range(CASES):
        pieces = repeated(chance)
        found = await response_to(server, pieces)
        with monkeypatch.context() as patched:
            patched.setattr(http_protocol, "MAX_HEADS_LEARNED", 0)
            assert found == await response_to(server, pieces), pieces


async def test_a_repeated_head_is_not_parsed(server: ProtocolServer) -> None:
    """Its request is answered by a connection without a parser, with the headers and the body it has."""
    client = await server.connect()
    await client.send(post("/echo", b"first"))
    connection = await server.connection()
    await server.wait_until(lambda: connection.idle_since is not None)
    connection.parser = cast("Any", None)
    await client.send(post("/echo", b"the second")[:-3])
    await client.send(b"ond")
    await server.wait_until(lambda: connection.idle_since is not None)
    client.half_close()
    assert [one.body for one in read_responses(await client.read_all())] == [b"first", b"the second"]
