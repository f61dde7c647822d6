"""Frames that go from a sidecar's connection to the caller's in one go: as if a task had sent each."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.call_guard import NEVER, CallGuard
from llm_proxy.dialects import Call
from llm_proxy.errors import APIError
from llm_proxy.upstream.http_client import HTTPConnection, SidecarAddress
from llm_proxy.upstream.litellm_protocol import RoutingInfo
from llm_proxy.upstream.reply import SidecarReply

HERE = SidecarAddress.of("http://127.0.0.1:4000")
CALL = Call("chat.completions", "openai", "m", "m", {"model": "m"}, streaming=True, wants_usage=True)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WORDS = b"".join(b'data: {"choices":[{"index":0,"delta":{"content":"word%d"}}]}\n\n' % at for at in range(6))
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\r\n\r\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'
ENDS = {
    "whole": STOP + USAGE + b"data: [DONE]\n\n",
    "error": b'data: {"error":{"message":"no","code":"429"}}\n\n' + b"data: [DONE]\n\n",
    "cut": STOP,
    "no JSON": b'data: {"usage":\n\n' + b"data: [DONE]\n\n",
}
IDLE_S = 60.0


class Socket(asyncio.Transport):
    """The sidecar's side: takes what is written, and is open until it is aborted."""

    aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Drops it."""

    def is_closing(self) -> bool:
        """Whether it was aborted."""
        return self.aborted

    def abort(self) -> None:
        """Closes it."""
        self.aborted = True


class Streamed:
    """One stream on its way; `heard` is what the caller got, `fault` what ended it."""

    def __init__(self, write: Callable[[bytes], bool] | None = None) -> None:
        self.connection = HTTPConnection(HERE, asyncio.get_running_loop())
        self.connection.connection_made(Socket())
        self.write = write
        self.heard: list[bytes] = []
        self.yielded = 0
        self.fault = ""
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        self.guard = CallGuard(NEVER)
        await self.connection.send_request(b"POST / HTTP/1.1\r\n\r\n")
        self.reply = SidecarReply(
            self.connection, RoutingInfo(), self.guard, CALL, idle_s=IDLE_S, on_close=self.connection.abort
        )
        self.reply.begin_stream()
        try:
            async for chunk in self.reply.chunks(self.write):
                self.heard += [chunk] if chunk else []
                self.yielded += 1
                await asyncio.sleep(0)
        except APIError as error:
            self.fault = str(error.code)

    async def receive(self, *segments: bytes, waits: bool = True) -> None:
        """These bytes arrive; what waits for them may run after each."""
        for segment in segments:
            self.connection.data_received(segment)
            if waits:
                await asyncio.sleep(0)

    def seen(self) -> tuple[object, ...]:
        """What the caller got, and what is billed."""
        frames = self.reply.stream_filter
        assert frames is not None
        return b"".join(self.heard), self.fault, frames.usage, frames.content_tokens(), frames.done


def written_at_once() -> Streamed:
    """A stream whose caller takes everything."""

    def write(chunk: bytes) -> bool:
        one.heard.append(chunk)
        return True

    one = Streamed(write)
    return one


def chunked(body: bytes, sizes: list[int]) -> bytes:
    """The body in HTTP chunks of these sizes, the last of what is left."""
    out = b""
    for size in (*sizes, len(body)):
        part, body = body[:size], body[size:]
        out += b"%x\r\n%b\r\n" % (len(part), part) if part else b""
    return out


def segments(raw: bytes, sizes: list[int]) -> list[bytes]:
    """The bytes as they arrive."""
    found, at = [HEAD], 0
    for size in (*sizes, len(raw)):
        found.append(raw[at : at + size])
        at += size
    return [one for one in found if one]


@given(
    end=st.sampled_from([*ENDS]),
    chunk_sizes=st.lists(st.integers(1, 200), max_size=12),
    sizes=st.lists(st.integers(1, 200), max_size=12),
    takes=st.lists(st.booleans(), min_size=1, max_size=8),
    ends_well=st.booleans(),
    waits=st.booleans(),
)
def test_a_caller_gets_the_same_in_any_pieces(
    *, end: str, chunk_sizes: list[int], sizes: list[int], takes: list[bool], ends_well: bool, waits: bool
) -> None:
    """However it arrives, whatever of it can be written at once, and however it ends."""
    raw = chunked(WORDS + ENDS[end], chunk_sizes) + (b"0\r\n\r\n" if ends_well else b"")

    async def run(*, direct: bool) -> tuple[object, ...]:
        asked = 0

        def write(chunk: bytes) -> bool:
            nonlocal asked
            asked += 1
            if takes[asked % len(takes)]:
                one.heard.append(chunk)
            return takes[asked % len(takes)]

        one = Streamed(write if direct else None)
        await asyncio.sleep(0)
        await one.receive(*segments(raw, sizes), waits=waits)
        one.connection.connection_lost(None)
        await one.task
        assert one.guard.idle_deadline == NEVER
        return one.seen()

    assert asyncio.run(run(direct=True)) == asyncio.run(run(direct=False))


async def test_a_frame_wakes_no_task_and_moves_the_deadline() -> None:
    """It is written before `data_received` returns; silence counts from it on."""
    one = written_at_once()
    await asyncio.sleep(0)
    await one.receive(HEAD)
    for number, frame in enumerate(WORDS.split(b"\n\n")[:-1], 1):
        one.guard.idle_deadline = 0.0
        await one.receive(chunked(frame + b"\n\n", []), waits=False)
        assert one.heard[-1] == frame + b"\n\n"
        assert (one.guard.activity, one.guard.idle_deadline > IDLE_S) == (number, True)
    await asyncio.sleep(0)
    assert one.yielded == 0
    one.task.cancel()


async def test_a_call_that_is_interrupted_passes_nothing_on() -> None:
    """From the moment it is, and its connection is not used again."""
    one = written_at_once()
    await asyncio.sleep(0)
    await one.receive(HEAD, chunked(WORDS, []))
    assert b"".join(one.heard) == WORDS
    one.guard.interrupt("stopped")
    await one.receive(chunked(WORDS, []), waits=False)
    with pytest.raises(asyncio.CancelledError):
        await one.task
    assert b"".join(one.heard) == WORDS
    assert not one.connection.reusable


async def test_an_error_of_a_writer_is_the_call_s() -> None:
    """Not the event loop's, which would only log it."""

    def write(_: bytes) -> bool:
        raise KeyError("broken")

    one = Streamed(write)
    await asyncio.sleep(0)
    await one.receive(HEAD, chunked(WORDS, []))
    with pytest.raises(KeyError):
        await one.task
