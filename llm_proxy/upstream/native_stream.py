"""Event streams of Responses and Messages on their way to the caller: bytes, parsed only where they must be.

Frames with content pass unchanged; one that states usage, an end or an error is parsed. Invariants: any
chunking of the same bytes gives the same frames; every frame has its `event` line; `[DONE]`, comments and
errors are withheld; a stream is complete only by the protocol's own last event, kept apart.
"""

import re

from llm_proxy.endpoints import Endpoint
from llm_proxy.json_access import Json, as_object
from llm_proxy.upstream.event_filter import EventFilter
from llm_proxy.upstream.sealed_ids import SealedIds
from llm_proxy.upstream.token_usage import (
    NOTHING_USED,
    read_usage,
    usage_of_message,
    usage_of_responses,
)

_READ_KINDS: dict[Endpoint, tuple[bytes, ...]] = {
    "responses": (b"response.completed", b"response.incomplete", b"response.failed", b"response.cancelled"),
    "messages": (b"message_start", b"message_delta", b"message_stop"),
}
_ENDS = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled", "message_stop"}
)
_ERROR_FIELDS = ("code", "message", "param")
_ALWAYS_READ = (b"event: error", b'"type":"error"', b'"type": "error"', b"\r")
_CONTENT = re.compile(rb"^event: (?!message_)[a-z_.]*delta$", re.MULTILINE)
_DELTA = re.compile(rb'event: (?!message_)([a-z_.]*delta)\ndata: ?\{"type": ?"\1",')
_DATA = re.compile(rb"^data: ?(.*)$", re.MULTILINE)


class NativeStreamFilter(EventFilter):
    """The frames of one stream in its provider's own protocol."""

    __slots__ = ("_delta_start", "_ids", "_is_free", "_marks", "_message_usage")

    def __init__(self, endpoint: Endpoint, ids: SealedIds | None = None, *, is_free: bool = False) -> None:
        """Begins a stream; one that `is_free` is read again: what it states was billed before."""
        super().__init__()
        self._ids = ids
        self._is_free = is_free
        self._marks = (*_READ_KINDS[endpoint], *_ALWAYS_READ)
        self._message_usage: Json = {}
        self._delta_start: bytes = b""
        self.usage = NOTHING_USED if is_free else None

    def feed(self, chunk: bytes) -> bytes:
        """Takes bytes as received; returns the bytes to send now."""
        if not self._gate.held_bytes and self._is_delta(chunk):
            if self._ids is not None:
                chunk = self._ids.in_delta(chunk)
            self._count_content(chunk)
            return chunk
        frames = self._gate.feed(chunk)
        if not frames:
            return b""
        if self._ids is not None:
            frames = self._ids.in_frames(frames)
        if self._needs_reading(frames):
            return b"".join(self._filter_frame(frame) for frame in frames.split(b"\n\n") if frame.strip())
        self._count(frames)
        return frames

    def _is_delta(self, chunk: bytes) -> bool:
        """Whether a chunk is one frame of content and says so: a line for the event, and one for its object.

        Such frames mostly begin like the last one, and nothing else in them matters.
        """
        start = self._delta_start
        if not (start and chunk.startswith(start)):
            if (found := _DELTA.match(chunk)) is None:
                return False
            self._delta_start = start = found.group()
        is_one = chunk.find(b"\n", len(start)) == len(chunk) - 2 and chunk.endswith(b"}\n\n")
        return is_one and chunk.find(b"\r") < 0

    def _needs_reading(self, frames: bytes) -> bool:
        """Whether a frame states what is read, or is not an event line and an object on one line."""
        count = frames.count(b"\n\n")
        return (
            not frames.startswith(b"event: ")
            or frames.count(b"\n\nevent: ") != count - 1
            or frames.count(b"\ndata: {") != count
            or frames.count(b"}\n\n") != count
            or any(frames.find(mark) >= 0 for mark in self._marks)
        )

    def _count(self, frames: bytes) -> None:
        content = len(_CONTENT.findall(frames))
        if content:
            self._count_content(frames, content)

    def _filter_frame(self, frame: bytes) -> bytes:
        if not self._needs_reading(frame + b"\n\n"):
            self._count(frame)
            return frame + b"\n\n"
        data = b"\n".join(_DATA.findall(frame))
        if not data:
            self._read_comment(frame)
            return b""
        if data == b"[DONE]":
            return b""
        event = self._parse(data)
        if not event or not self._read(event):
            return b""
        kind = str(event.get("type") or "")
        if kind and not frame.startswith(b"event:"):
            frame = b"event: " + kind.encode() + b"\ndata: " + data
        frame += b"\n\n"
        if kind in _ENDS:
            self.last_event = frame
            return b""
        self._count(frame)
        return frame

    def _read(self, event: Json) -> bool:
        """Notes what an event states; returns whether it is sent."""
        kind = event.get("type")
        error = as_object(event.get("error"))
        if kind == "error" or (error and kind is None):
            self._note_error(error or {name: event[name] for name in _ERROR_FIELDS if name in event})
            return False
        if kind in _ENDS:
            self.done = True
        response = as_object(event.get("response"))
        if response and kind in _ENDS:
            self.usage = NOTHING_USED if self._is_free else read_usage(usage_of_responses(response))
            if kind == "response.failed":
                self._note_error(as_object(response.get("error")) or {"message": "The response failed."})
                return False
        elif kind in ("message_start", "message_delta"):
            stated = as_object(as_object(event.get("message")).get("usage") or event.get("usage"))
            self._message_usage |= {name: value for name, value in stated.items() if value is not None}
            if kind == "message_delta":  # the first event states no answer yet
                self.usage = read_usage(usage_of_message(self._message_usage))
        return True


class ResumedStreamFilter(NativeStreamFilter):
    """The frames of a stream that begins behind an event: without any it is complete, as OpenAI's is."""

    __slots__ = ("_began",)

    def __init__(self, endpoint: Endpoint, ids: SealedIds | None = None, *, is_free: bool = False) -> None:
        """Begins the rest of a stream."""
        super().__init__(endpoint, ids, is_free=is_free)
        self._began = False

    def feed(self, chunk: bytes) -> bytes:
        """Takes bytes as received; returns the bytes to send now."""
        out = super().feed(chunk)
        self._began = self._began or bool(out)
        return out

    def close(self) -> bytes:
        """Ends the stream; one without any event had nothing left."""
        self.done = self.done or not self._began
        return super().close()
