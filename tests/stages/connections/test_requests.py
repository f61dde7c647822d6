"""A connection and what callers and applications may do to it, on both event loops."""

import pytest
from http_server import HEAD_S, Wired, answers, chunked, get, post

from llm_proxy.edge import http_protocol

NO_REQUEST = b"\0\1\2\r\n\r\n"
MUCH = b"a" * 2**17


async def test_pipelined_requests_are_answered_in_order_one_at_a_time(at: Wired) -> None:
    """The second waits for the first, however long that takes."""
    client = await at.client()
    await client.says(
        post("/waits", b"x") + get("/b") + post("/echo", b"third") + get("/c", b"Connection: close\r\n")
    )
    await at.has_noted("waits")
    assert await client.is_quiet()
    at.app.go.set()
    assert [one.body for one in answers(await client.rest())] == [b"late", b"/b", b"third", b"/c"]


async def test_what_is_no_request_waits_for_the_answers_before_it(at: Wired) -> None:
    """They are whole; to it there is none, and the connection ends."""
    client = await at.client()
    await client.says(get("/streams") + get("/b") + NO_REQUEST + get("/c"))
    await at.has_noted("streams")
    at.app.go.set()
    assert [(one.body, one.whole) for one in answers(await client.rest())] == [
        (b"one,two", True),
        (b"/b", True),
    ]


@pytest.mark.parametrize("broken", [b"zz\r\n", b"1\r\nab\r\n", b"3\nabc\r\n", b"1;a=\n\r\na\r\n", b"-1\r\n"])
async def test_a_bad_chunk_is_told_to_both_sides(at: Wired, broken: bytes) -> None:
    """The application, which waits for the body, hears that its caller is gone; the caller why."""
    client = await at.client()
    await client.says(chunked("/echo", b"3\r\nabc\r\n"))
    await at.has_noted("reads")
    await client.says(broken)
    (answer,) = answers(await client.rest())
    assert answer.status == 400
    assert b'"invalid_http"' in answer.body
    assert at.app.noted == ["reads", "gone"]


async def test_a_bad_chunk_beyond_what_is_read_ahead_is_heard_of(at: Wired) -> None:
    """Reading had stopped; what comes is drained all the same, or the refusal would be lost."""
    client = await at.client()
    await client.says(chunked("/waits"))
    await at.has_noted("waits")
    connection = await at.connection()
    connection.data_received(b"%x\r\n%b\r\nzz\r\n" % (len(MUCH), MUCH))
    await client.says(MUCH)
    at.app.go.set()
    (answer,) = answers(await client.rest())
    assert answer.status == 400
    client.writer.close()
    await at.until(lambda: not at.state.connections)


async def test_a_bad_chunk_within_an_answer_cuts_it(at: Wired) -> None:
    """No second answer follows the half of one."""
    client = await at.client()
    await client.says(chunked("/streams"))
    await at.has_noted("streams")
    await client.says(b"zz\r\n")
    (answer,) = answers(await client.rest())
    assert (answer.body, answer.whole) == (b"one,", False)
    at.app.go.set()


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
async def test_what_has_no_end_is_refused(at: Wired, raw: bytes, piece: bytes, status: int) -> None:
    """Long before a mebibyte."""
    client = await at.client()
    await client.says(raw, *[piece] * 128)
    (answer,) = answers(await client.rest())
    assert answer.status == status


async def test_segments_may_end_anywhere(at: Wired) -> None:
    """What was used of a full one does not count against the next head or chunk, however large it was."""
    full = http_protocol.MAX_HEAD_BYTES
    client = await at.client()
    await client.says(chunked("/echo", b"1\r\na\r\n"))
    await at.has_noted("reads")
    connection = await at.connection()
    connection.data_received(b"%x\r\n%b" % (full, b"a" * (full - 7)))
    connection.data_received(b"a" * 7 + b"\r\n" + b"1;" + b"e" * 9000)
    connection.data_received(
        b"\r\na\r\n0\r\n\r\n" + post("/echo", b"a" * (full - 200)) + b"GET /b HTTP/1.1\r\nX-A: "
    )
    connection.data_received(b"a" * 9000)
    connection.data_received(b"\r\nConnection: close\r\n\r\n")
    first, second, third = answers(await client.rest())
    assert [len(first.body), len(second.body), third.body] == [full + 2, full - 200, b"/b"]


async def test_a_segment_full_of_requests_is_answered_up_to_a_bound(at: Wired) -> None:
    """Each costs a hundred times its bytes; who sends so many hears the first of them answered."""
    raw = b"GET / HTTP/1.1\r\n\r\n" * 12_000
    client = await at.client()
    (await at.connection()).data_received(raw)
    heard = answers(await client.rest())
    assert 16 < len(heard) < 2000
    assert {(one.status, one.whole) for one in heard} == {(200, True)}


async def test_many_pipelined_requests_are_all_answered(at: Wired) -> None:
    """Though no more than a few are taken at a time."""
    raw = [get(f"/{at_}") for at_ in range(300)]
    heard = answers(await at.says(*raw, get("/end", b"Connection: close\r\n")))
    assert [one.body for one in heard] == [b"/%d" % at_ for at_ in range(300)] + [b"/end"]


async def test_half_a_head_does_not_end_the_answer_before_it(at: Wired) -> None:
    """Its time begins when nobody is being answered, and then it is bounded."""
    client = await at.client()
    await client.says(get("/streams") + b"GET /b HTT")
    await at.has_noted("streams")
    at.looks(later_s=100)
    at.app.go.set()
    assert (await client.hears(b"0\r\n\r\n")).endswith(b"two\r\n0\r\n\r\n")
    at.looks()
    assert await client.is_quiet()
    at.looks(later_s=HEAD_S * 2)
    assert await client.rest() == b""


async def test_nothing_after_the_last_request_is_read(at: Wired) -> None:
    """Neither a request nor garbage."""
    for more in (get("/b"), NO_REQUEST):
        heard = answers(await at.says(get("/a", b"Connection: close\r\n") + more))
        assert [one.body for one in heard] == [b"/a"]
        heard = answers(await at.says(get("/leaves") + more))
        assert [one.body for one in heard] == [b"last"]


async def test_what_is_sent_on_after_an_upgrade_is_nobody_s(at: Wired) -> None:
    """The body belongs to no protocol we speak; the answer is heard all the same."""
    client = await at.client()
    await client.says(post("/early", get("/b"), b"Connection: upgrade\r\nUpgrade: h2c\r\n"), *[MUCH] * 8)
    (answer,) = answers(await client.rest())
    assert (answer.status, answer.body) == (200, b"soon")


async def test_http_1_0_gets_no_continue_and_one_answer(at: Wired) -> None:
    """RFC 9110, 10.1.1: the expectation is ignored; kept alive or not, the connection ends."""
    raw = post("/echo", b"abc", b"Expect: 100-continue\r\nConnection: keep-alive\r\n").replace(b"1.1", b"1.0")
    (answer,) = answers(await at.says(raw + raw))
    assert (answer.status, answer.body) == (200, b"abc")
    assert b"transfer-encoding" not in answer.head


async def test_an_answer_without_a_body_has_none(at: Wired) -> None:
    """HEAD, 204 and 304, also with no header at all; the connection goes on."""
    raw = get("/a", method=b"HEAD") + get("/status/204") + get("/status/304") + get("/status/200")
    raw += get("/streams", method=b"HEAD") + get("/b", b"Connection: close\r\n")
    at.app.go.set()
    heard = answers(await at.says(raw), b"HEAD", b"", b"", b"", b"HEAD")
    assert [(one.status, one.body) for one in heard] == [
        (200, b""), (204, b""), (304, b""), (200, b"body"), (200, b""), (200, b"/b"),
    ]  # fmt: skip
    assert b"content-length: 2\r\n" in heard[0].head
    assert not any(b"transfer-encoding" in one.head for one in heard[1:3])


async def test_a_body_is_asked_for_once_it_is_wanted(at: Wired) -> None:
    """Then the connection goes on."""
    client = await at.client()
    await client.says(post("/waits", b"", b"Expect: 100-continue\r\n", length=3))
    await at.has_noted("waits")
    assert await client.is_quiet()
    at.app.go.set()
    assert await client.hears(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.says(b"abc" + get("/b", b"Connection: close\r\n"))
    heard = answers(await client.rest())
    assert [one.body for one in heard] == [b"late", b"/b"]
    assert b"connection" not in heard[0].head


async def test_a_body_nobody_asked_for_is_the_last_on_its_connection(at: Wired) -> None:
    """Whether it comes or another request does, nobody can tell: RFC 9110, 10.1.1."""
    client = await at.client()
    await client.says(post("/early", b"", b"Expect: 100-continue\r\n", length=30))
    assert b"connection: close\r\n" in await client.hears(b"soon")
    await client.says(get("/b") * 3)
    assert await client.rest() == b""
    heard = answers(await at.says(post("/early", b"abc", b"Expect: 100-continue\r\n"), get("/leaves")))
    assert [one.body for one in heard] == [b"soon", b"last"]


async def test_nobody_is_asked_for_a_body_that_broke_off(at: Wired) -> None:
    """The application asks for it when the connection has ended on our side."""
    client = await at.client()
    await client.says(chunked("/waits").replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    await at.has_noted("waits")
    await client.says(b"zz\r\n")
    (answer,) = answers(await client.rest())
    at.app.go.set()
    assert answer.status == 400
    await at.has_noted("http.disconnect")
