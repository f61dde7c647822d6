"""Chunks that an application writes at once, with no message of their own; on both event loops."""

import pytest
from http_server import ProtocolServer, get, read_responses

NUMBERED = b"first" + b"".join(b"%02d" % at * 2**17 for at in range(32))
HEAD = get("/writes", b"Connection: close\r\n", method=b"HEAD")


async def leave_after(
    part: bytes, path: str, server: ProtocolServer, buffer_bytes: int | None = None
) -> None:
    """Resets a client's connection once it has read `part`; then the application goes on, to its end."""
    client = await server.connect(buffer_bytes)
    await client.send(get(path))
    await client.read_until(part)
    client.reset()
    await server.wait_until(lambda: not server.state.connections)
    server.app.proceed.set()
    await server.wait_until(lambda: not server.state.tasks)


async def test_a_slow_client_gets_every_chunk_in_order(server: ProtocolServer) -> None:
    """What cannot be written at once has to be sent, which waits for the client."""
    client = await server.connect(2**16)
    await client.send(get("/writes", b"Connection: close\r\n"))
    await server.wait_for_event("writes")
    server.app.proceed.set()
    (answer,) = read_responses(await client.read_all())
    assert (answer.body == NUMBERED, answer.whole) == (True, True)
    assert 0 < int(server.app.events[-1].split()[1]) < 32


@pytest.mark.parametrize(
    ("raw", "method", "heard"),
    [(get("/writes", version=b"1.0"), b"GET", NUMBERED), (HEAD, b"HEAD", b"")],
    ids=["HTTP/1.0", "HEAD"],
)
async def test_a_body_without_chunks_is_sent(
    server: ProtocolServer, raw: bytes, method: bytes, heard: bytes
) -> None:
    """Nothing is written between its messages."""
    server.app.proceed.set()
    (answer,) = read_responses(await server.send(raw), method)
    assert (answer.body == heard, server.app.events[-1]) == (True, "wrote 0")


async def test_nothing_is_written_to_a_client_that_has_left(server: ProtocolServer) -> None:
    """Nor is that an error."""
    await leave_after(b"first", "/writes", server, buffer_bytes=4096)
    assert int(server.app.events[-1].split()[1]) <= 2


async def test_a_stream_has_the_head_that_uvicorn_would_write(server: ProtocolServer) -> None:
    """A plain head leaves with its first chunk, in one write; another one is uvicorn's."""
    server.app.proceed.set()
    plain, closing = read_responses(
        await server.send(get("/streams") + get("/streams", b"Connection: close\r\n"))
    )
    assert (plain.body, closing.body) == (b"one,two", b"one,two")
    assert b"\r\ntransfer-encoding: chunked\r\n" in plain.head
    assert sorted(closing.head.split(b"\r\n")) == sorted([*plain.head.split(b"\r\n"), b"connection: close"])


async def test_a_stream_that_begins_at_once_has_the_head_that_messages_would_give_it(
    server: ProtocolServer,
) -> None:
    """Name by name, in the same order; its first chunk leaves with it."""
    server.app.proceed.set()
    raw = get("/begins") + get("/begins/wrapped") + get("/begins/wrapped", b"Connection: close\r\n")
    at_once, by_messages, closing = read_responses(await server.send(raw))
    assert (at_once.head, at_once.body, at_once.whole) == (by_messages.head, b"one,two", True)
    assert (by_messages.body, closing.body) == (b"one,two", b"one,two")
    assert server.app.events == ["began True", "began False", "began False"]


@pytest.mark.parametrize(
    ("raw", "method", "body"),
    [
        (get("/begins", b"Connection: close\r\n"), b"GET", b"one,two"),
        (get("/begins", version=b"1.0"), b"GET", b"one,two"),
        (get("/begins", b"Connection: close\r\n", method=b"HEAD"), b"HEAD", b""),
    ],
    ids=["close", "HTTP/1.0", "HEAD"],
)
async def test_a_stream_that_is_not_plain_begins_with_messages(
    server: ProtocolServer, raw: bytes, method: bytes, body: bytes
) -> None:
    """In full, and its connection ends."""
    server.app.proceed.set()
    (answer,) = read_responses(await server.send(raw), method)
    assert (answer.status, answer.body, answer.whole) == (200, body, True)
    assert server.app.events == ["began False"]


async def test_a_client_that_leaves_after_the_first_chunk_is_noticed(server: ProtocolServer) -> None:
    """What began at once ends as any other stream."""
    await leave_after(b"one,", "/begins", server)
    assert server.app.events == ["began True"]
