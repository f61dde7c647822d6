"""Answers that are written as a whole, with no message of their own; on both event loops."""

import asyncio

import pytest
from http_server import TIMEOUT_S, ProtocolServer, get, post, read_responses

BODY = b'{"whole":true}'
CLOSE = b"Connection: close\r\n"
WAITS = b"Expect: 100-continue\r\nContent-Length: 5\r\n"


async def test_a_whole_answer_has_the_head_that_messages_would_give_it(server: ProtocolServer) -> None:
    """Name by name, in the same order; the connection goes on."""
    raw = get("/answers") + get("/answers/wrapped") + get("/answers/wrapped", CLOSE)
    whole, by_messages, _ = read_responses(await server.send(raw))
    assert (whole.head, whole.body) == (by_messages.head, by_messages.body)
    assert whole.head == (
        b"HTTP/1.1 200 OK\r\nx-request-id: one\r\ncontent-type: application/json\r\ncontent-length: 14\r\n"
    )


@pytest.mark.parametrize(
    ("raw", "method", "body"),
    [
        (get("/answers", CLOSE), b"GET", BODY),
        (get("/answers", version=b"1.0"), b"GET", BODY),
        (get("/answers", CLOSE, method=b"HEAD"), b"HEAD", b""),
        (post("/answers", b"", CLOSE), b"POST", BODY),
    ],
    ids=["close", "HTTP/1.0", "HEAD", "POST"],
)
async def test_what_is_not_plain_leaves_as_messages(
    server: ProtocolServer, raw: bytes, method: bytes, body: bytes
) -> None:
    """With the length of its body, and `connection: close` where the connection ends."""
    (answer,) = read_responses(await server.send(raw), method)
    assert (answer.status, answer.body, answer.whole) == (200, body, True)
    assert b"\r\ncontent-length: 14\r\n" in answer.head
    assert answer.head.count(b"connection: close") == 1


async def test_a_request_that_waits_for_its_go_ahead_gets_the_answer_alone(server: ProtocolServer) -> None:
    """Its body is unread: the connection ends."""
    (answer,) = read_responses(await server.send(get("/answers", WAITS)))
    assert (answer.status, answer.body) == (200, BODY)
    assert b"connection: close" in answer.head


async def test_a_value_with_a_line_end_never_leaves(server: ProtocolServer) -> None:
    """It would be a header of its own: uvicorn rejects it."""
    raw = await server.send(get("/answers/odd", CLOSE))
    assert b"x-two" not in raw
    assert "answered" not in server.app.events


async def test_nothing_is_written_to_a_client_that_has_left(server: ProtocolServer) -> None:
    """Nor is that an error; the requests behind it are not begun."""
    client = await server.connect()
    await client.send(post("/waits") + get("/answers"))
    await server.wait_for_event("waits")
    client.reset()
    await server.wait_until(lambda: not server.state.connections)
    server.app.proceed.set()
    await server.wait_until(lambda: not server.state.tasks)
    assert "answered" not in server.app.events


async def test_pipelined_requests_get_their_whole_answers_in_order(server: ProtocolServer) -> None:
    """An answer written at once starts the next request."""
    raw = b"".join(get(f"/answers/{at}") for at in range(5)) + get("/hello", CLOSE)
    answers = read_responses(await server.send(raw))
    assert [one.body for one in answers] == [BODY] * 5 + [b"/hello"]


async def test_an_answer_leaves_though_another_head_had_waited_for_the_client(server: ProtocolServer) -> None:
    """The one before it on the connection was not read yet when the call was interrupted."""
    client = await server.connect(2**16)
    await client.send(get("/big") + get("/changes"))
    await server.wait_for_event("interrupted")
    await client.read_until(b"\r\n\r\n")
    async with asyncio.timeout(TIMEOUT_S):
        await client.reader.readexactly(2**23)
    connection = await server.connection()
    await server.wait_until(lambda: not connection.flow.write_paused)
    server.app.proceed.set()
    assert b" 503 " in await client.read_until(b"\r\n\r\n")
    assert await client.read_until(BODY) == BODY
