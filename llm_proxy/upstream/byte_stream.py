"""Answers that are bytes and no events: speech, passed on as it comes.

Invariants: of the bytes only the first are read, for the length of what is spoken; they are complete by the
end of the sidecar's body alone, and never without a byte; their media type is audio's, so that no browser
runs them. Source of raw samples' rate: https://platform.openai.com/docs/guides/text-to-speech.
"""

import re
from collections.abc import Mapping

from llm_proxy.dialects.request.audio_length import stated_audio_ms
from llm_proxy.json_access import Json
from llm_proxy.upstream.token_usage import TokenUsage, usage_in_header

EVENT_STREAM = b"text/event-stream"
_AUDIO = re.compile(rb"audio/[a-z0-9.+-]{1,64}")
_UNKNOWN = "application/octet-stream"
_HEAD_BYTES = 4096
_PCM, _PCM_BYTES_PER_MS = "audio/pcm", 48
"""24,000 samples a second of 16 bits."""


def is_event_stream(headers: Mapping[bytes, bytes]) -> bool:
    """Whether an answer with these headers (names in lower case) is made of events."""
    return media_type(headers) == EVENT_STREAM


class ByteStream:
    """The bytes of one answer; see `StreamFilter` for what it has in common with streams of events.

    Attributes:
        content_type: Their media type, as the caller gets it.
        usage: What the sidecar states before them, and how long the bytes so far are.
    """

    last_event = b""
    error: Json | None = None
    __slots__ = ("_head", "_size", "_usage", "content_type", "done", "is_malformed")

    def __init__(self, headers: Mapping[bytes, bytes]) -> None:
        stated = media_type(headers)
        self.content_type = stated.decode() if _AUDIO.fullmatch(stated) else _UNKNOWN
        self._usage = usage_in_header(headers)
        self.done = self.is_malformed = False
        self._size = 0
        self._head = b""

    @property
    def usage(self) -> TokenUsage | None:
        """See the class."""
        return self._usage._replace(spoken_ms=self._spoken_ms()) if self._usage is not None else None

    def _spoken_ms(self) -> int:
        if self.content_type == _PCM:
            return self._size // _PCM_BYTES_PER_MS
        return stated_audio_ms(self._head, self._size)

    def feed(self, chunk: bytes) -> bytes:
        """Returns the same bytes."""
        if self._size < _HEAD_BYTES:
            self._head += chunk[: _HEAD_BYTES - self._size]
        self._size += len(chunk)
        return chunk

    def content_tokens(self) -> int:
        """0: the size of audio says nothing about tokens."""
        return 0

    def close(self) -> bytes:
        """Ends the stream; returns no bytes."""
        self.done = self._size > 0 and not self.is_malformed
        return b""


def media_type(headers: Mapping[bytes, bytes]) -> bytes:
    """Returns the media type that headers (names in lower case) state, without parameters; empty for none."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
