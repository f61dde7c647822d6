"""Event streams of OpenAI's images and audio on their way to the caller: bytes, of which heads are read.

Of an event only its name is read; base64 passes unparsed. Invariants: any chunking of the same bytes gives
the same frames; only whole events pass; comments and errors are withheld; a stream is complete only by the
operation's own last event, kept apart; its usage is what our sidecar states in its last comment.
"""

import re

from llm_proxy.json_access import as_object
from llm_proxy.media_frames import (
    ERROR,
    LAST_EVENTS,
    MAX_EVENT_BYTES,
    event_name,
    parse_event,
    split_frames,
)
from llm_proxy.quantities import USAGE_COMMENT
from llm_proxy.upstream.event_filter import EventFilter
from llm_proxy.upstream.token_usage import stated_usage

_TEXT = "transcript.text.delta"
"""The only event whose size says how many tokens it holds."""
_DONE = re.compile(rb"data: ?\[DONE\]\s*")


class MediaStreamFilter(EventFilter):
    """The frames of one stream of images, speech or a transcript."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(MAX_EVENT_BYTES)

    def feed(self, chunk: bytes) -> bytes:
        """Takes bytes as received; returns the bytes to send now."""
        frames = self._gate.feed(chunk)
        if not frames:
            return b""
        passed = [self._filter_frame(one) for one in split_frames(frames)]
        return passed[0] if len(passed) == 1 else b"".join(passed)

    def _filter_frame(self, frame: bytes) -> bytes:
        """Returns the frame, after a last event that another follows; no bytes if it is withheld."""
        if self._is_beside_the_events(frame):
            return b""
        kind = event_name(frame)
        if kind is None:
            self.is_malformed = True
        elif kind == ERROR:
            event = parse_event(frame)
            self._note_error(as_object(event.get("error")) or event)
        elif kind in LAST_EVENTS:  # one for each image
            before, self.last_event, self.done = self.last_event, frame, True
            return before
        else:
            if kind == _TEXT:
                self._count_content(frame)
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
