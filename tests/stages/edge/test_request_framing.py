"""Requests on one connection: pipelining, bodies, bounds, `Expect`, HTTP/1.0; on both event loops."""

import pytest
from http_server import HEAD_S, ProtocolServer, chunked, get, post, read_responses

from llm_proxy.edge import http_protocol

NO_REQUEST = b"\0\1\2\r\n\r\n"
MUCH = b"a" * 2**17


async def test_pipelined_requests_are_answered_in_order_one_at_a_time(server: ProtocolServer) -> None:
    """The second waits for the first, however long that takes."""
    client = await server.connect()
    await client.send(
        post("/waits", b"x") + get("/b") + post("/echo", b"third") + get("/c", b"Connection: close\r\n")
    )
    await server.wait_for_event("waits")
    assert await client.is_quiet()
    server.app.proceed.set()
    assert [one.body for one in read_responses(await client.read_all())] == [b"late", b"/b", b"third", b"/c"]


async def test_responses_to_complete_requests_precede_a_rejection(server: ProtocolServer) -> None:
    """They are complete; the malformed request gets none, and the connection ends."""
    client = await server.connect()
    await client.send(get("/streams") + get("/b") + NO_REQUEST + get("/c"))
    await server.wait_for_event("streams")
    server.app.proceed.set()
    assert [(one.body, one.whole) for one in read_responses(await client.read_all())] == [
        (b"one,two", True),
        (b"/b", True),
    ]


@pytest.mark.parametrize("broken", [b"zz\r\n", b"1\r\nab\r\n", b"3\nabc\r\n", b"1;a=\n\r\na\r\n", b"-1\r\n"])
async def test_a_malformed_chunk_ends_the_request(server: ProtocolServer, broken: bytes) -> None:
    """The application gets `http.disconnect`, the client a 400."""
    client = await server.connect()
    await client.send(chunked("/echo", b"3\r\nabc\r\n"))
    await server.wait_for_event("reads")
    await client.send(broken)
    (answer,) = read_responses(await client.read_all())
    assert answer.status == 400
    assert b'"invalid_http"' in answer.body
    assert server.app.events == ["reads", "gone"]


async def test_a_malformed_chunk_is_found_though_reading_had_paused(server: ProtocolServer) -> None:
    """What follows is drained, or the 400 would be lost."""
    client = await server.connect()
    await client.send(chunked("/waits"))
    await server.wait_for_event("waits")
    connection = await server.connection()
    connection.data_received(b"%x\r\n%b\r\nzz\r\n" % (len(MUCH), MUCH))
    await client.send(MUCH)
    server.app.proceed.set()
    (answer,) = read_responses(await client.read_all())
    assert answer.status == 400
    client.writer.close()
    await server.wait_until(lambda: not server.state.connections)


async def test_a_malformed_chunk_truncates_a_running_response(server: ProtocolServer) -> None:
    """No second response follows."""
    client = await server.connect()
    await client.send(chunked("/streams"))
    await server.wait_for_event("streams")
    await client.send(b"zz\r\n")
    (answer,) = read_responses(await client.read_all())
    assert (answer.body, answer.whole) == (b"one,", False)
    server.app.proceed.set()


@pytest.mark.parametrize(
    ("raw", "piece", "status"),
    [
        pytest.param(b"", b"\r\n" * 4096, 431, id="empty lines"),
        pytest.param(b"GET /", b"a" * 8192, 400, id="target"),
        pytest.param(b"GET / HTTP/1.1\r\nX-A: ", b"a" * 8192, 431, id="header"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"X-A: y\r\n" * 1024, 431, id="headers"),
        pytest.param(chunked("/echo", b"1;"), b"a" * 8192, 431, id="chunk extension"),
        pytest.param(chunked("/echo", b"0\r\nX-A: "), b"a" * 8192, 431, id="trailer"),
        pytest.param(chunked("/echo", b"0\r\n"), b"X-A: y\r\n" * 1024, 431, id="trailers"),
    ],
)  # fmt: skip
async def test_what_has_no_end_is_rejected(
    server: ProtocolServer, raw: bytes, piece: bytes, status: int
) -> None:
    """Long before a mebibyte."""
    client = await server.connect()
    await client.send(raw, *[piece] * 128)
    (answer,) = read_responses(await client.read_all())
    assert answer.status == status


async def test_segments_may_end_anywhere(server: ProtocolServer) -> None:
    """Used bytes of a segment do not count against the next head or chunk."""
    full = http_protocol.MAX_HEAD_BYTES
    client = await server.connect()
    await client.send(chunked("/echo", b"1\r\na\r\n"))
    await server.wait_for_event("reads")
    connection = await server.connection()
    connection.data_received(b"%x\r\n%b" % (full, b"a" * (full - 7)))
    connection.data_received(b"a" * 7 + b"\r\n" + b"1;" + b"e" * 9000)
    connection.data_received(
        b"\r\na\r\n0\r\n\r\n" + post("/echo", b"a" * (full - 200)) + b"GET /b HTTP/1.1\r\nX-A: "
    )
    connection.data_received(b"a" * 9000)
    connection.data_received(b"\r\nConnection: close\r\n\r\n")
    first, second, third = read_responses(await client.read_all())
    assert [len(first.body), len(second.body), third.body] == [full + 2, full - 200, b"/b"]


async def test_requests_of_one_segment_are_bounded(server: ProtocolServer) -> None:
    """Each costs a hundred times its bytes in memory; those before the bound are answered."""
    raw = b"GET / HTTP/1.1\r\n\r\n" * 12_000
    client = await server.connect()
    (await server.connection()).data_received(raw)
    heard = read_responses(await client.read_all())
    assert 16 < len(heard) < 2000
    assert {(one.status, one.whole) for one in heard} == {(200, True)}


async def test_many_pipelined_requests_are_all_answered(server: ProtocolServer) -> None:
    """Though reading pauses after a few."""
    raw = [get(f"/{number}") for number in range(300)]
    heard = read_responses(await server.send(*raw, get("/end", b"Connection: close\r\n")))
    assert [one.body for one in heard] == [b"/%d" % number for number in range(300)] + [b"/end"]


async def test_a_partial_head_does_not_end_the_response_before_it(server: ProtocolServer) -> None:
    """Its timeout begins when that response is complete."""
    client = await server.connect()
    await client.send(get("/streams") + b"GET /b HTT")
    await server.wait_for_event("streams")
    server.close_slow(later_s=100)
    server.app.proceed.set()
    assert (await client.read_until(b"0\r\n\r\n")).endswith(b"two\r\n0\r\n\r\n")
    server.close_slow()
    assert await client.is_quiet()
    server.close_slow(later_s=HEAD_S * 2)
    assert await client.read_all() == b""


async def test_nothing_after_the_last_request_is_read(server: ProtocolServer) -> None:
    """Neither a request nor garbage."""
    for more in (get("/b"), NO_REQUEST):
        heard = read_responses(await server.send(get("/a", b"Connection: close\r\n") + more))
        assert [one.body for one in heard] == [b"/a"]
        heard = read_responses(await server.send(get("/leaves") + more))
        assert [one.body for one in heard] == [b"last"]


async def test_bytes_after_an_upgrade_request_are_dropped(server: ProtocolServer) -> None:
    """The client gets the response."""
    client = await server.connect()
    await client.send(post("/early", get("/b"), b"Connection: upgrade\r\nUpgrade: h2c\r\n"), *[MUCH] * 8)
    (answer,) = read_responses(await client.read_all())
    assert (answer.status, answer.body) == (200, b"soon")


async def test_http_1_0_gets_no_continue_and_one_response(server: ProtocolServer) -> None:
    """RFC 9110, 10.1.1: the expectation is ignored; the connection ends, with keep-alive or not."""
    raw = post("/echo", b"abc", b"Expect: 100-continue\r\nConnection: keep-alive\r\n").replace(b"1.1", b"1.0")
    (answer,) = read_responses(await server.send(raw + raw))
    assert (answer.status, answer.body) == (200, b"abc")
    assert b"transfer-encoding" not in answer.head


async def test_head_204_and_304_have_no_body(server: ProtocolServer) -> None:
    """Also without any header; the connection stays open."""
    raw = get("/a", method=b"HEAD") + get("/status/204") + get("/status/304") + get("/status/200")
    raw += get("/streams", method=b"HEAD") + get("/b", b"Connection: close\r\n")
    server.app.proceed.set()
    heard = read_responses(await server.send(raw), b"HEAD", b"", b"", b"", b"HEAD")
    assert [(one.status, one.body) for one in heard] == [
        (200, b""), (204, b""), (304, b""), (200, b"body"), (200, b""), (200, b"/b"),
    ]  # fmt: skip
    assert b"content-length: 2\r\n" in heard[0].head
    assert not any(b"transfer-encoding" in one.head for one in heard[1:3])


async def test_100_continue_is_sent_when_the_application_reads(server: ProtocolServer) -> None:
    """The connection stays open."""
    client = await server.connect()
    await client.send(post("/waits", b"", b"Expect: 100-continue\r\n", length=3))
    await server.wait_for_event("waits")
    assert await client.is_quiet()
    server.app.proceed.set()
    assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"abc" + get("/b", b"Connection: close\r\n"))
    heard = read_responses(await client.read_all())
    assert [one.body for one in heard] == [b"late", b"/b"]
    assert b"connection" not in heard[0].head


async def test_an_unread_body_announced_by_expect_ends_the_connection(server: ProtocolServer) -> None:
    """Whether the body or another request follows is unknown: RFC 9110, 10.1.1."""
    client = await server.connect()
    await client.send(post("/early", b"", b"Expect: 100-continue\r\n", length=30))
    assert b"connection: close\r\n" in await client.read_until(b"soon")
    await client.send(get("/b") * 3)
    assert await client.read_all() == b""
    heard = read_responses(
        await server.send(post("/early", b"abc", b"Expect: 100-continue\r\n"), get("/leaves"))
    )
    assert [one.body for one in heard] == [b"soon", b"last"]


async def test_no_100_continue_after_a_malformed_chunk(server: ProtocolServer) -> None:
    """The application reads after the server has closed its side."""
    client = await server.connect()
    await client.send(chunked("/waits").replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    await server.wait_for_event("waits")
    await client.send(b"zz\r\n")
    (answer,) = read_responses(await client.read_all())
    server.app.proceed.set()
    assert answer.status == 400
    await server.wait_for_event("http.disconnect")
