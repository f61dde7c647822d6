"""Requests as bytes: a valid one, and those that must be rejected.

`NOT_HTTP` are rejected by the parser, `TWO_READINGS` by the gateway: a proxy could read them differently.
Source: RFC 9112 (message syntax, request smuggling in 11.2).
"""

import json

import pytest
from running_stack import KEY, MASTER_KEY

BODY = json.dumps({"model": "p/ok", "messages": [{"role": "user", "content": "raw"}]}).encode()
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
AUTH = f"Authorization: Bearer {KEY}\r\n".encode()
UPGRADE = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
)
SOCKET = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
CHAT = b"/v1/chat/completions"
INNER = b"GET /llmp/catalog HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + MASTER_KEY.encode() + b"\r\n\r\n"


def request(
    path: bytes = CHAT,
    more: bytes = b"",
    *,
    method: bytes = b"POST",
    version: bytes = b"HTTP/1.1",
    host: bytes = b"Host: x\r\n",
    auth: bytes = AUTH,
    length: bool = True,
    body: bytes = BODY,
) -> bytes:
    """Returns a valid chat request, but for the given arguments."""
    head = method + b" " + path + b" " + version + b"\r\n" + host + auth
    sized = b"Content-Length: %d\r\n" % len(body) if length else b""
    return (
        head
        + b"Content-Type: application/json\r\nX-Canary: of-the-caller\r\n"
        + more
        + sized
        + b"\r\n"
        + body
    )


NOT_HTTP = [
    pytest.param(request(more=b"Transfer-Encoding: chunked\r\n", body=CHUNKS), id="length after chunked"),
    pytest.param(
        request(more=b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", length=False, body=CHUNKS),
        id="chunked and a short length",
    ),
    pytest.param(
        request(
            more=b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
            length=False,
            body=b"0\r\n\r\n" + INNER,
        ),
        id="a request after the last chunk",
    ),
    pytest.param(request(more=b"Transfer-Encoding: identity\r\n"), id="identity"),
    pytest.param(request(more=b"Transfer-Encoding: xchunked\r\n", length=False), id="xchunked"),
    pytest.param(
        request(more=b"Transfer-Encoding: chunked, identity\r\n", length=False), id="chunked not last"
    ),
    pytest.param(
        request(more=b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", length=False),
        id="two codings",
    ),
    pytest.param(request(more=b"Transfer-Encoding : chunked\r\n", length=False), id="space before the colon"),
    pytest.param(request(more=b"Transfer-Encoding: \x0bchunked\r\n", length=False), id="vertical tab"),
    pytest.param(request(more=b"Content-Length: 5\r\n"), id="two lengths"),
    pytest.param(request(more=b"Content-Length: %d\r\n" % len(BODY)), id="one length twice"),
    pytest.param(request(more=b"Content-Length: -5\r\n", length=False), id="negative length"),
    pytest.param(request(more=b"Content-Length: +5\r\n", length=False), id="signed length"),
    pytest.param(request(more=b"Content-Length: 5, 5\r\n", length=False), id="list of lengths"),
    pytest.param(request(more=b"Content-Length: 0x10\r\n", length=False), id="hexadecimal length"),
    pytest.param(
        request(more=b"Content-Length: 99999999999999999999999\r\n", length=False), id="endless length"
    ),
    pytest.param(request(more=b"Content-Length:\r\n 5\r\n", length=False), id="folded length"),
    pytest.param(request(more=b"X-A: 1\r\n 2\r\n"), id="obs-fold"),
    pytest.param(request(more=b"X-A: a\rb\r\n"), id="bare CR"),
    pytest.param(request().replace(b"\r\n", b"\n"), id="bare LF"),
    pytest.param(request(more=b"X-A: a\0b\r\n"), id="NUL in a header"),
    pytest.param(request(path=CHAT + b"\0"), id="NUL in the path"),
    pytest.param(request(host=b"Host: a\0b\r\n"), id="NUL in Host"),
    pytest.param(request(path=b"/v1/\xff"), id="path that is not ASCII"),
    pytest.param(request(more=b"no colon\r\n"), id="no colon"),
    pytest.param(request(more=b": v\r\n"), id="no name"),
    pytest.param(request(more=b"a b: v\r\n"), id="space in a name"),
    pytest.param(request(method=b"FROBNICATE"), id="unknown method"),
    pytest.param(request(method=b"post"), id="method in small letters"),
    pytest.param(request(method=b"CONNECT", path=b"127.0.0.1:1"), id="CONNECT"),
    pytest.param(request(version=b"HTTP/1.2"), id="HTTP/1.2"),
    pytest.param(request(path=b"/" + b"a" * 100_000), id="very long path"),
    pytest.param(request(version=b"RTSP/1.0"), id="RTSP"),
    pytest.param(request(method=b"SOURCE", version=b"ICE/1.0"), id="ICE"),
    pytest.param(request(version=b"HTTP/1.1 "), id="space after the version"),
    pytest.param(request(method=b"POST "), id="two spaces before the path"),
    pytest.param(request(path=CHAT + b" "), id="two spaces after the path"),
    pytest.param(request(method=b"POST\t"), id="tab before the path"),
    pytest.param(b"\n" + request(), id="bare LF before the request"),
    pytest.param(request(path=CHAT + b"#"), id="fragment"),
    pytest.param(request(path=b"/v1\\chat\\completions"), id="backslashes"),
    pytest.param(request(path=b"*", method=b"OPTIONS"), id="asterisk"),
    pytest.param(request(path=b"x:80"), id="authority"),
    pytest.param(request(path=b"http://u@x" + CHAT), id="user in the target"),
    pytest.param(request(path=b"http://" + CHAT), id="target without a host"),
    pytest.param(request(path=b"ftp://x" + CHAT), id="another scheme"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2 preface"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
]
TWO_READINGS = [
    pytest.param(request(host=b""), "invalid_host", id="no Host"),
    pytest.param(request(host=b"Host: a\r\nHost: b\r\n"), "invalid_host", id="two hosts"),
    pytest.param(request(host=b"Host: a\r\nHost: a\r\n"), "invalid_host", id="one host twice"),
    pytest.param(request(host=b"Host: a/../b\r\n"), "invalid_host", id="a path in Host"),
    pytest.param(request(host=b"Host: a/v1/models?\r\n"), "invalid_host", id="a query in Host"),
    pytest.param(request(host=b"Host: u@a#\r\n"), "invalid_host", id="a user in Host"),
    pytest.param(request(host=b"Host: \xff\xfe\r\n"), "invalid_host", id="bytes in Host"),
    pytest.param(request(version=b"HTTP/2.0"), "unsupported_http_version", id="HTTP/2.0"),
    pytest.param(b"GET /health/live\r\n\r\n", "unsupported_http_version", id="HTTP/0.9"),
    pytest.param(
        request(version=b"HTTP/1.0", more=b"Transfer-Encoding: chunked\r\n", length=False, body=CHUNKS),
        "invalid_framing",
        id="chunks in HTTP/1.0",
    ),
    pytest.param(request(more=UPGRADE), "no_upgrade", id="h2c"),
    pytest.param(request(more=UPGRADE, body=INNER), "no_upgrade", id="a request in the body beside h2c"),
    pytest.param(request(method=b"GET", more=SOCKET, length=False, body=b""), "no_upgrade", id="websocket"),
    pytest.param(
        request(b"/health/live", SOCKET, method=b"GET", body=b""), "no_upgrade", id="websocket elsewhere"
    ),
]
