"""Answers that are bytes and no events: speech, passed on as it comes.

Invariants: the bytes are not looked at; they are complete by the end of the sidecar's body alone, and never
without a byte; their media type is audio's, so that no browser runs them.
"""

import re
from collections.abc import Mapping

from llm_proxy.json_access import Json
from llm_proxy.upstream.token_usage import TokenUsage, usage_in_header

EVENT_STREAM = b"text/event-stream"
_AUDIO = re.compile(rb"audio/[a-z0-9.+-]{1,64}")
_UNKNOWN = "application/octet-stream"


def is_event_stream(headers: Mapping[bytes, bytes]) -> bool:
    """Whether an answer with these headers (names in lower case) is made of events."""
    return _media_type(headers) == EVENT_STREAM


class ByteStream:
    """The bytes of one answer; see `StreamFilter` for what it has in common with streams of events.

    Attributes:
        content_type: What the caller is told that they are.
        usage: What the sidecar states before them.
    """

    last_event = b""
    error: Json | None = None
    __slots__ = ("_size", "content_type", "done", "is_malformed", "usage")

    def __init__(self, headers: Mapping[bytes, bytes]) -> None:
        media_type = _media_type(headers)
        self.content_type = media_type.decode() if _AUDIO.fullmatch(media_type) else _UNKNOWN
        self.usage: TokenUsage | None = usage_in_header(headers)
        self.done = self.is_malformed = False
        self._size = 0

    def feed(self, chunk: bytes) -> bytes:
        """Returns the same bytes."""
        self._size += len(chunk)
        return chunk

    def content_tokens(self) -> int:
        """0: the size of audio says nothing about tokens."""
        return 0

    def close(self) -> bytes:
        """Ends the stream; returns no bytes."""
        self.done = self._size > 0 and not self.is_malformed
        return b""


def _media_type(headers: Mapping[bytes, bytes]) -> bytes:
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
