"""Whose address a request has, through proxies that are trusted."""

import pytest

from llm_proxy.edge.request import ClientAddress

PROXIES = ("10.0.0.0/8", "fd00::/8")


def address(peer: str | None, *lines: str, trusted: tuple[str, ...] = PROXIES) -> str | None:
    """The address of a request from that peer with these `X-Forwarded-For` lines."""
    headers = [(b"x-forwarded-for", line.encode()) for line in lines]
    return ClientAddress(trusted)({"client": (peer, 1) if peer else None, "headers": headers})


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), "10.0.0.1"),
        (("203.0.113.7",), "203.0.113.7"),
        (("203.0.113.7, 10.0.0.2",), "203.0.113.7"),
        (("198.51.100.1, 203.0.113.7, 10.0.0.2",), "203.0.113.7"),
        (("198.51.100.1", "203.0.113.7"), "203.0.113.7"),
        (("198.51.100.1", "203.0.113.7", "10.0.0.2"), "203.0.113.7"),
        (("203.0.113.7:4711",), "203.0.113.7"),
        (("2001:db8::1",), "2001:db8::1"),
        (("[2001:db8::1]",), "2001:db8::1"),
        (("[2001:db8::1]:4711, fd00::2",), "2001:db8::1"),
        (('"[2001:db8::1]:4711"',), "2001:db8::1"),
        (("::ffff:203.0.113.7",), "203.0.113.7"),
        (("203.0.113.7, ::ffff:10.0.0.2",), "203.0.113.7"),
        (("10.0.0.3, 10.0.0.2",), "10.0.0.3"),
        ((" , 203.0.113.7 ,, ",), "203.0.113.7"),
        (("203.0.113.7, unknown",), "10.0.0.1"),
        (("203.0.113.7, unknown, 10.0.0.2",), "10.0.0.2"),
        (("203.0.113.7:99999999",), "10.0.0.1"),
        (("203.0.113.7\x00",), "10.0.0.1"),
    ],
)
def test_all_lines_are_one_list_read_from_the_right(lines: tuple[str, ...], expected: str) -> None:
    """The first hop that no trusted proxy wrote ends it; ports and brackets are no part of an address."""
    assert address("10.0.0.1", *lines) == expected


def test_nobody_else_is_believed() -> None:
    """A caller that connects by itself may write what it likes."""
    assert address("198.51.100.9", "203.0.113.7") == "198.51.100.9"
    assert address("10.0.0.1", "203.0.113.7", trusted=()) == "10.0.0.1"
    assert address("::ffff:10.0.0.1", "203.0.113.7") == "203.0.113.7"
    assert address(None, "203.0.113.7") is None
