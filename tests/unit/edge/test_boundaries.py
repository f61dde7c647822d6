"""Where requests end, whatever the segments are cut into."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from llm_proxy.edge.boundaries import MessageBoundaries

HEAD = b"POST /a HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKS = b"3;a=b\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX: y\r\n\r\n"


@given(some.lists(some.integers(1, 40), min_size=1, max_size=200))
def test_ends_do_not_depend_on_segments(sizes: list[int]) -> None:
    """Heads and requests end at the same bytes, cut anywhere."""
    stream = b"\r\n" + HEAD + HEAD + b"1234567" + HEAD + CHUNKS + b"\r\n" + HEAD
    lengths = iter((0, 7, None, 0))
    boundaries, came, ends = MessageBoundaries(), 0, list[int]()
    while came < len(stream):
        size = sizes[came % len(sizes)]
        data, at = stream[came : came + size], 0
        while at < len(data):
            at = boundaries.next_boundary(data, at)
            if boundaries.head_ended:
                boundaries.head_complete(next(lengths))
            if boundaries.request_ended:
                ends.append(came + at)
        came += len(data)
    first = 2 + len(HEAD)
    second = first + len(HEAD) + 7
    third = second + len(HEAD) + len(CHUNKS)
    assert ends == [first, second, third, third + 2 + len(HEAD)]


@pytest.mark.parametrize("size", [b"", b"g", b"-1", b"+1", b"0x1", b" 1", b"1 ", b"1_0", b"1" * 17, b"1;\r"])
def test_a_chunk_s_size_is_hexadecimal_digits(size: bytes) -> None:
    """Sixteen at most; what Python's `int` reads besides is none."""
    boundaries = MessageBoundaries()
    boundaries.next_boundary(HEAD, 0)
    boundaries.head_complete(None)
    with pytest.raises(ValueError, match="chunk"):
        boundaries.next_boundary(size + b"\r\n", 0)


def test_a_head_ends_once() -> None:
    """A parser that sees the end of a head elsewhere is not followed."""
    boundaries = MessageBoundaries()
    boundaries.next_boundary(HEAD[:-1], 0)
    with pytest.raises(ValueError, match="head"):
        boundaries.head_complete(0)
