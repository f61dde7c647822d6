"""Trailers are dropped: they change neither the connection nor the next request."""

import pytest
from http_server import ProtocolServer, chunked, get, read_responses

LAST = get("/b", b"Connection: close\r\n")


@pytest.mark.parametrize(
    "trailer",
    [
        b"Connection: close", b"connection: CLOSE", b"Connection: keep-alive, close", b"Connection: upgrade",
        b"Upgrade: h2c\r\nConnection: upgrade", b"Upgrade: websocket", b"Keep-Alive: timeout=0",
        b"Host: elsewhere", b"Expect: 100-continue", b"Authorization: Bearer x", b"Trailer: x",
        b"Proxy-Connection: close",
    ],
)  # fmt: skip
@pytest.mark.parametrize("gap_s", [0, 0.02])
async def test_a_trailer_neither_ends_a_connection_nor_swallows_what_comes(
    server: ProtocolServer, trailer: bytes, gap_s: float
) -> None:
    """The request is answered, and so are those behind it, in one segment or in several."""
    raw = chunked("/echo", b"3\r\nabc\r\n0\r\n" + trailer + b"\r\n\r\n")
    heard = read_responses(await server.send(raw, raw, LAST, gap_s=gap_s))
    assert [(one.status, one.body) for one in heard] == [(200, b"abc"), (200, b"abc"), (200, b"/b")]


@pytest.mark.parametrize("trailer", [b"Content-Length: 5", b"Transfer-Encoding: gzip", b"X : a", b"X: a\n b"])
async def test_a_framing_or_malformed_trailer_ends_the_connection(
    server: ProtocolServer, trailer: bytes
) -> None:
    """Nothing after it is read as a request."""
    heard = read_responses(await server.send(chunked("/echo", b"0\r\n" + trailer + b"\r\n\r\n"), LAST))
    assert [one.status for one in heard] == [400]


async def test_a_trailer_is_no_header_of_the_next_request(server: ProtocolServer) -> None:
    """Nor of its own."""
    raw = chunked("/headers", b"0\r\nX-Trailer: one\r\n\r\n") + get("/headers", b"Connection: close\r\n")
    for heard in read_responses(await server.send(raw)):
        assert b"x-trailer" not in heard.body


@pytest.mark.parametrize("last", [b"Connection: close", b"Connection: foo, Close", b"Connection: \tclose "])
async def test_what_the_head_says_of_the_connection_holds(server: ProtocolServer, last: bytes) -> None:
    """A trailer does not keep it open either."""
    raw = chunked("/echo", b"0\r\nConnection: keep-alive\r\n\r\n").replace(
        b"\r\nHost", b"\r\n" + last + b"\r\nHost"
    )
    heard = read_responses(await server.send(raw, get("/b")))
    assert [one.status for one in heard] == [200]
