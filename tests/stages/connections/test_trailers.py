"""Trailers have no say: not in whether the connection goes on, not in what the next request says."""

import pytest
from http_server import Wired, answers, chunked, get

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
    at: Wired, trailer: bytes, gap_s: float
) -> None:
    """The request is answered, and so are those behind it, in one segment or in several."""
    raw = chunked("/echo", b"3\r\nabc\r\n0\r\n" + trailer + b"\r\n\r\n")
    heard = answers(await at.says(raw, raw, LAST, gap_s=gap_s))
    assert [(one.status, one.body) for one in heard] == [(200, b"abc"), (200, b"abc"), (200, b"/b")]


@pytest.mark.parametrize("trailer", [b"Content-Length: 5", b"Transfer-Encoding: gzip", b"X : a", b"X: a\n b"])
async def test_a_trailer_that_frames_or_is_none_ends_the_connection(at: Wired, trailer: bytes) -> None:
    """Nothing behind it is taken for a request."""
    heard = answers(await at.says(chunked("/echo", b"0\r\n" + trailer + b"\r\n\r\n"), LAST))
    assert [one.status for one in heard] == [400]


async def test_a_trailer_is_no_header_of_the_next_request(at: Wired) -> None:
    """Nor of its own."""
    raw = chunked("/headers", b"0\r\nX-Trailer: one\r\n\r\n") + get("/headers", b"Connection: close\r\n")
    for heard in answers(await at.says(raw)):
        assert b"x-trailer" not in heard.body


@pytest.mark.parametrize("last", [b"Connection: close", b"Connection: foo, Close", b"Connection: \tclose "])
async def test_what_the_head_says_of_the_connection_holds(at: Wired, last: bytes) -> None:
    """A trailer does not keep it open either."""
    raw = chunked("/echo", b"0\r\nConnection: keep-alive\r\n\r\n").replace(
        b"\r\nHost", b"\r\n" + last + b"\r\nHost"
    )
    heard = answers(await at.says(raw, get("/b")))
    assert [one.status for one in heard] == [200]
