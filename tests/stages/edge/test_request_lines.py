"""Request lines that servers read differently are rejected, wherever on a connection they stand."""

import pytest
from http_server import ProtocolServer, chunked, get, post, read_responses

LINES = [
    b"GET /b RTSP/1.0", b"POST /b RTSP/1.0", b"GET /b RTSP/1.1", b"GET /b ICE/1.0", b"SOURCE /b ICE/1.0",
    b"GET /b http/1.1", b"GET /b Http/1.1", b"GET /b HTTP/1.1 ", b"GET /b HTTP/1.1\t", b"GET /b HTTP/01.1",
    b"GET /b HTTP/1.01", b"GET /b HTTP/1,1", b"GET /b HTTP/ 1.1", b"GET /b HTTP /1.1", b"GET /b HTTP/1",
    b"GET /b HTTP/11", b"GET /b HTTP/1.", b"GET /b HTTP/1.1 HTTP/1.1", b"GET /b HTTP/3.0",
    b"GET /b HTTPS/1.1",
    b"GET /b SIP/2.0", b"GET  /b HTTP/1.1", b"GET /b  HTTP/1.1", b"GET\t/b HTTP/1.1", b"GET /b\tHTTP/1.1",
    b"GET \t/b HTTP/1.1", b"GET\x0b/b HTTP/1.1", b"GET /b\x0cHTTP/1.1", b"GET\xa0/b HTTP/1.1",
    b" GET /b HTTP/1.1",
    b"\tGET /b HTTP/1.1", b"GET /b c HTTP/1.1", b"GET /b#f HTTP/1.1", b"GET /b# HTTP/1.1",
    b"GET /b?x#f HTTP/1.1",
    b"GET #/b HTTP/1.1", b"GET /b\\c HTTP/1.1", b"GET \\b HTTP/1.1", b"GET /\\b HTTP/1.1",
    b"GET /b?x\\y HTTP/1.1",
    b"GET /\xc3\xa9 HTTP/1.1", b"GET /b\x7f HTTP/1.1", b"GET /b\x00 HTTP/1.1", b"GET /b\x1f HTTP/1.1",
    b"GET * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET *b HTTP/1.1", b"GET b HTTP/1.1", b"GET ?b HTTP/1.1",
    b"GET x:80 HTTP/1.1", b"GET x HTTP/1.1", b"GET http:/b HTTP/1.1", b"GET http:b HTTP/1.1",
    b"GET http:///b HTTP/1.1", b"GET http:////x/b HTTP/1.1", b"GET http://u@x/b HTTP/1.1",
    b"GET http://u:p@x/b HTTP/1.1", b"GET http://x HTTP/1.1", b"GET http://x?/b HTTP/1.1",
    b"GET http://x:y/b HTTP/1.1", b"GET http://x:123456/b HTTP/1.1", b"GET http://x\\y/b HTTP/1.1",
    b"GET http://[::1/b HTTP/1.1", b"GET http://x%2fy/b HTTP/1.1", b"GET ftp://x/b HTTP/1.1",
    b"GET file:///b HTTP/1.1", b"GET ws://x/b HTTP/1.1", b"GET h2c://x/b HTTP/1.1", b"GET HTTP/1.1",
    b"GET", b"get /b HTTP/1.1", b"Get /b HTTP/1.1", b"G3T /b HTTP/1.1", b"G\xc9T /b HTTP/1.1",
    b"GET/b HTTP/1.1",
    b"PRI * HTTP/2.0", b"\nGET /b HTTP/1.1", b"\rGET /b HTTP/1.1", b"\n\rGET /b HTTP/1.1",
    b"\r\n\nGET /b HTTP/1.1",
    b"\xef\xbb\xbfGET /b HTTP/1.1", b"\0GET /b HTTP/1.1",
]  # fmt: skip
BEFORE = [
    pytest.param(b"", 0, id="first"),
    pytest.param(get("/a"), 1, id="after a request"),
    pytest.param(b"\r\n" + get("/a") + b"\r\n", 1, id="after empty lines"),
    pytest.param(post("/echo", b"a\r\nGET /b HTTP/1.1\r\n\r\n"), 1, id="after a body"),
    pytest.param(chunked("/echo", b"1;a=b\r\na\r\n0\r\nX: y\r\n\r\n"), 1, id="after chunks"),
]


@pytest.mark.parametrize(("before", "good"), BEFORE)
@pytest.mark.parametrize("line", LINES)
async def test_an_ambiguous_request_line_is_rejected(
    server: ProtocolServer, line: bytes, before: bytes, good: int
) -> None:
    """Requests before it are answered; it gets 400 at most, and nothing after it is read."""
    heard = read_responses(await server.send(before + line + b"\r\nHost: x\r\n\r\n" + get("/c")))
    assert [one.status for one in heard[:good]] == [200] * good
    assert [one.status for one in heard[good:]] in ([], [400])
    assert not any(one.body in {b"/b", b"/c"} for one in heard)


@pytest.mark.parametrize("line", [b"GET  /b HTTP/1.1", b"GET /b RTSP/1.0", b"\nGET /b HTTP/1.1"])
async def test_segments_hide_no_line(server: ProtocolServer, line: bytes) -> None:
    """Byte by byte it is read the same."""
    raw = post("/echo", b"abc") + line + b"\r\nHost: x\r\n\r\n" + get("/c")
    heard = read_responses(await server.send(*[raw[n : n + 1] for n in range(len(raw))], gap_s=0.0005))
    assert [one.body for one in heard][:1] == [b"abc"]
    assert [one.status for one in heard[1:]] in ([], [400])


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a?b=http://x/%5c|^{}", b"/a"), (b"http://x/a", b"/a"), (b"HTTPS://x:443/a?b", b"/a"),
        (b"http://[::1]:80/a/b/c?d/e", b"/a/b/c"), (b"/a//b", b"/a//b"), (b"//a", b"//a"), (b"/%61", b"/%61"),
        (b"/a;b=c,d@e:f", b"/a;b=c,d@e:f"), (b"/", b"/"), (b"http://x/", b"/"), (b"/a?", b"/a"), (b"/?b?c",
        b"/"),
    ],
)  # fmt: skip
async def test_unambiguous_targets_are_served(server: ProtocolServer, target: bytes, path: bytes) -> None:
    """A path or an absolute URL, with or without a query."""
    raw = b"\r\nGET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    (answer,) = read_responses(await server.send(raw))
    assert (answer.status, answer.body) == (200, path)


async def test_a_body_of_many_small_chunks_is_read_to_its_end(server: ProtocolServer) -> None:
    """Cut anywhere."""
    raw = chunked("/echo", b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n") + get("/b", b"Connection: close\r\n")
    heard = read_responses(await server.send(*[raw[n : n + 1021] for n in range(0, len(raw), 1021)]))
    assert [len(one.body) for one in heard] == [20_000, 2]
