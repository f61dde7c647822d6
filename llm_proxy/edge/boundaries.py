"""Boundaries of the requests on one connection: where each request line, head and body ends.

A second reader beside the parser, which accepts request lines that other servers read differently and does
not tell where in the bytes it is. Invariants: raises `ValueError` for a request line or a chunk size that is
not exactly RFC 9112's; keeps no bytes but those of an unfinished line; linear in the bytes it is given.
Source: RFC 9112, 2.2 (empty lines), 3 (request line), 7.1 (chunks).
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_AUTHORITY = rb"(?:[A-Za-z0-9._~!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?"
REQUEST_LINE = re.compile(
    rb"[A-Z][A-Z-]* (?:[Hh][Tt][Tt][Pp][Ss]?://%b)?/[!\"$-\[\]-~]*(?: HTTP/[0-9]\.[0-9])?\r\n" % _AUTHORITY
)
"""The target is a path or a whole `http` URL, without fragment, user, backslash; HTTP/0.9 has no version."""
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[^\r\n]*)?\r\n")
_END = b"\r\n\r\n"


class MessageBoundaries:
    """Reads along with the parser, which must call `head_complete` at the end of each head.

    Attributes:
        head_ended: A head has ended and `head_complete` was not called yet.
        request_ended: The last bytes `next_boundary` looked at are the end of a request.
    """

    __slots__ = ("_kept", "_left_bytes", "_part", "head_ended", "request_ended")

    def __init__(self) -> None:
        self._part: Callable[[MessageBoundaries, bytes, int], int] = MessageBoundaries._line
        self._kept = bytearray()
        self._left_bytes = 0
        self.head_ended = self.request_ended = False

    def head_complete(self, length: int | None) -> None:
        """Says how long the body is; None when it comes in chunks. Raises `ValueError` within a head."""
        if not self.head_ended:
            raise ValueError("a head that ends elsewhere for other servers")
        self.head_ended, self.request_ended = False, length == 0
        self._left_bytes = length or 0
        if length is None:
            self._part = MessageBoundaries._chunk_size
        else:
            self._part = MessageBoundaries._body if length else MessageBoundaries._line

    def next_boundary(self, data: bytes, at: int) -> int:
        """Returns where, from `at`, the next head or request ends in `data`, else the length of `data`."""
        self.request_ended = False
        while at < len(data) and not (self.head_ended or self.request_ended):
            at = self._part(self, data, at)
        return at

    def _line(self, data: bytes, at: int) -> int:
        line, at = self._whole_line(data, at)
        if line is not None and line != b"\r\n":
            if REQUEST_LINE.fullmatch(line) is None:
                raise ValueError("a request line other servers read differently")
            self._part, self._kept = MessageBoundaries._head, bytearray(b"\r\n")
        return at

    def _head(self, data: bytes, at: int) -> int:
        at, self.head_ended = self._section_end(data, at)
        return at

    def _trailers(self, data: bytes, at: int) -> int:
        at, self.request_ended = self._section_end(data, at)
        if self.request_ended:
            self._part = MessageBoundaries._line
        return at

    def _body(self, data: bytes, at: int) -> int:
        end = min(len(data), at + self._left_bytes)
        self._left_bytes -= end - at
        if not self._left_bytes:
            self._part, self.request_ended = MessageBoundaries._line, True
        return end

    def _chunk(self, data: bytes, at: int) -> int:
        end = min(len(data), at + self._left_bytes)
        self._left_bytes -= end - at
        if not self._left_bytes:
            self._part = MessageBoundaries._chunk_size
        return end

    def _chunk_size(self, data: bytes, at: int) -> int:
        line, at = self._whole_line(data, at)
        if line is not None:
            found = _CHUNK_SIZE.fullmatch(line)
            if found is None:
                raise ValueError("not the size of a chunk")
            size = int(found[1], 16)
            if size:
                self._part, self._left_bytes = MessageBoundaries._chunk, size + 2  # its line end
            else:
                self._part, self._kept = MessageBoundaries._trailers, bytearray(b"\r\n")
        return at

    def _whole_line(self, data: bytes, at: int) -> tuple[bytes | bytearray | None, int]:
        """The line that ends in `data`, if one does; otherwise its bytes are kept."""
        end = data.find(b"\n", at) + 1
        if not end:
            self._kept += data[at:]
            return None, len(data)
        line: bytes | bytearray = data[at:end]
        if self._kept:
            line, self._kept = self._kept + line, bytearray()
        return line, end

    def _section_end(self, data: bytes, at: int) -> tuple[int, bool]:
        """Where a section of header lines ends, and whether it does within `data`."""
        kept = len(self._kept)
        begun = (self._kept + data[at : at + 3]).find(_END)
        end = at + begun + 4 - kept if begun >= 0 else data.find(_END, at) + 4
        if end < 4 and begun < 0:
            self._kept = (self._kept + data[max(at, len(data) - 3) :])[-3:]
            return len(data), False
        self._kept = bytearray()
        return end, True
