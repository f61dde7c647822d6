"""Requests no library would send: each gets a clear answer, and the sidecar gets our own requests alone.

A gateway of this file's own stands before the stack's sidecar; a relay between them keeps what passes.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from raw_http import RawAnswer, RecordingRelay, send_raw
from raw_requests import CHAT, CHUNKS, INNER, NOT_HTTP, TWO_READINGS, request
from running_stack import ADMIN_KEY, KEY, MASTER_KEY

from llm_proxy.stack import probe, process
from llm_proxy.stack.operator_env import OperatorEnv
from llm_proxy.stack.process_specs import gateway_spec


@dataclass(frozen=True, slots=True)
class Front:
    """A gateway, the relay behind it, and its log."""

    port: int
    tap: RecordingRelay
    log: Path


@pytest.fixture(scope="module")
def running(stack_ports: dict[str, int], service_folder: Path) -> Iterator[Front]:
    """The gateway and the relay."""
    given = OperatorEnv({name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ})
    tap, port = RecordingRelay(stack_ports["sidecar"]), probe.free_port()
    names = {
        "LLM_PROXY__ENVIRONMENT": "development",
        "LLM_PROXY__INTERNAL_API_KEY": KEY,
        "LLM_PROXY__ADMIN_KEY": ADMIN_KEY,
        "LITELLM_MASTER_KEY": MASTER_KEY,
        "LLM_PROXY__LITELLM_PROXY_URL": f"http://127.0.0.1:{tap.port}",
        "LLM_PROXY__SPOOL_DIR": str(service_folder / "raw-spool"),
        "LLM_PROXY__DRAIN_DELAY_S": "0",
    }
    logs = service_folder / "logs"
    started = [process.start(replace(gateway_spec(port, names, given), name="gateway-raw"), logs)]
    try:
        process.wait_until_ready(started)
        yield Front(port, tap, logs / "gateway-raw.log")
    finally:
        process.stop(started)
        tap.close()


@pytest.fixture
def front(running: Front) -> Iterator[Front]:
    """The gateway; afterwards, what the sidecar was sent is looked at, and the log."""
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


def posts(front: Front) -> int:
    """How many calls the sidecar was sent."""
    return sum(head.startswith(b"POST ") for head in front.tap.heads())


def refused(front: Front, *pieces: bytes) -> RawAnswer:
    """What was said to a request that must not get through."""
    before = posts(front)
    said = send_raw(front.port, *pieces)
    assert posts(front) == before
    assert said.statuses == [] or all(400 <= status < 500 for status in said.statuses)
    return said


@pytest.mark.parametrize("raw", NOT_HTTP)
def test_what_is_not_http_is_said_to_be_so_and_the_connection_ends(front: Front, raw: bytes) -> None:
    """400 in OpenAI's envelope, closed; nothing after them is read."""
    said = refused(front, raw, INNER)
    assert said.statuses == [400]
    assert said.code == "invalid_http"
    assert said.closed


@pytest.mark.parametrize("path", [CHAT, b"/health/live", b"/admin/keys"])
@pytest.mark.parametrize("coding", [b"gzip, chunked", b"chunked;q=1, chunked", b"identity, chunked"])
def test_a_body_packed_on_its_way_is_a_coding_we_do_not_have(
    front: Front, path: bytes, coding: bytes
) -> None:
    """501 (RFC 9112, 6.1) in OpenAI's envelope, closed; not a body that is then no JSON."""
    before = posts(front)
    raw = request(path, b"Transfer-Encoding: %b\r\n" % coding, length=False, body=CHUNKS)
    said = send_raw(front.port, raw, INNER)
    assert posts(front) == before
    assert (said.statuses, said.code, said.closed) == ([501], "unsupported_transfer_encoding", True)


def test_chunked_in_capitals_is_chunked(front: Front) -> None:
    """Names of codings have no case (RFC 9112, 7)."""
    raw = request(more=b"Transfer-Encoding: Chunked\r\nConnection: close\r\n", length=False, body=CHUNKS)
    assert send_raw(front.port, raw).statuses == [200]


@pytest.mark.parametrize(("raw", "code"), TWO_READINGS)
def test_a_head_two_readers_could_read_differently_is_refused_and_the_connection_ends(
    front: Front, raw: bytes, code: str
) -> None:
    """400 in OpenAI's envelope; bytes that come later are not a request of their own."""
    said = refused(front, raw, INNER)
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
def test_something_else_is_expected_than_we_do_and_the_connection_ends(
    front: Front, path: bytes, expected: bytes
) -> None:
    """417; the body that may or may not come is not taken for the next request."""
    said = refused(front, request(path, b"Expect: " + expected + b"\r\n", auth=b"", body=INNER))
    assert (said.statuses, said.code, said.closed) == ([417], "unsupported_expectation", True)


@pytest.mark.parametrize("expected", [b"100-continue", b"100-CONTINUE", b"\t 100-continue \t"])
def test_a_body_that_is_kept_back_is_asked_for_or_the_connection_ends(front: Front, expected: bytes) -> None:
    """Spaces around a value are none of it (RFC 9110, 5.5); refused unread, a request is the last."""
    more = b"Expect: " + expected + b"\r\n"
    assert send_raw(front.port, request(more=more)).statuses == [200]
    held_back = request(more=more + b"Content-Length: 5000\r\n", auth=b"", length=False, body=b"")
    said = refused(front, held_back, INNER)
    assert (said.statuses, said.closed) == ([401], True)


@pytest.mark.parametrize("name", [b"X-Forwarded-For", b"tracestate", b"Cache-Control"])
def test_several_lines_of_a_list_are_one_list(front: Front, name: bytes) -> None:
    """RFC 9110, 5.3: proxies add lines of their own."""
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
def test_every_path_is_compared_as_it_was_sent(front: Front, path: bytes, method: bytes) -> None:
    """A rule of a proxy before us that names a path holds, whoever answers behind it."""
    auth = f"Authorization: Bearer {ADMIN_KEY}\r\n".encode()
    said = refused(front, request(path, method=method, auth=auth, body=b"{}"))
    assert (said.statuses, said.code) == ([404], "unknown_url")


@pytest.mark.parametrize("name", [b"p/ok", b"p%2Fok", b"p%2fo%6B", b"%70/ok"])
def test_a_name_in_a_path_is_decoded(front: Front, name: bytes) -> None:
    """What a path only holds is written as clients write it."""
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
        b"/openai/deployments/plain/chat/completions", b"/engines/plain/chat/completions", b"/llmp/catalog",
        b"/config/update", b"/key/generate", b"/mcp/", b"/v1/model/info",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", [b"POST", b"GET"])
def test_a_path_that_is_not_in_the_table_does_not_exist(front: Front, path: bytes, method: bytes) -> None:
    """No spelling is normalised, no route of the sidecar's is passed through."""
    said = refused(front, request(path, method=method))
    assert said.statuses == [404]
    assert said.code == "unknown_url"


@pytest.mark.parametrize("path", [b"/v1/models//", b"/models//"])
def test_no_model_s_name_is_no_model(front: Front, path: bytes) -> None:
    """A model has a name."""
    said = refused(front, request(path, method=b"GET", body=b""))
    assert said.statuses == [404]
    assert said.code == "unknown_url"


@pytest.mark.parametrize(
    "name", [b"../../llmp/catalog", b"%2e%2e%2fllmp%2fcatalog", b"%00", b"a%ff", b"%5c..%5cx"]
)
def test_a_models_name_is_looked_up_and_never_part_of_a_path(front: Front, name: bytes) -> None:
    """An unknown model, whatever its name looks like."""
    said = refused(front, request(b"/v1/models/" + name, method=b"GET", body=b""))
    assert said.statuses == [404]
    assert said.code == "model_not_found"


@pytest.mark.parametrize(
    "method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"PROPFIND"]
)
def test_another_method_is_405_with_allow_and_nothing_is_echoed(front: Front, method: bytes) -> None:
    """Also TRACE, whose answer would repeat the credential."""
    said = refused(front, request(method=method))
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
def test_a_credential_is_compared_and_never_part_of_a_query(front: Front, header: bytes, key: bytes) -> None:
    """401 at once, or 400 where the parser takes no such byte; the text is not repeated."""
    said = refused(front, request(auth=header + key + b"\r\n"))
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
def test_more_header_bytes_than_allowed_are_431(front: Front, more: bytes) -> None:
    """With words, in OpenAI's envelope."""
    said = refused(front, request(more=more))
    assert said.statuses == [431]
    assert said.code == "headers_too_large"


def test_a_head_without_an_end_ends_the_connection_before_it_fills_the_memory(front: Front) -> None:
    """64 MiB offered, far less taken."""
    said = refused(front, b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-A: ", *[b"a" * 65536] * 1024)
    assert said.closed
    assert said.statuses in ([], [431])


@pytest.mark.timeout(60)
def test_a_head_that_never_comes_ends_the_connection(front: Front) -> None:
    """After ten seconds or so, whether nothing or half a head was sent."""
    said = refused(front, b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
    assert not said.closed
    assert send_raw(front.port, b"POST /v1/chat/completions HTTP/1.1\r\n", wait_s=20).closed


def test_what_is_unusual_but_right_is_served_and_stays_with_us(front: Front) -> None:
    """HTTP/1.0, an absolute target whoever it names, a query, chunks, `Expect`: one call each."""
    before = posts(front)
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
    assert posts(front) - before == len(good)


def test_pipelined_requests_are_answered_in_order_each_by_its_own_right(front: Front) -> None:
    """The second one's missing key is not covered by the first one's."""
    said = send_raw(front.port, request() + request(auth=b"") + request(), answers=3)
    assert said.statuses == [200, 401, 200]
    assert send_raw(front.port, request() + INNER, answers=2).statuses == [200, 404]
