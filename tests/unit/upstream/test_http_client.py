"""HTTP/1.1 to a sidecar, over a transport that records what it gets."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from llm_proxy.upstream.http_client import MAX_UNREAD_BYTES, ConnectionBroken, HTTPConnection, SidecarAddress

HERE = SidecarAddress.of("http://127.0.0.1:4000")
WHOLE = b"HTTP/1.1 200 OK\r\nX-One: a\r\ncontent-length: 4\r\n\r\nbody"
CHUNKS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"
CLOSING = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbody"


class RecordingTransport(asyncio.Transport):
    """A transport that records its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def connected() -> tuple[HTTPConnection, RecordingTransport]:
    """A connection on a recording transport."""
    connection, transport = HTTPConnection(HERE, asyncio.get_running_loop()), RecordingTransport()
    connection.connection_made(transport)
    return connection, transport


async def request_and_feed(connection: HTTPConnection, *parts: bytes) -> "asyncio.Task[None]":
    """Sends a request; these bytes arrive."""
    task = asyncio.create_task(connection.send_request(b"POST / HTTP/1.1\r\n\r\n"))
    await asyncio.sleep(0)
    for part in parts:
        connection.data_received(part)
        await asyncio.sleep(0)
    return task


async def read_to_end(task: "asyncio.Task[None]", connection: HTTPConnection) -> bytes:
    """The complete response."""
    await task
    return await connection.read_all()


async def test_what_is_done_in_the_wait_begins_once_the_request_has_left() -> None:
    """And before the answer is there."""
    connection, transport = connected()
    seen: list[tuple[bytes, int]] = []
    task = asyncio.create_task(
        connection.send_request(
            b"POST / HTTP/1.1\r\n\r\n", None, lambda: seen.append((transport.sent, connection.status))
        )
    )
    await asyncio.sleep(0)
    connection.data_received(WHOLE)
    await task
    assert (seen, connection.status) == ([(b"POST / HTTP/1.1\r\n\r\n", 0)], 200)


@pytest.mark.parametrize("cut", range(1, len(WHOLE)))
async def test_any_segmentation_gives_the_same_response(cut: int) -> None:
    """A head and a body arrive in any segments."""
    connection, transport = connected()
    await (await request_and_feed(connection, WHOLE[:cut], WHOLE[cut:]))
    assert (connection.status, connection.headers[b"x-one"]) == (200, b"a")
    assert await connection.read_all() == b"body"
    assert connection.reusable
    assert transport.sent == b"POST / HTTP/1.1\r\n\r\n"


async def test_chunks_are_returned_as_they_arrive() -> None:
    """What has arrived is returned at once; nothing more is the end."""
    connection, _ = connected()
    at = CHUNKS.index(b"cd") - 3
    await (await request_and_feed(connection, CHUNKS[:at]))
    assert await connection.read() == b"ab"
    assert not connection.reusable
    connection.data_received(CHUNKS[at:])
    assert await connection.read() == b"cd"
    assert await connection.read() == b""
    assert connection.reusable


async def test_each_response_has_the_headers_of_its_own_head() -> None:
    """In lower case; none of a trailer, of an interim response, or of the response before."""
    connection, _ = connected()
    trailed = CHUNKS.removesuffix(b"\r\n") + b"X-Late: b\r\n\r\n"
    interim = b"HTTP/1.1 103 Early Hints\r\nx-early: c\r\n\r\n"
    await (await request_and_feed(connection, WHOLE))
    first = connection.headers
    assert await connection.read_all() == b"body"
    await (await request_and_feed(connection, trailed))
    assert connection.headers == {b"transfer-encoding": b"chunked"}
    await (await request_and_feed(connection, interim, CLOSING))
    assert connection.headers == {b"connection": b"close", b"content-length": b"4"}
    assert first == {b"x-one": b"a", b"content-length": b"4"}


async def test_a_connection_the_server_closes_is_not_reused() -> None:
    """`Connection: close` is respected."""
    connection, _ = connected()
    await (await request_and_feed(connection, CLOSING))
    assert await connection.read_all() == b"body"
    assert not connection.reusable


async def test_an_interim_response_is_not_the_response() -> None:
    """`100 Continue` comes before the response (RFC 9110, 15.2)."""
    connection, _ = connected()
    await (await request_and_feed(connection, b"HTTP/1.1 100 Continue\r\n\r\n", WHOLE))
    assert (connection.status, await connection.read_all()) == (200, b"body")


@pytest.mark.parametrize(
    "arrived",
    [b"", b"HTTP/1.1 200 OK\r\ncontent-", WHOLE[:-2], CHUNKS[:-5]],
    ids=["nothing", "head", "body", "chunk"],
)
async def test_a_broken_connection_is_not_the_end_of_a_body(arrived: bytes) -> None:
    """Half a response is none."""
    connection, _ = connected()
    task = await request_and_feed(connection, *([arrived] if arrived else []))
    connection.connection_lost(None)
    with pytest.raises(ConnectionBroken):
        await read_to_end(task, connection)


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    """HTTP/1.0's way; a reset is no end."""
    for fault, end in ((None, True), (ConnectionResetError(), False)):
        connection, _ = connected()
        await (await request_and_feed(connection, b"HTTP/1.1 200 OK\r\n\r\nall"))
        connection.connection_lost(fault)
        assert await connection.read() == b"all"
        if end:
            assert await connection.read() == b""
        else:
            with pytest.raises(ConnectionBroken):
                await connection.read()


@pytest.mark.parametrize("said", [b"SSH-2.0-nothing\r\n", b"HTTP/1.1 abc\r\n\r\n"])
async def test_bytes_that_are_not_http_close_the_connection(said: bytes) -> None:
    """As from a wrong port."""
    connection, transport = connected()
    task = await request_and_feed(connection, said)
    assert transport.closed
    connection.connection_lost(None)
    with pytest.raises(ConnectionBroken):
        await task


async def test_unrequested_bytes_close_the_connection() -> None:
    """They would be taken for the next response."""
    connection, transport = connected()
    connection.data_received(WHOLE)
    assert transport.closed
    assert not connection.reusable


async def test_unread_data_stays_in_the_kernel() -> None:
    """A slow caller does not fill our memory; reading resumes when it has taken what was there."""
    connection, transport = connected()
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (4 * MAX_UNREAD_BYTES)
    await (await request_and_feed(connection, head, b"x" * (2 * MAX_UNREAD_BYTES)))
    assert transport.paused
    assert len(await connection.read()) == 2 * MAX_UNREAD_BYTES
    assert not transport.paused


async def test_an_unread_rest_is_never_the_next_response() -> None:
    """It is dropped by the next request."""
    connection, _ = connected()
    await (await request_and_feed(connection, WHOLE))
    await (await request_and_feed(connection, WHOLE.replace(b"body", b"next")))
    assert await connection.read_all() == b"next"


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "name"),
    [
        ("http://sidecar:4000", "sidecar", 4000, "", "sidecar:4000"),
        ("https://sidecar/litellm", "sidecar", 443, "/litellm", "sidecar"),
        ("http://[::1]:4000", "::1", 4000, "", "[::1]:4000"),
    ],
)
def test_an_address_is_parsed_from_a_url(url: str, host: str, port: int, path: str, name: str) -> None:
    """Host, port, path and name."""
    address = SidecarAddress.of(url)
    assert (address.host, address.port, address.path, address.name) == (host, port, path, name)


@pytest.mark.parametrize("url", ["sidecar:4000", "ftp://sidecar", "http://"])
def test_an_invalid_address_raises(url: str) -> None:
    """A typing error is reported, not tried."""
    with pytest.raises(ValueError, match="not the URL"):
        SidecarAddress.of(url)


async def _parts(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_body_waits_while_the_server_reads_slower() -> None:
    """The next part is written once the transport takes more."""
    connection, transport = connected()
    connection.pause_writing()
    task = asyncio.create_task(connection.send_request(b"POST / HTTP/1.1\r\n\r\n", _parts(b"one", b"two")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert transport.sent.endswith(b"one")
    connection.resume_writing()
    await asyncio.sleep(0)
    connection.data_received(WHOLE)
    assert await read_to_end(task, connection) == b"body"
    assert transport.sent.endswith(b"onetwo")
    assert connection.reusable


async def test_an_answer_before_the_body_s_end_ends_it() -> None:
    """The rest is not sent, and the connection not used again."""
    connection, transport = connected()
    connection.pause_writing()
    task = asyncio.create_task(connection.send_request(b"POST / HTTP/1.1\r\n\r\n", _parts(b"one", b"two")))
    await asyncio.sleep(0)
    connection.data_received(WHOLE)
    assert await read_to_end(task, connection) == b"body"
    assert transport.sent.endswith(b"one")
    assert not connection.reusable


async def test_a_connection_that_breaks_ends_the_body() -> None:
    """As `ConnectionBroken`: the call may have run."""
    connection, _ = connected()
    connection.pause_writing()
    task = asyncio.create_task(connection.send_request(b"POST / HTTP/1.1\r\n\r\n", _parts(b"one", b"two")))
    await asyncio.sleep(0)
    connection.connection_lost(None)
    with pytest.raises(ConnectionBroken):
        await task
