"""How a connection ends: what applications, callers and a server that stops may do, on both event loops."""

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator

import pytest
from http_server import HEAD_S, Client, Wired, answers, chunked, get, post, wired

from llm_proxy.edge import http_protocol

NO_REQUEST = b"\0\1\2\r\n\r\n"
MUCH = b"a" * 2**17


@pytest.mark.parametrize("path", ["/silent", "/raises", "/headless"])
async def test_an_application_that_fails_before_its_answer_is_a_500(at: Wired, path: str) -> None:
    """One whole answer, the last."""
    (answer,) = answers(await at.says(get(path) + get("/b")))
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
async def test_an_application_that_fails_later_cuts_its_answer(at: Wired, path: str, said: bytes) -> None:
    """Nobody takes the half for the whole, and nothing follows."""
    (answer,) = answers(await at.says(get(path) + get("/b")))
    assert (answer.body, answer.whole) == (said, False)


@pytest.mark.parametrize(
    "path",
    [
        "/headed", "/twice", "/long", "/impossible",
        "/splits/n", "/splits/r", "/splits/rn", "/splits/0",
    ],
)  # fmt: skip
async def test_an_application_that_fails_with_no_more_than_a_head_said_nothing(at: Wired, path: str) -> None:
    """A header with a line break never leaves, nor anything beside it; the connection ends."""
    assert await at.says(get(path) + get("/b")) == b""


async def test_more_after_the_end_goes_nowhere(at: Wired) -> None:
    """The answer was whole; the connection ends, for its application is at fault."""
    assert [one.body for one in answers(await at.says(get("/again") + get("/b")))] == [b"done"]


async def test_who_does_not_read_is_waited_for(at: Wired) -> None:
    """The application goes no further than a buffer ahead, and on when its caller does."""
    client = await at.client(2**16)
    await client.says(get("/floods", b"Connection: close\r\n"))
    await at.has_noted("floods")
    await asyncio.sleep(0.1)
    assert at.app.noted == ["floods"]
    (answer,) = answers(await client.rest())
    assert (len(answer.body), answer.whole) == (2**23, True)
    assert at.app.noted == ["floods", "flooded"]


async def test_who_waits_for_a_reader_can_be_cancelled(at: Wired) -> None:
    """Its answer is cut."""
    client = await at.client(4096)
    await client.says(get("/floods"))
    await at.has_noted("floods")
    await asyncio.sleep(0.05)
    (task,) = at.state.tasks
    task.cancel()
    await at.has_noted("cancelled")
    (answer,) = answers(await client.rest())
    assert not answer.whole


@pytest.mark.parametrize(
    "leaves", [Client.breaks_off, Client.closes, Client.ends], ids=["reset", "end", "half"]
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
async def test_a_caller_may_leave_at_any_time(
    at: Wired, leaves: Callable[[Client], None], raw: bytes, notes: str | None, then: str | None
) -> None:
    """The application hears of it, what it still says goes nowhere, and nobody complains."""
    client = await at.client(4096)
    await client.says(raw)
    if notes:
        await at.has_noted(notes)
    await asyncio.sleep(0.02)
    leaves(client)
    if then == "flooded":
        client.writer.transport.abort()
    if then:
        await at.has_noted(then)
    await at.until(lambda: not at.state.connections and not at.state.tasks)
    assert at.app.noted == [one for one in (notes, then) if one]


async def test_one_connection_too_many_is_not_served() -> None:
    """It is told so; what it asked is not even read."""
    async with wired(most=2) as at:
        first = await at.client()
        await at.connection()
        (answer,) = answers(await at.says(get("/echo")))
        assert (answer.status, at.app.noted) == (503, [])
        await first.says(get("/a", b"Connection: close\r\n"))
        assert [one.status for one in answers(await first.rest())] == [200]


async def test_a_last_answer_is_heard_by_who_is_still_sending(at: Wired) -> None:
    """Our side ends; theirs is drained for a while, and no longer."""
    for raw in (
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        post("/leaves", length=2**30),
        post("/raises", length=2**30),
    ):
        client = await at.client()
        await client.says(raw, *[MUCH] * 16, gap_s=0.001)
        (answer,) = answers(await client.rest())
        assert answer.status in {200, 400, 500}
        connection = await at.connection()
        at.looks()
        assert not connection.transport.is_closing()
        at.looks(later_s=HEAD_S * 2)
        await at.until(lambda: not at.state.connections)


async def test_who_goes_on_sending_after_the_last_answer_is_let_go(at: Wired) -> None:
    """There is an end to what is drained."""
    client = await at.client()
    await client.says(post("/leaves", length=2**40))
    await client.rest()
    connection = await at.connection()
    for _ in range(http_protocol.MAX_DRAINED_BYTES // len(MUCH) - 1):
        connection.data_received(MUCH)
        assert not connection.transport.is_closing()
    await client.says(*[MUCH] * 4)
    await at.until(lambda: not at.state.connections)


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
async def test_a_server_that_stops_gives_the_answer_it_owes(
    at: Wired, raw: bytes, heard: list[bytes]
) -> None:
    """That one is the last; and nobody is waited for who then says nothing."""
    client = await at.client()
    await client.says(raw)
    await asyncio.sleep(0.05)
    (await at.connection()).shutdown()
    at.app.go.set()
    assert [one.body for one in answers(await client.rest())] == heard
    await at.until(lambda: not at.state.connections)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nothing that goes in circles is freed meanwhile."""
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
async def test_what_belonged_to_a_connection_is_freed_with_it(at: Wired, raw: bytes) -> None:
    """Without a search for circles."""
    for _ in range(5):
        client = await at.client()
        await client.says(raw)
        await asyncio.sleep(0.01)
        client.breaks_off()
    await at.until(lambda: not at.state.connections and not at.state.tasks)
    await at.until(lambda: not at.made)
