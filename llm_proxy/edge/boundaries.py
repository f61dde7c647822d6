"""MessageBoundaries: where each request line, head and body on one connection ends.

A second reader beside llhttp, which accepts request lines that other servers read differently and does not
report its offset. Invariants: raises `ValueError` for a request line or a chunk size that is not exactly
RFC 9112's; keeps no bytes but those of an incomplete line; linear time in the bytes given.
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
"""The target is a path or an absolute `http` URL without fragment, user, backslash; HTTP/0.9: no version."""
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[^\r\n]*)?\r\n")
_END = b"\r\n\r\n"


class MessageBoundaries:
    """Follows the parser, which must call `head_complete` at the end of each head.

    Attributes:
        head_ended: A head has ended and `head_complete` was not called for it yet.
        request_ended: The last call of `next_boundary` stopped at the end of a request.
    """

    __slots__ = ("_partial", "_read_part", "_remaining_bytes", "head_ended", "request_ended")

    def __init__(self) -> None:
        self._read_part: Callable[[MessageBoundaries, bytes, int], int] = MessageBoundaries._read_request_line
        self._partial = bytearray()
        self._remaining_bytes = 0
        self.head_ended = self.request_ended = False

    @property
    def is_between(self) -> bool:
        """Whether the bytes so far end with a request."""
        return not self._partial and self._read_part is MessageBoundaries._read_request_line

    def head_complete(self, length: int | None) -> None:
        """Takes the body's length in bytes, None for chunks; raises `ValueError` where no head has ended."""
        if not self.head_ended:
            raise ValueError("a head that ends elsewhere for other servers")
        self.head_ended, self.request_ended = False, length == 0
        self._remaining_bytes = length or 0
        if length is None:
            self._read_part = MessageBoundaries._read_chunk_size
        else:
            self._read_part = MessageBoundaries._read_body if length else MessageBoundaries._read_request_line

    def next_boundary(self, data: bytes, at: int) -> int:
        """Returns where, from `at`, the next head or request ends in `data`, else the length of `data`."""
        self.request_ended = False
        while at < len(data) and not (self.head_ended or self.request_ended):
            at = self._read_part(self, data, at)
        return at

    def _read_request_line(self, data: bytes, at: int) -> int:
        line, at = self._complete_line(data, at)
        if line is not None and line != b"\r\n":
            if REQUEST_LINE.fullmatch(line) is None:
                raise ValueError("a request line other servers read differently")
            self._read_part, self._partial = MessageBoundaries._read_head, bytearray(b"\r\n")
        return at

    def _read_head(self, data: bytes, at: int) -> int:
        at, self.head_ended = self._section_end(data, at)
        return at

    def _read_trailers(self, data: bytes, at: int) -> int:
        at, self.request_ended = self._section_end(data, at)
        if self.request_ended:
            self._read_part = MessageBoundaries._read_request_line
        return at

    def _read_body(self, data: bytes, at: int) -> int:
        end = min(len(data), at + self._remaining_bytes)
        self._remaining_bytes -= end - at
        if not self._remaining_bytes:
            self._read_part, self.request_ended = MessageBoundaries._read_request_line, True
        return end

    def _read_chunk(self, data: bytes, at: int) -> int:
        end = min(len(data), at + self._remaining_bytes)
        self._remaining_bytes -= end - at
        if not self._remaining_bytes:
            self._read_part = MessageBoundaries._read_chunk_size
        return end

    def _read_chunk_size(self, data: bytes, at: int) -> int:
        line, at = self._complete_line(data, at)
        if line is not None:
            found = _CHUNK_SIZE.fullmatch(line)
            if found is None:
                raise ValueError("not the size of a chunk")
            size = int(found[1], 16)
            if size:
                self._read_part = MessageBoundaries._read_chunk
                self._remaining_bytes = size + 2  # the chunk and its line end
            else:
                self._read_part, self._partial = MessageBoundaries._read_trailers, bytearray(b"\r\n")
        return at

    def _complete_line(self, data: bytes, at: int) -> tuple[bytes | bytearray | None, int]:
        """Returns the line, None while it has not ended (its bytes are kept), and the offset after it."""
        end = data.find(b"\n", at) + 1
        if not end:
            self._partial += data[at:]
            return None, len(data)
        line: bytes | bytearray = data[at:end]
        if self._partial:
            line, self._partial = self._partial + line, bytearray()
        return line, end

    def _section_end(self, data: bytes, at: int) -> tuple[int, bool]:
        """Returns where a section of header lines ends, and whether it does within `data`."""
        kept = len(self._partial)
        begun = (self._partial + data[at : at + 3]).find(_END)
        end = at + begun + 4 - kept if begun >= 0 else data.find(_END, at) + 4
        if end < 4 and begun < 0:
            self._partial = (self._partial + data[max(at, len(data) - 3) :])[-3:]
            return len(data), False
        self._partial = bytearray()
        return end, True
