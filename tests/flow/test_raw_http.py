"""Malformed and ambiguous requests get a clear error; the sidecar receives only the gateway's requests.

The module's own gateway stands before the stack's sidecar; a relay between them records every byte.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from raw_http import RawAnswer, RecordingRelay, send_raw
from raw_requests import CHAT, CHUNKS, INNER, NOT_HTTP, TWO_READINGS, request
from running_stack import ADMIN_KEY, KEY, MASTER_KEY
from stack_processes import serve_gateway


@dataclass(frozen=True, slots=True)
class RelayedGateway:
    """A gateway, the relay behind it, and its log."""

    port: int
    tap: RecordingRelay
    log: Path


@pytest.fixture(scope="module")
def running(stack_ports: dict[str, int], service_folder: Path) -> Iterator[RelayedGateway]:
    """Starts the gateway and the relay."""
    tap = RecordingRelay(stack_ports["sidecar"])
    try:
        with serve_gateway(service_folder / "raw", [f"http://127.0.0.1:{tap.port}"]) as gateway:
            log = service_folder / "raw" / "logs" / f"gateway-{gateway.port}.log"
            yield RelayedGateway(gateway.port, tap, log)
    finally:
        tap.close()


@pytest.fixture
def front(running: RelayedGateway) -> Iterator[RelayedGateway]:
    """Returns the gateway; afterwards checks what the sidecar was sent, and the log."""
    yield running
    for head in running.tap.heads():
        line, *lines = head.decode().rstrip().split("\r\n")
        named = {name.lower(): value for name, value in (one.split(": ", 1) for one in lines)}
        assert line in {
            "GET /health/liveliness HTTP/1.1",
            "GET /llmp/catalog HTTP/1.1",
            "POST /v1/chat/completions HTTP/1.1",
        }
        assert named["host"] == f"127.0.0.1:{running.tap.port}"
        assert named["authorization"] == f"Bearer {MASTER_KEY}"
        assert named["user-agent"] == "llm-proxy"
        assert "x-canary" not in named
    assert b"of-the-caller" not in running.tap.sent
    assert KEY.encode() not in running.tap.sent
    said = running.log.read_text(encoding="utf-8")
    assert '"level":"ERROR"' not in said
    assert "Traceback" not in said


def count_calls(front: RelayedGateway) -> int:
    """Counts the calls that the sidecar was sent."""
    return sum(head.startswith(b"POST ") for head in front.tap.heads())


def send_rejected(front: RelayedGateway, *pieces: bytes) -> RawAnswer:
    """Sends a request that must not reach the sidecar; returns what came back."""
    before = count_calls(front)
    said = send_raw(front.port, *pieces)
    assert count_calls(front) == before
    assert said.statuses == [] or all(400 <= status < 500 for status in said.statuses)
    return said


@pytest.mark.parametrize("raw", NOT_HTTP)
def test_what_is_not_http_is_400_and_closes_the_connection(front: RelayedGateway, raw: bytes) -> None:
    """In OpenAI's envelope; nothing after it is read."""
    said = send_rejected(front, raw, INNER)
    assert said.statuses == [400]
    assert said.code == "invalid_http"
    assert said.closed


@pytest.mark.parametrize("path", [CHAT, b"/health/live", b"/admin/keys"])
@pytest.mark.parametrize("coding", [b"gzip, chunked", b"chunked;q=1, chunked", b"identity, chunked"])
def test_another_transfer_coding_than_chunked_is_501(
    front: RelayedGateway, path: bytes, coding: bytes
) -> None:
    """RFC 9112, 6.1: in OpenAI's envelope, closed; the body is not read as JSON."""
    before = count_calls(front)
    raw = request(path, b"Transfer-Encoding: %b\r\n" % coding, length=False, body=CHUNKS)
    said = send_raw(front.port, raw, INNER)
    assert count_calls(front) == before
    assert (said.statuses, said.code, said.closed) == ([501], "unsupported_transfer_encoding", True)


def test_transfer_codings_are_case_insensitive(front: RelayedGateway) -> None:
    """RFC 9112, 7."""
    raw = request(more=b"Transfer-Encoding: Chunked\r\nConnection: close\r\n", length=False, body=CHUNKS)
    assert send_raw(front.port, raw).statuses == [200]


@pytest.mark.parametrize(("raw", "code"), TWO_READINGS)
def test_an_ambiguous_head_is_400_and_closes_the_connection(
    front: RelayedGateway, raw: bytes, code: str
) -> None:
    """In OpenAI's envelope; later bytes are not read as a request."""
    said = send_rejected(front, raw, INNER)
    assert said.statuses == [400]
    assert said.code == code
    assert said.closed


@pytest.mark.parametrize(
    "expected",
    [
        b"100-continue, 100-continue", b"100-continue,", b",100-continue", b"100-continue, x",
        b"x, 100-continue",
        b"100-continue;q=1", b'"100-continue"', b"100 continue", b"100-Continue x", b"200-ok", b"100", b"x",
        b"",
        b"100-continue\r\nExpect: 100-continue", b"100-continue\r\nExpect: x", b"x\r\nExpect: 100-continue",
        b"100-continue\xa0", b"\xa0100-continue", b"100_continue",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, b"/health/live", b"/admin/keys", b"/nowhere"])
def test_another_expectation_is_417_and_closes_the_connection(
    front: RelayedGateway, path: bytes, expected: bytes
) -> None:
    """A body that may or may not follow is not read as the next request."""
    said = send_rejected(front, request(path, b"Expect: " + expected + b"\r\n", auth=b"", body=INNER))
    assert (said.statuses, said.code, said.closed) == ([417], "unsupported_expectation", True)


@pytest.mark.parametrize("expected", [b"100-continue", b"100-CONTINUE", b"\t 100-continue \t"])
def test_a_body_behind_expect_is_read_or_the_connection_is_closed(
    front: RelayedGateway, expected: bytes
) -> None:
    """Spaces around a value do not count (RFC 9110, 5.5)."""
    more = b"Expect: " + expected + b"\r\n"
    assert send_raw(front.port, request(more=more)).statuses == [200]
    held_back = request(more=more + b"Content-Length: 5000\r\n", auth=b"", length=False, body=b"")
    said = send_rejected(front, held_back, INNER)
    assert (said.statuses, said.closed) == ([401], True)


@pytest.mark.parametrize("name", [b"X-Forwarded-For", b"tracestate", b"Cache-Control"])
def test_several_lines_of_a_list_header_are_one_list(front: RelayedGateway, name: bytes) -> None:
    """RFC 9110, 5.3: proxies add lines."""
    more = name + b": max-age=1\r\n" + name + b": max-age=2\r\n"
    assert send_raw(front.port, request(more=more)).statuses == [200]


@pytest.mark.parametrize(
    "path",
    [
        b"/%61dmin/keys", b"/admin/%6beys", b"/admin%2fkeys", b"/%41dmin/keys", b"/admin/./keys",
        b"/admin//keys",
        b"//admin/keys", b"/./admin/keys", b"/x/../admin/keys", b"/admin/keys%00", b"/admin/keys%20",
        b"/admin/keys/",
        b"/ADMIN/keys", b"/admin/keys;x", b"/admin/key%73/abc", b"/%61dmin/keys/abc/rotate", b"/metric%73",
        b"/health/liv%65", b"/v1/model%73", b"/%76%31/models", b"/v1/usag%65", b"/internal/llm/model%73",
        b"/openapi%2ejson", b"/v1/limit%73", b"/admin/audi%74", b"/admin/kill%73",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", [b"GET", b"POST", b"DELETE"])
def test_every_path_is_compared_as_it_was_sent(front: RelayedGateway, path: bytes, method: bytes) -> None:
    """A proxy's rule that names a path holds."""
    auth = f"Authorization: Bearer {ADMIN_KEY}\r\n".encode()
    said = send_rejected(front, request(path, method=method, auth=auth, body=b"{}"))
    assert (said.statuses, said.code) == ([404], "unknown_url")


@pytest.mark.parametrize("name", [b"p/ok", b"p%2Fok", b"p%2fo%6B", b"%70/ok"])
def test_a_path_parameter_is_decoded(front: RelayedGateway, name: bytes) -> None:
    """Percent-encoding in a model's name is the client's choice."""
    said = send_raw(front.port, request(b"/v1/models/" + name, method=b"GET", body=b""))
    assert said.statuses == [200]
    assert b'"id":"p/ok"' in said.body


@pytest.mark.parametrize(
    "path",
    [
        b"//v1/chat/completions", b"/v1//chat/completions", b"/v1/../v1/chat/completions",
        b"/../v1/chat/completions", b"/v1/./chat/completions", b"/v1/%2e%2e/v1/chat/completions",
        b"/v1%2fchat%2fcompletions", b"/v1/%63hat/completions", b"/v1/chat/completions//",
        b"/v1/chat/completions;x", b"/v1/chat/completions%00", b"/v1/chat/completions%0d%0aX:%20y",
        b"/v1/chat/%zz", b"/v1/chat/%ff%fe", b"/V1/chat/completions",
        b"/openai/engines/plain", b"/engines/plain/chat/completions", b"/llmp/catalog",
        b"/config/update", b"/key/generate", b"/mcp/", b"/v2/model/info",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", [b"POST", b"GET"])
def test_a_path_that_is_not_in_the_route_table_is_404(
    front: RelayedGateway, path: bytes, method: bytes
) -> None:
    """No path is normalised, no route of the sidecar is passed through."""
    said = send_rejected(front, request(path, method=method))
    assert said.statuses == [404]
    assert said.code == "unknown_url"


@pytest.mark.parametrize("path", [b"/v1/models//", b"/models//"])
def test_an_empty_model_name_is_404(front: RelayedGateway, path: bytes) -> None:
    """The path is then no route."""
    said = send_rejected(front, request(path, method=b"GET", body=b""))
    assert said.statuses == [404]
    assert said.code == "unknown_url"


@pytest.mark.parametrize(
    "name", [b"../../llmp/catalog", b"%2e%2e%2fllmp%2fcatalog", b"%00", b"a%ff", b"%5c..%5cx"]
)
def test_a_model_name_is_never_part_of_a_path(front: RelayedGateway, name: bytes) -> None:
    """It is an unknown model, whatever it looks like."""
    said = send_rejected(front, request(b"/v1/models/" + name, method=b"GET", body=b""))
    assert said.statuses == [404]
    assert said.code == "model_not_found"


@pytest.mark.parametrize(
    "method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"PROPFIND"]
)
def test_another_method_is_405_with_allow_and_nothing_is_echoed(front: RelayedGateway, method: bytes) -> None:
    """Also TRACE, whose response would repeat the credential."""
    said = send_rejected(front, request(method=method))
    assert said.statuses == [405]
    assert b"\r\nallow: POST\r\n" in said.raw
    assert KEY.encode() not in said.raw


@pytest.mark.parametrize(
    "header",
    [b"Authorization: Bearer ", b"X-Internal-Secret: ", b"x-internal-auth: ", b"x-api-key: ", b"api-key: "],
)
@pytest.mark.parametrize(
    "key",
    [
        b"' OR '1'='1", b"sk-x' UNION SELECT NULL,NULL--", b"'; DROP TABLE api_keys; --",
        b"x\\'; SELECT pg_sleep(5)--", b"%27%20OR%201=1", b"${jndi:ldap://127.0.0.1/x}", b"{{7*7}}",
        b"\xff\xfe\xfd", b"a" * 8000, b"undefined", b"\x01",
    ],
)  # fmt: skip
def test_a_credential_is_never_part_of_a_query(front: RelayedGateway, header: bytes, key: bytes) -> None:
    """401 at once, or 400 for a byte the parser rejects; the credential is not repeated."""
    said = send_rejected(front, request(auth=header + key + b"\r\n"))
    assert said.statuses == ([400] if key == b"\x01" else [401])
    assert key not in said.raw


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(b"X-A: " + b"a" * 60_000 + b"\r\n", id="one long header"),
        pytest.param(b"".join(b"X-%d: y\r\n" % at for at in range(6000)), id="many headers"),
        pytest.param(b"Cookie: " + b"a=b; " * 10_000 + b"\r\n", id="cookies"),
    ],
)
def test_more_header_bytes_than_allowed_are_431(front: RelayedGateway, more: bytes) -> None:
    """In OpenAI's envelope."""
    said = send_rejected(front, request(more=more))
    assert said.statuses == [431]
    assert said.code == "headers_too_large"


def test_an_endless_head_ends_the_connection(front: RelayedGateway) -> None:
    """64 MiB are sent, far less is read."""
    said = send_rejected(front, b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-A: ", *[b"a" * 65536] * 1024)
    assert said.closed
    assert said.statuses in ([], [431])


@pytest.mark.timeout(60)
def test_an_incomplete_head_ends_the_connection(front: RelayedGateway) -> None:
    """After about ten seconds, whether nothing or half a head was sent."""
    said = send_rejected(front, b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
    assert not said.closed
    assert send_raw(front.port, b"POST /v1/chat/completions HTTP/1.1\r\n", wait_s=20).closed


def test_unusual_but_valid_requests_are_served(front: RelayedGateway) -> None:
    """HTTP/1.0, an absolute target, a query, chunks, `Expect`: one call each, to the sidecar alone."""
    before = count_calls(front)
    good = (
        request(version=b"HTTP/1.0"),
        request(version=b"HTTP/1.0", host=b""),
        request(b"http://127.0.0.1:1/v1/chat/completions"),
        request(b"http://elsewhere.invalid/v1/chat/completions"),
        request(CHAT + b"?api_base=http://127.0.0.1:1"),
        request(more=b"Transfer-Encoding: chunked\r\n", length=False, body=CHUNKS),
        request(more=b"Expect: 100-continue\r\n"),
        request(host=b"Host: [::1]:7007\r\n"),
    )
    for raw in good:
        assert send_raw(front.port, raw).statuses == [200]
    assert count_calls(front) - before == len(good)


def test_pipelined_requests_are_authenticated_each(front: RelayedGateway) -> None:
    """In order; a key does not cover the next request."""
    said = send_raw(front.port, request() + request(auth=b"") + request(), answers=3)
    assert said.statuses == [200, 401, 200]
    assert send_raw(front.port, request() + INNER, answers=2).statuses == [200, 404]
