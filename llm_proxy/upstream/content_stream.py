"""Google's own streams on their way to the caller: frames are read, and pass as bytes.

Invariants: any chunking of the same bytes gives the same frames; comments and errors are withheld; a
stream is complete once every candidate that began has ended, or the prompt was blocked; the last frame is
kept apart.
"""

import orjson

from llm_proxy.json_access import Json, as_object, as_objects
from llm_proxy.money import usd_to_nano
from llm_proxy.sse import FrameGate
from llm_proxy.upstream.native_stream import COST_COMMENT, stated_error
from llm_proxy.upstream.token_usage import (
    TokenUsage,
    estimate_stream_tokens,
    read_usage,
    usage_of_content,
)

_STATUSES = {
    "ABORTED": "rate_limit_error",
    "DEADLINE_EXCEEDED": "timeout_error",
    "INVALID_ARGUMENT": "invalid_request_error",
    "NOT_FOUND": "not_found_error",
    "PERMISSION_DENIED": "permission_error",
    "RESOURCE_EXHAUSTED": "rate_limit_error",
    "UNAUTHENTICATED": "authentication_error",
    "UNAVAILABLE": "overloaded_error",
}
"""Google's states -> the words in which `native_stream` knows them."""


class ContentStreamFilter:
    """The frames of one stream of Google's.

    Attributes:
        usage: The usage that was stated last; None until one was.
        content_frames: Frames passed so far that hold a part of the answer.
        done: Every candidate that began has ended, or the prompt was blocked.
        is_malformed: A frame could not be read, or the stream ended inside one.
        error: The error object of the stream; None without one.
        last_event: The frames that ended the stream, withheld until its cost is known and settled.
    """

    __slots__ = (
        "_begun", "_content_bytes", "_ended", "_gate", "_last",
        "content_frames", "done", "error", "is_malformed", "last_event", "usage",
    )  # fmt: skip

    def __init__(self) -> None:
        self._gate = FrameGate()
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self._content_bytes = 0
        self._last: bytes = b""
        self.usage: TokenUsage | None = None
        self.content_frames = 0
        self.done = False
        self.is_malformed = False
        self.error: Json | None = None
        self.last_event: bytes = b""

    def feed(self, chunk: bytes) -> bytes:
        """Takes bytes as received; returns the bytes to send now."""
        frames = self._gate.feed(chunk)
        return b"".join(self._filter_frame(one) for one in frames.split(b"\n\n") if one.strip())

    def content_tokens(self) -> int:
        """Estimates the completion tokens sent so far, for a stream that ended before its usage."""
        return estimate_stream_tokens(self.content_frames, self._content_bytes, self._last)

    def close(self) -> bytes:
        """Ends the stream; an unfinished frame is malformed, and is not sent."""
        if self._gate.close().strip():
            self.is_malformed = True
        return b""

    def _filter_frame(self, frame: bytes) -> bytes:
        """Returns the frames to send now; no bytes for one that is withheld."""
        if frame.startswith(b":"):
            self._read_comment(frame)
            return b""
        data = b"\n".join(line[5:].strip() for line in frame.split(b"\n") if line.startswith(b"data:"))
        try:
            event = as_object(orjson.loads(data))
        except orjson.JSONDecodeError:
            event = {}
        if not event:
            self.is_malformed = True
            return b""
        if "error" in event:
            self._note_error(as_object(event["error"]))
            return b""
        self._read(event)
        self._count(frame)
        ready, self.last_event = self.last_event, b""
        if self.done:
            self.last_event = frame + b"\n\n"
            return ready
        return ready + frame + b"\n\n"

    def _read(self, event: Json) -> None:
        """Notes what an event states."""
        if as_object(event.get("promptFeedback")).get("blockReason"):
            self.done = True
        for candidate in as_objects(event.get("candidates")):
            stated: object = candidate.get("index")
            index = stated if isinstance(stated, int) else 0
            self._begun.add(index)
            if candidate.get("finishReason"):
                self._ended.add(index)
        if self._ended and self._ended >= self._begun:
            self.done = True
        usage = read_usage(usage_of_content(as_object(event.get("usageMetadata"))))
        if usage is not None and (usage.completion_tokens or self.done):
            self.usage = usage  # a frame before may state the prompt alone

    def _count(self, frame: bytes) -> None:
        self.content_frames += 1
        self._content_bytes += len(frame) + 2
        self._last = frame + b"\n\n"

    def _note_error(self, error: Json) -> None:
        """Notes the first error; a provider's own gets what our sidecar says of one that has a status."""
        if self.error is None:
            kind = _STATUSES.get(str(error.get("status")), "")
            self.error = stated_error({"type": kind} | error)

    def _read_comment(self, frame: bytes) -> None:
        if frame.startswith(COST_COMMENT) and self.usage is not None:
            cost = usd_to_nano(frame[len(COST_COMMENT) :].strip().decode("latin-1"))
            self.usage = self.usage._replace(cost_nano_usd=cost)
