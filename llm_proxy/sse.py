"""Server-sent events: encoding, parsing, and cutting a byte stream into frames (one event each).

Pure. Invariants: any chunking of the same bytes gives the same frames. The frames joined with `rest` are the
bytes received, without a leading byte order mark. Lines end in LF, CRLF or CR, also mixed.
Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

import re
from dataclasses import dataclass

MAX_EVENT_BYTES = 16 * 2**20
DONE_EVENT = b"data: [DONE]\n\n"
"""OpenAI's end of a stream."""

_BOM = b"\xef\xbb\xbf"
# An empty line: the end of a line, then another. A CR at the very end may be half of a CRLF.
_BLANK = re.compile(rb"(?:\r\n|\n|\r(?!\n|\Z))(?:\r\n|\n|\r(?!\n|\Z))")
_LINE_END = re.compile(rb"\r\n|\n|\r")


class FrameTooLong(ValueError):  # noqa: N818 -- named for the state
    """More than the maximum of bytes came without an empty line."""


@dataclass(frozen=True, slots=True)
class SSEEvent:
    """One event.

    Attributes:
        data: The `data` lines joined by LF; None without any (a comment, a bare `id`).
        name: The `event` field; empty for a plain message.
    """

    data: bytes | None
    name: bytes = b""


def encode_event(data: bytes, name: bytes = b"") -> bytes:
    """Returns one event as bytes; each line of the data becomes a `data` line."""
    head = b"event: " + name + b"\n" if name else b""
    if b"\n" in data or b"\r" in data:
        lines = b"".join(b"data: " + line + b"\n" for line in _LINE_END.split(data))
        return head + lines + b"\n"
    return head + b"data: " + data + b"\n\n"


def parse_event(raw: bytes) -> SSEEvent:
    """Returns the event of one frame; unknown fields and comments are skipped."""
    if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2 and b"\r" not in raw:
        return SSEEvent(raw[6:-2])
    data: list[bytes] = []
    name = b""
    for line in _LINE_END.split(raw):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    return SSEEvent(b"\n".join(data) if data else None, name)


class SSEDecoder:
    """Cuts a stream of bytes into frames, each with the empty line that ends it.

    Attributes:
        rest: Bytes of the incomplete frame.
    """

    __slots__ = ("_max_bytes", "_started", "rest")

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._started = False
        self.rest: bytes = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Returns the frames that this chunk completes; raises `FrameTooLong` above the maximum."""
        buffer = self.rest + chunk if self.rest else chunk
        if not self._started:
            if len(buffer) < len(_BOM) and _BOM.startswith(buffer):
                self.rest = buffer
                return []
            self._started = True
            buffer = buffer.removeprefix(_BOM)
        if b"\r" in buffer:
            frames, self.rest = _split_at_blank_lines(buffer)
        else:
            *ended, self.rest = buffer.split(b"\n\n")
            frames = [part + b"\n\n" for part in ended]
        if len(self.rest) > self._max_bytes:
            raise FrameTooLong(f"no empty line in {self._max_bytes} bytes")
        return frames


class FrameGate:
    """Lets the complete frames of a stream pass in one piece; for servers whose lines end in LF or CRLF.

    A frame's bytes are looked at once and joined once, however many chunks it came in.

    Attributes:
        held_bytes: The size of the incomplete frame.
    """

    __slots__ = ("_max_bytes", "_parts", "_tail", "held_bytes")

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._tail = b""  # line ends that the next chunk may complete to an empty line
        self.held_bytes = 0

    def feed(self, chunk: bytes) -> bytes:
        """Returns what is complete now, each CRLF as LF; raises `FrameTooLong` above the maximum."""
        raw = self._tail + chunk if self._tail else chunk
        if b"\r" in raw:
            raw = raw.replace(b"\r\n", b"\n")
        ready = b""
        end = raw.rfind(b"\n\n") + 2 if b"\n" in raw else 1  # base64 has no line ends: found much sooner
        if end > 1:
            ready = b"".join([*self._parts, raw[:end]])
            self._parts, self.held_bytes, raw = [], 0, raw[end:]
        else:
            self.held_bytes -= len(self._tail)
        self.held_bytes += len(raw)
        if self.held_bytes > self._max_bytes:
            raise FrameTooLong(f"no empty line in {self._max_bytes} bytes")
        self._tail = raw[-2:] if raw.endswith((b"\n", b"\r")) else b""
        if len(raw) > len(self._tail):
            self._parts.append(raw[: len(raw) - len(self._tail)])
        return ready

    def close(self) -> bytes:
        """Returns the bytes of the incomplete frame, and holds none any more."""
        rest = b"".join([*self._parts, self._tail])
        self._parts, self._tail, self.held_bytes = [], b"", 0
        return rest


def _split_at_blank_lines(buffer: bytes) -> tuple[list[bytes], bytes]:
    """Cuts a buffer that holds CR, slower; returns the frames and the rest."""
    frames: list[bytes] = []
    start = 0
    while found := _BLANK.search(buffer, start):
        frames.append(buffer[start : found.end()])
        start = found.end()
    return frames, buffer[start:]
