"""Event streams of OpenAI's images and audio on their way to the caller: bytes, of which heads are read.

Of an event only its name is read; base64 passes unparsed. Invariants: any chunking of the same bytes gives
the same frames; only whole events pass; comments and errors are withheld; a stream is complete only by the
operation's own last event, kept apart; its usage is what our sidecar states in its last comment.
"""

import re

from llm_proxy.json_access import Json, as_object
from llm_proxy.media_frames import (
    ERROR,
    LAST_EVENTS,
    MAX_EVENT_BYTES,
    event_name,
    parse_event,
    split_frames,
)
from llm_proxy.quantities import USAGE_COMMENT
from llm_proxy.sse import FrameGate
from llm_proxy.upstream.native_stream import stated_error
from llm_proxy.upstream.token_usage import TokenUsage, estimate_stream_tokens, stated_usage

_TEXT = "transcript.text.delta"
"""The only event whose size says how many tokens it holds."""
_DONE = re.compile(rb"data: ?\[DONE\]\s*")


class MediaStreamFilter:
    """The frames of one stream of images, speech or a transcript.

    Attributes:
        usage: What the sidecar states; None until it did, and at an unmodified LiteLLM.
        content_frames: Frames passed so far that hold a part of the answer.
        done: A last event was seen.
        is_malformed: A frame could not be read, or the stream ended inside one.
        error: The error object of the stream; None without one.
        last_event: The event that ended the stream, withheld until what it used is known and settled.
    """

    __slots__ = (
        "_gate", "_last_text", "_text_bytes", "_text_frames",
        "content_frames", "done", "error", "is_malformed", "last_event", "usage",
    )  # fmt: skip

    def __init__(self) -> None:
        self._gate = FrameGate(MAX_EVENT_BYTES)
        self._text_frames = self._text_bytes = 0
        self._last_text = b""
        self.usage: TokenUsage | None = None
        self.content_frames = 0
        self.done = False
        self.is_malformed = False
        self.error: Json | None = None
        self.last_event: bytes = b""

    def feed(self, chunk: bytes) -> bytes:
        """Takes bytes as received; returns the bytes to send now."""
        frames = self._gate.feed(chunk)
        if not frames:
            return b""
        passed = [self._filter_frame(one) for one in split_frames(frames)]
        return passed[0] if len(passed) == 1 else b"".join(passed)

    def content_tokens(self) -> int:
        """Estimates the tokens of the text sent so far, for a stream that ended before its usage."""
        return estimate_stream_tokens(self._text_frames, self._text_bytes, self._last_text)

    def close(self) -> bytes:
        """Ends the stream; an unfinished frame is malformed, and is not sent."""
        if self._gate.close().strip():
            self.is_malformed = True
        return b""

    def _filter_frame(self, frame: bytes) -> bytes:
        """Returns the frame, after a last event that another follows; no bytes if it is withheld."""
        if self._is_beside_the_events(frame):
            return b""
        kind = event_name(frame)
        if kind is None:
            self.is_malformed = True
        elif kind == ERROR:
            self._note_error(frame)
        elif kind in LAST_EVENTS:  # one for each image
            before, self.last_event, self.done = self.last_event, frame, True
            return before
        else:
            self._count(kind, frame)
            before, self.last_event = self.last_event, b""
            return before + frame if before else frame
        return b""

    def _is_beside_the_events(self, frame: bytes) -> bool:
        """Whether it is no event, but a comment, an end mark, which follows a last event, or nothing."""
        if _DONE.fullmatch(frame):
            self.last_event += frame if self.done else b""
        elif frame.startswith(USAGE_COMMENT):
            self.usage = stated_usage(frame[len(USAGE_COMMENT) :].strip())
        else:
            return frame.startswith(b":") or frame.isspace()
        return True

    def _note_error(self, frame: bytes) -> None:
        event = parse_event(frame)
        if self.error is None:
            self.error = stated_error(as_object(event.get("error")) or event)

    def _count(self, kind: str, frame: bytes) -> None:
        self.content_frames += 1
        if kind == _TEXT:
            self._text_frames += 1
            self._text_bytes += len(frame)
            self._last_text = frame
