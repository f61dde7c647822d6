"""Timeouts of a connection: idle, a head, an unread body."""

import pytest
from http_server import HEAD_S, IDLE_S, ProtocolServer, get, post, read_responses

EARLY = post("/early", length=5)


@pytest.mark.parametrize("more", [pytest.param(b"", id="nothing"), pytest.param(b"\r\n", id="an empty line")])
async def test_an_idle_connection_is_closed(server: ProtocolServer, more: bytes) -> None:
    """Also after bytes that begin no request; not before its time."""
    client = await server.connect()
    await client.send(get("/b"))
    await client.read_until(b"/b")
    await client.send(more)
    server.close_slow(later_s=IDLE_S / 2)
    assert await client.is_quiet()
    server.close_slow(later_s=IDLE_S * 2)
    assert await client.read_all() == b""


async def test_a_body_that_ends_after_its_response_leaves_an_idle_connection(server: ProtocolServer) -> None:
    """Another request may come before that; it is idle from the body's end on."""
    client = await server.connect()
    for _ in range(2):
        await client.send(EARLY)
        await client.read_until(b"soon")
        await client.send(b"12345", get("/b"))
        await client.read_until(b"/b")
    await client.send(EARLY)
    await client.read_until(b"soon")
    connection = await server.connection()
    assert connection.idle_since is None
    await client.send(b"12345")
    await server.wait_until(lambda: connection.idle_since)
    assert await client.is_quiet()
    server.close_slow(later_s=IDLE_S * 2)
    assert await client.read_all() == b""


async def test_an_unread_body_is_bounded_in_time(server: ProtocolServer) -> None:
    """Counted from the response, whatever bytes come."""
    client = await server.connect()
    await client.send(EARLY)
    await client.read_until(b"soon")
    await client.send(b"1", b"2", b"3", gap_s=HEAD_S / 2)
    server.close_slow()
    assert await client.read_all() == b""


async def test_an_incomplete_head_is_bounded_in_time(server: ProtocolServer) -> None:
    """Whether nothing or half of it was sent."""
    for raw in (b"", b"GET /b HTTP/1.1\r\nHost:"):
        client = await server.connect()
        await client.send(raw)
        await server.wait_until(lambda: server.state.connections)
        server.close_slow(later_s=HEAD_S / 2)
        assert await client.is_quiet()
        server.close_slow(later_s=HEAD_S * 2)
        assert await client.read_all() == b""


async def test_http_1_0_gets_no_chunks(server: ProtocolServer) -> None:
    """The end of the connection ends the response (RFC 9112, 6.3)."""
    server.app.proceed.set()
    (answer,) = read_responses(await server.send(get("/streams", version=b"1.0")))
    assert b"\r\ntransfer-encoding" not in answer.head
    assert b"\r\nconnection: close\r\n" in answer.head
    assert answer.body == b"one,two"
