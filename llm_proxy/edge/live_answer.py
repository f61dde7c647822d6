"""An answer as it is sent to its caller, frame by frame, for all requests with the same idempotency key.

Invariants: a listener gets every frame from the first on, in order, and none twice, however late it comes;
frames are what the gateway sent, so that no dialect is known here; an answer is bounded, and one that grows
beyond the bound is no longer kept. Units: bytes.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

import orjson

from llm_proxy.edge.request import Message, Send
from llm_proxy.edge.request_cycle import BREAK_OFF, RawHeaders
from llm_proxy.errors import APIError, ReplayGone

HEAD, BODY, LAST, BROKEN, LEFT = b"hblxc"
"""Kinds of frames: the head; a part of the body; the last part; the end of a connection within the body; and
the end of a call whose callers have all disconnected."""
ENDS = frozenset({LAST, BROKEN, LEFT})
_FRAME = struct.Struct(">BI")


class Frame(NamedTuple):
    """One step of an answer; the data of a head is JSON."""

    kind: int
    data: bytes = b""


class Head(NamedTuple):
    """The head of an answer."""

    status: int
    headers: RawHeaders


def frame_of(message: Message) -> Frame:
    """Returns the frame of an ASGI message."""
    if message["type"] == BREAK_OFF:
        return Frame(BROKEN)
    if message["type"] == "http.response.start":
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in message["headers"]]
        return Frame(HEAD, orjson.dumps([message["status"], headers]))
    return Frame(BODY if message.get("more_body") else LAST, message.get("body", b""))


def head_of(frame: Frame) -> Head:
    """Returns the head that a frame has."""
    status, headers = orjson.loads(frame.data)
    return Head(status, [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers])


def encode_frames(frames: Sequence[Frame]) -> bytes:
    """Encodes frames as one segment."""
    return b"".join(_FRAME.pack(one.kind, len(one.data)) + one.data for one in frames)


def decode_frames(segment: bytes) -> list[Frame]:
    """Decodes a segment."""
    frames: list[Frame] = []
    at = 0
    while at < len(segment):
        kind, size = _FRAME.unpack_from(segment, at)
        at += _FRAME.size
        frames.append(Frame(kind, segment[at : at + size]))
        at += size
    return frames


class LiveAnswer:
    """One answer, growing or complete.

    Attributes:
        frames: Those so far.
        listeners: How many follow it now.
        ended: No further frame comes.
        is_dropped: It grew beyond its bound, and its frames are gone.
    """

    __slots__ = ("_changed", "_fault", "_max_bytes", "_size", "ended", "frames", "is_dropped", "listeners")

    def __init__(self, max_bytes: int) -> None:
        self.frames: list[Frame] = []
        self.listeners = 0
        self.ended = self.is_dropped = False
        self._max_bytes = max_bytes
        self._size = 0
        self._fault: Callable[[], APIError] | None = None
        self._changed = asyncio.Event()

    def add(self, frame: Frame) -> None:
        """Adds a frame; the first beyond the bound ends the answer for all who listen."""
        if self.ended:
            return
        self._size += len(frame.data)
        if self._size > self._max_bytes:
            self.is_dropped = True
            self.frames = []
            self.fail(ReplayGone)
            return
        self.frames.append(frame)
        self.ended = frame.kind in ENDS
        self._wake()

    def fail(self, fault: Callable[[], APIError]) -> None:
        """Ends the answer where it is, for its listeners with an error."""
        if not self.ended:
            self._fault, self.ended = fault, True
            self._wake()

    async def follow(self) -> AsyncIterator[Frame]:
        """Yields the frames from the first on; raises what `fail` was given."""
        at = 0
        while True:
            while at < len(self.frames):
                at += 1
                yield self.frames[at - 1]
            if self._fault is not None:
                raise self._fault()
            if self.ended:
                return
            await self._changed.wait()

    async def wait_for_change(self) -> None:
        """Waits for the next frame, or the end."""
        await self._changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Recorder:
    """Sends the messages of a response on, and adds each to an answer first."""

    __slots__ = ("_answer", "_on_end", "_send")

    def __init__(self, answer: LiveAnswer, send: Send, on_end: Callable[[], Awaitable[None]]) -> None:
        """`on_end` is awaited before the last message leaves."""
        self._answer = answer
        self._on_end = on_end
        self._send = send

    async def send(self, message: Message) -> None:
        """Sends one ASGI message."""
        frame = frame_of(message)
        self._answer.add(frame)
        if frame.kind in ENDS:
            await self._on_end()
        await self._send(message)
