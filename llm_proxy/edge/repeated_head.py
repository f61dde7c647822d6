"""RepeatedHead: the head of a connection's last request, by which the next one with the same head is read.

Invariants: a head is the same if all its bytes are, but for the digits of its one `Content-Length`; it frames
its body by them alone. Whatever else a connection gets is for the parser. Source: RFC 9112, 6.2.
"""

import re
from collections.abc import Mapping
from typing import Any

from llm_proxy.edge.request import SAME_HEAD, Headers

MAX_LEARNED_BYTES = 8 * 2**10
MAX_DIGITS = 8
_LENGTH = re.compile(rb"\r\ncontent-length: ?([1-9][0-9]{0,%d})\r\n" % (MAX_DIGITS - 1), re.IGNORECASE)
_END = b"\r\n\r\n"
_LENGTH_NAME = b"content-length"
_OTHER_FRAMING = frozenset({b"transfer-encoding", b"expect", b"upgrade"})


class RepeatedHead:
    """A head that the parser has accepted, with the ASGI scope of its request."""

    __slots__ = ("_after", "_before", "_headers", "_kept", "_length_at", "_scope")

    def __init__(self, before: bytes, after: bytes, length_at: int, scope: Mapping[str, Any]) -> None:
        """`before` and `after` are the head around the digits, `length_at` the place of their header."""
        self._before, self._after = before, after
        self._headers: list[tuple[bytes, bytes]] = [*scope["headers"]]
        self._length_at = length_at
        self._scope = {**scope}
        self._kept: dict[frozenset[bytes], Headers] = {}

    def read(self, data: bytes) -> tuple[dict[str, Any], bytes, int] | None:
        """Returns scope, begun body and the body's length of a segment that begins with this head.

        None for any other, and for one that holds more than one request.
        """
        begin = len(self._before)
        end = data.find(b"\r", begin, begin + MAX_DIGITS + 1)
        if end < 0 or not (data.startswith(self._before) and data.startswith(self._after, end)):
            return None
        digits, body_at = data[begin:end], end + len(self._after)
        if not digits.isdigit() or digits[:1] == b"0":
            return None
        length = int(digits)
        if length < len(data) - body_at:
            return None
        headers = self._headers.copy()
        headers[self._length_at] = (_LENGTH_NAME, digits)
        scope = self._scope | {"headers": headers, SAME_HEAD: (self._kept, digits)}
        return scope, data[body_at:], length


def learn_head(data: bytes, scope: Mapping[str, Any]) -> RepeatedHead | None:
    """Returns the head that a segment begins with, if it is plain and the segment holds one request alone.

    `scope` is the request's, as the parser made it.
    """
    head_end = data.find(_END) + len(_END)
    names = [name for name, _ in scope["headers"]]
    found = [*_LENGTH.finditer(data, 0, head_end)]
    if (
        len(found) != 1
        or head_end > MAX_LEARNED_BYTES
        or names.count(_LENGTH_NAME) != 1
        or not _OTHER_FRAMING.isdisjoint(names)
        or scope["http_version"] != "1.1"
        or not data.startswith(b"POST ")
        or int(found[0][1]) < len(data) - head_end
    ):
        return None
    begin, end = found[0].span(1)
    return RepeatedHead(data[:begin], data[end:head_end], names.index(_LENGTH_NAME), scope)
