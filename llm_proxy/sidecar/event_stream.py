"""Decodes a provider's streamed body by the specification of server-sent events: bytes in, events out.

Pure. Invariants: lines end at CR, LF or CRLF and nowhere else; the same bytes give the same events, however
they are chunked; a body without event fields (JSON lines) gives its lines. Beyond the specification, an event
may lack its empty line at the end of the body and before the next event.
Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

import json
from typing import NamedTuple

MAX_EVENT_BYTES = 16 * 2**20
MAX_EVENT_LINES = 100_000
DONE = "[DONE]"
EVENT_STREAM = "text/event-stream"
BROKEN_EVENT = b'data: {"error": {}}\n\n'
"""Ends a stream that broke off; `responses` replaces it by the event that says why."""
BOM = b"\xef\xbb\xbf"
_FIELDS = frozenset({b"", b"data", b"event", b"id", b"retry"})
"""Field names of an event stream; a comment has an empty one."""


def media_type(content_type: str) -> str:
    """Return the type that a `content-type` header states, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


class EventTooLong(ValueError):  # noqa: N818 -- errors are named for the state they report
    """A line or event exceeds `MAX_EVENT_BYTES` or `MAX_EVENT_LINES`."""


class ServerSentEvent(NamedTuple):
    """One event, or one line of a body that has no events.

    Attributes:
        data: Its `data` lines, joined by line feeds; never empty.
        name: Its `event` field.
        is_json_line: Whether it is a line of JSON lines.
    """

    data: str
    name: str = ""
    is_json_line: bool = False


class LineDecoder:
    """Splits bytes into lines, without line ends and without a byte order mark at the start."""

    __slots__ = ("_after_cr", "_held_bytes", "_parts", "_start")

    def __init__(self) -> None:
        self._start: bytes | None = b""
        self._after_cr = False
        self._parts: list[bytes] = []
        self._held_bytes = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is kept of the bytes so far."""
        return not (self._start or self._after_cr or self._parts)

    def skip_line(self) -> None:
        """Note that a line was read elsewhere: no byte order mark may follow."""
        self._start = None

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that end in this chunk; raises `EventTooLong`."""
        if self._start is not None:
            chunk = self._start + chunk
            if len(chunk) < len(BOM) and BOM.startswith(chunk):
                self._start = chunk
                return []
            self._start, chunk = None, chunk.removeprefix(BOM)
        if self._after_cr and chunk:
            self._after_cr, chunk = False, chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = chunk.split(b"\n")
        if lines and self._parts:
            lines[0] = b"".join([*self._parts, lines[0]])
        if lines:
            self._parts, self._held_bytes = [], 0
        if rest:
            self._parts.append(rest)
            self._held_bytes += len(rest)
            if self._held_bytes > MAX_EVENT_BYTES:
                raise EventTooLong(f"a line of more than {MAX_EVENT_BYTES} bytes")
        return lines

    def flush(self) -> list[bytes]:
        """Return the last line if the body ends without a line end."""
        rest = b"".join([self._start or b"", *self._parts])
        self._start, self._parts = None, []
        return [rest] if rest else []


class EventDecoder:
    """Decodes the events of one body."""

    __slots__ = ("_data", "_data_bytes", "_lines", "_name", "_parsed_bytes", "_plain")

    def __init__(self) -> None:
        self._lines = LineDecoder()
        self._plain: bool | None = None
        self._data: list[bytes] = []
        self._data_bytes = self._parsed_bytes = 0
        self._name = b""

    @property
    def is_between_events(self) -> bool:
        """Whether an event may begin with the next byte: nothing is kept of those so far."""
        return not (self._plain or self._data or self._name) and self._lines.is_empty

    def feed_block(self, block: bytes, separator: bytes) -> list[ServerSentEvent]:
        """Return the events of bytes and the empty line behind them; most often they are one line of data."""
        is_line = block.startswith(b"data:") and b"\n" not in block and b"\r" not in block
        if not is_line or len(block) > MAX_EVENT_BYTES or not self.is_between_events:
            return self.feed(block + separator)
        self.skip_event()
        data = block[5:].strip()
        return [ServerSentEvent(data.decode("utf-8", "replace"))] if data else []

    def skip_event(self) -> None:
        """Note that an event of one line of data was read elsewhere."""
        self._plain = False
        self._lines.skip_line()

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events that end in this chunk; raises `EventTooLong`."""
        return self._decode_lines(self._lines.feed(chunk))

    def flush(self) -> list[ServerSentEvent]:
        """Return the events that the end of the body completes."""
        events = self._decode_lines(self._lines.flush())
        self._dispatch(events)
        return events

    def _decode_lines(self, lines: list[bytes]) -> list[ServerSentEvent]:
        events: list[ServerSentEvent] = []
        for line in lines:
            if self._plain is None and line:
                self._plain = line.partition(b":")[0] not in _FIELDS
            if not line:
                self._dispatch(events)
            elif self._plain:
                events.append(ServerSentEvent(line.decode("utf-8", "replace"), is_json_line=True))
            else:
                self._add_field(line, events)
        return events

    def _add_field(self, line: bytes, events: list[ServerSentEvent]) -> None:
        name, _, value = line.partition(b":")
        if name not in {b"data", b"event"}:
            return
        if self._data and self._is_complete_json():
            self._dispatch(events)  # its empty line is missing
        value = value.removeprefix(b" ")
        if name == b"event":
            self._name = value
            return
        if not self._data and not value.strip():
            return  # white space before the data is no part of it
        self._data.append(value)
        self._data_bytes += len(value) + 1
        if self._data_bytes > MAX_EVENT_BYTES or len(self._data) > MAX_EVENT_LINES:
            raise EventTooLong(f"an event of more than {MAX_EVENT_BYTES} bytes or {MAX_EVENT_LINES} lines")

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        data, name = b"\n".join(self._data).strip(), self._name
        self._data, self._data_bytes, self._parsed_bytes, self._name = [], 0, 0, b""
        if data:
            events.append(ServerSentEvent(data.decode("utf-8", "replace"), name.decode("utf-8", "replace")))

    def _is_complete_json(self) -> bool:
        """Whether the lines so far are a complete JSON document, so that the next line begins another event.

        All attempts of one event together parse no more than one event may hold, so the work is linear.
        """
        if len(self._data) == 1 and self._data[0].strip() == DONE.encode():
            return True
        if not (self._data[0].lstrip().startswith(b"{") and self._data[-1].rstrip().endswith(b"}")):
            return False
        self._parsed_bytes += self._data_bytes
        if self._parsed_bytes > MAX_EVENT_BYTES:
            return False
        try:
            json.loads(b"\n".join(self._data))
        except (ValueError, RecursionError):
            return False
        return True
