"""How a connection ends: by the application, the client or a server that stops, on both event loops."""

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator

import pytest
from http_server import HEAD_S, Client, ProtocolServer, chunked, get, post, protocol_server, read_responses

from llm_proxy.edge import http_protocol

NO_REQUEST = b"\0\1\2\r\n\r\n"
MUCH = b"a" * 2**17


@pytest.mark.parametrize("path", ["/silent", "/raises", "/headless"])
async def test_an_application_that_fails_before_its_head_is_a_500(server: ProtocolServer, path: str) -> None:
    """One complete response, the last."""
    (answer,) = read_responses(await server.send(get(path) + get("/b")))
    assert (answer.status, answer.whole) == (500, True)
    assert b'"internal_error"' in answer.body
    assert b"connection: close\r\n" in answer.head


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/half", b"half"),
        ("/stops", b"half"),
        ("/shorter", b"s"),
        ("/short", b"s"),
    ],
)
async def test_an_application_that_fails_later_truncates_its_response(
    server: ProtocolServer, path: str, said: bytes
) -> None:
    """The response has no end of its own, and nothing follows."""
    (answer,) = read_responses(await server.send(get(path) + get("/b")))
    assert (answer.body, answer.whole) == (said, False)


@pytest.mark.parametrize(
    "path",
    [
        "/headed", "/twice", "/long", "/impossible",
        "/splits/n", "/splits/r", "/splits/rn", "/splits/0", "/splits/n/streamed", "/splits/rn/streamed",
    ],
)  # fmt: skip
async def test_an_application_that_fails_after_its_head_sends_nothing(
    server: ProtocolServer, path: str
) -> None:
    """A header with a line break is never written, nor anything beside it; the connection ends."""
    assert await server.send(get(path) + get("/b")) == b""


async def test_a_message_after_the_last_is_dropped(server: ProtocolServer) -> None:
    """The response was complete; the connection ends, because the application is at fault."""
    assert [one.body for one in read_responses(await server.send(get("/again") + get("/b")))] == [b"done"]


async def test_a_client_that_does_not_read_stops_the_application(server: ProtocolServer) -> None:
    """It is at most a buffer ahead, and continues when the client reads."""
    client = await server.connect(2**16)
    await client.send(get("/floods", b"Connection: close\r\n"))
    await server.wait_for_event("floods")
    await asyncio.sleep(0.1)
    assert server.app.events == ["floods"]
    (answer,) = read_responses(await client.read_all())
    assert (len(answer.body), answer.whole) == (2**23, True)
    assert server.app.events == ["floods", "flooded"]


async def test_an_application_that_waits_for_its_client_can_be_cancelled(server: ProtocolServer) -> None:
    """Its response is truncated."""
    client = await server.connect(4096)
    await client.send(get("/floods"))
    await server.wait_for_event("floods")
    await asyncio.sleep(0.05)
    (task,) = server.state.tasks
    task.cancel()
    await server.wait_for_event("cancelled")
    (answer,) = read_responses(await client.read_all())
    assert not answer.whole


@pytest.mark.parametrize(
    "leaves", [Client.reset, Client.close, Client.half_close], ids=["reset", "end", "half"]
)
@pytest.mark.parametrize(
    ("raw", "notes", "then"),
    [
        pytest.param(b"", None, None, id="at once"),
        pytest.param(b"GET /", None, None, id="within a head"),
        pytest.param(get(), None, None, id="after an answer"),
        pytest.param(post("/early", b"a", length=5), None, None, id="before the rest nobody reads"),
        pytest.param(post("/echo", b"a", length=5), "reads", "gone", id="within a body"),
        pytest.param(get("/listens"), None, "gone", id="within an answer"),
        pytest.param(get("/floods"), "floods", "flooded", id="within an answer nobody takes"),
        pytest.param(get("/listens") + get("/b") * 3, None, "gone", id="with more asked for"),
        pytest.param(NO_REQUEST, None, None, id="after a refusal"),
    ],
)  # fmt: skip
async def test_a_client_may_disconnect_at_any_time(
    server: ProtocolServer, leaves: Callable[[Client], None], raw: bytes, notes: str | None, then: str | None
) -> None:
    """The application is told, what it still sends is dropped, and nothing is logged."""
    client = await server.connect(4096)
    await client.send(raw)
    if notes:
        await server.wait_for_event(notes)
    await asyncio.sleep(0.02)
    leaves(client)
    if then == "flooded":
        client.writer.transport.abort()
    if then:
        await server.wait_for_event(then)
    await server.wait_until(lambda: not server.state.connections and not server.state.tasks)
    assert server.app.events == [one for one in (notes, then) if one]


async def test_a_connection_above_the_cap_is_rejected() -> None:
    """With a 503; its request is not read."""
    async with protocol_server(max_connections=2) as server:
        first = await server.connect()
        await server.connection()
        (answer,) = read_responses(await server.send(get("/echo")))
        assert (answer.status, server.app.events) == (503, [])
        await first.send(get("/a", b"Connection: close\r\n"))
        assert [one.status for one in read_responses(await first.read_all())] == [200]


async def test_a_client_that_is_still_sending_gets_the_last_response(server: ProtocolServer) -> None:
    """The server closes its side alone, and drains the client's for a bounded time."""
    for raw in (
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        post("/leaves", length=2**30),
        post("/raises", length=2**30),
    ):
        client = await server.connect()
        await client.send(raw, *[MUCH] * 16, gap_s=0.001)
        (answer,) = read_responses(await client.read_all())
        assert answer.status in {200, 400, 500}
        connection = await server.connection()
        server.close_slow()
        assert not connection.transport.is_closing()
        server.close_slow(later_s=HEAD_S * 2)
        await server.wait_until(lambda: not server.state.connections)


async def test_draining_after_the_last_response_is_bounded(server: ProtocolServer) -> None:
    """By `MAX_DRAINED_BYTES`."""
    client = await server.connect()
    await client.send(post("/leaves", length=2**40))
    await client.read_all()
    connection = await server.connection()
    for _ in range(http_protocol.MAX_DRAINED_BYTES // len(MUCH) - 1):
        connection.data_received(MUCH)
        assert not connection.transport.is_closing()
    await client.send(*[MUCH] * 4)
    await server.wait_until(lambda: not server.state.connections)


@pytest.mark.parametrize(
    ("raw", "heard"),
    [
        pytest.param(b"", [], id="silent"),
        pytest.param(b"GET /", [], id="within a head"),
        pytest.param(get("/a"), [b"/a"], id="idle"),
        pytest.param(get("/waits"), [b"late"], id="running"),
        pytest.param(get("/streams"), [b"one,two"], id="streaming"),
        pytest.param(get("/streams") + get("/b"), [b"one,two"], id="pipelined"),
        pytest.param(post("/streams", length=5), [b"one,two"], id="before its body"),
        pytest.param(post("/early", length=5), [b"soon"], id="draining"),
        pytest.param(post("/leaves", length=5), [b"last"], id="lingering"),
        pytest.param(get("/streams") + NO_REQUEST, [b"one,two"], id="refused meanwhile"),
    ],
)
async def test_a_server_that_stops_completes_the_running_response(
    server: ProtocolServer, raw: bytes, heard: list[bytes]
) -> None:
    """It is the last; connections without one are closed at once."""
    client = await server.connect()
    await client.send(raw)
    await asyncio.sleep(0.05)
    (await server.connection()).shutdown()
    server.app.proceed.set()
    assert [one.body for one in read_responses(await client.read_all())] == heard
    await server.wait_until(lambda: not server.state.connections)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No circular reference is freed meanwhile."""
    logging.disable()  # pytest keeps what is logged, tracebacks and all
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"GET /", get(), get() * 5, get("/leaves"), post("/echo", b"a", length=5), NO_REQUEST,
        post("/early", length=5), post("/leaves", length=5), get("/listens") + get(), get("/half"),
        get("/raises"), get("/floods"), chunked("/echo", b"zz"), chunked("/listens", b"zz"),
        get("/listens") + NO_REQUEST, get("/early", b"Connection: upgrade\r\nUpgrade: h2c\r\n"),
        b"GET /" + b"a" * 70_000,
    ],
)  # fmt: skip
@pytest.mark.usefixtures("uncollected")
async def test_what_belonged_to_a_connection_is_freed_with_it(server: ProtocolServer, raw: bytes) -> None:
    """Without the garbage collector."""
    for _ in range(5):
        client = await server.connect()
        await client.send(raw)
        await asyncio.sleep(0.01)
        client.reset()
    await server.wait_until(lambda: not server.state.connections and not server.state.tasks)
    await server.wait_until(lambda: not server.made)
