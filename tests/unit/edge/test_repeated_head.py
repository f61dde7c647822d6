"""RepeatedHead: what is learned, and that it reads a segment as the parser and `MessageBoundaries` would."""

import asyncio
import contextlib
import gzip
from itertools import chain
from typing import cast

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.flow_control import FlowControl

from llm_proxy.edge.repeated_head import MAX_LEARNED_BYTES, learn_head
from llm_proxy.edge.request import (
    READ_HEADERS,
    SAME_HEAD,
    ClientDisconnected,
    Headers,
    read_body,
    read_headers,
)
from llm_proxy.edge.request_cycle import BoundedRequestCycle
from llm_proxy.errors import BodyTooLarge, HeadersTooLarge

HEAD = b"POST /v1/chat HTTP/1.1\r\nHost: x\r\nContent-Length: %b\r\nAuthorization: Bearer k\r\n\r\n"


class Parsed:
    """A head as httptools reads it."""

    def __init__(self, data: bytes) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header."""
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        """Takes a piece of the body."""
        self.body += body

    def scope(self) -> dict[str, object]:
        """What the protocol would make of it."""
        return {"headers": self.headers, "http_version": self.parser.get_http_version()}


def learned(data: bytes) -> object:
    """What is learned of a segment."""
    return learn_head(data, Parsed(data).scope())


@given(body=st.binary(min_size=1, max_size=1200), sent=st.integers(0, 1200))
def test_a_request_with_the_same_head_is_read_as_the_parser_reads_it(body: bytes, sent: int) -> None:
    """Whatever its length, and however much of its body came with the head."""
    first = HEAD % b"5" + b"first"
    head = learn_head(first, Parsed(first).scope())
    assert head is not None
    data = (HEAD % str(len(body)).encode() + body)[: len(HEAD % str(len(body)).encode()) + sent]
    found, parsed = head.read(data), Parsed(data)
    assert found is not None
    assert found[0]["headers"] == parsed.headers
    assert (found[1], found[2]) == (parsed.body, len(body))
    assert head.read(first) is not None


def test_the_headers_of_a_repeated_head_are_those_that_would_be_read_of_it() -> None:
    """Its own length among them; one with more digits may be too large where the first was not."""
    first = HEAD % b"5" + b"first"
    head = learn_head(first, Parsed(first).scope())
    assert head is not None
    for size in (7, 8, 9, 10, 11, 5):
        found = head.read(HEAD % b"%d" % size)
        assert found is not None
        alone = {name: value for name, value in found[0].items() if name != SAME_HEAD}
        assert read_headers(found[0], max_bytes=200) == read_headers(alone, max_bytes=200)
        assert read_headers(found[0], max_bytes=200)[b"content-length"] == b"%d" % size
    most = sum(map(len, chain.from_iterable(Parsed(first).headers)))
    for size, fits in ((5, True), (6, True), (10, False)):
        found = head.read(HEAD % b"%d" % size)
        assert found is not None
        with contextlib.nullcontext() if fits else pytest.raises(HeadersTooLarge):
            read_headers(found[0], max_bytes=most)


def test_what_is_made_of_headers_is_made_once_for_a_head_and_never_for_another() -> None:
    """Not for the same head where other headers are read; what raises is made again."""
    made: list[bytes] = []

    def read(data: bytes, names: frozenset[bytes] = READ_HEADERS) -> Headers:
        head = of_key[data.partition(b"Bearer ")[2][:1]]
        assert head is not None
        found = head.read(data)
        assert found is not None
        return read_headers(found[0], max_bytes=1000, names=names)

    def make(headers: Headers) -> bytes:
        made.append(headers[b"authorization"])
        if len(made) == 1:
            raise ValueError
        return made[-1]

    heads = [(HEAD % b"5").replace(b"Bearer k", b"Bearer %b" % key) for key in (b"k", b"l")]
    of_key = {head[-5:-4]: learn_head(head, Parsed(head).scope()) for head in heads}
    with pytest.raises(ValueError, match=r"^$"):
        read(heads[0]).derived(make)
    for _ in range(3):
        assert read(heads[0]).derived(make) == b"Bearer k"
        assert read(heads[1].replace(b": 5", b": 70")).derived(make) == b"Bearer l"
    assert made == [b"Bearer k", b"Bearer k", b"Bearer l"]
    assert read(heads[0], READ_HEADERS | {b"x-more"}).derived(make) == b"Bearer k"
    assert len(made) == 4


@pytest.mark.parametrize(
    "data",
    [
        HEAD % b"4" + b"first",  # the beginning of another request
        HEAD % b"0",
        HEAD % b"05" + b"first",
        HEAD % b"+5" + b"first",
        HEAD % b" 5" + b"first",
        HEAD % b"5 " + b"first",
        HEAD % b"1_0" + b"first",
        HEAD % b"5\r\nX: y" + b"first",
        HEAD % b"5\r\nContent-Length: 6" + b"first",
        HEAD % b"123456789" + b"first",
        HEAD % b"\xb2" + b"first",
        HEAD % b"" + b"first",
        (HEAD % b"5")[:-1],
        (HEAD % b"5").replace(b"Bearer k", b"Bearer l") + b"first",
        (HEAD % b"5").replace(b"/v1/chat", b"/v1/chaT") + b"first",
        b"\r\n" + HEAD % b"5" + b"first",
        b"",
    ],
)
def test_anything_else_is_for_the_parser(data: bytes) -> None:
    """Another head, or one whose length is not plain; more than one request."""
    first = HEAD % b"5" + b"first"
    head = learn_head(first, Parsed(first).scope())
    assert head is not None
    assert head.read(data) is None


@pytest.mark.parametrize(
    "data",
    [
        HEAD % b"5\r\nExpect: 100-continue",
        (HEAD % b"5").replace(b"1.1", b"1.0") + b"first",
        (HEAD % b"5").replace(b"POST", b"PUT") + b"first",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n",
        b"\r\n" + HEAD % b"5" + b"first",
        HEAD % b"0",
        HEAD % b"05" + b"first",
        HEAD % (b"5\r\nX: " + b"x" * MAX_LEARNED_BYTES),
    ],
)
def test_a_head_that_is_not_plain_is_not_learned(data: bytes) -> None:
    """Of any framing but one `Content-Length`, and what is longer than heads are."""
    assert learned(data) is None


@pytest.mark.parametrize("digits", [b"5\r\nContent-Length: 5", b"05", b"+5"])
def test_a_length_that_a_laxer_parser_accepts_is_not_learned_either(digits: bytes) -> None:
    """The parser itself rejects the first and the last."""
    data = HEAD % digits + b"first"
    lines = [line.split(b": ", 1) for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
    headers = [(name.lower(), value) for name, value in lines]
    assert learn_head(data, {"headers": headers, "http_version": "1.1"}) is None


async def test_a_body_that_came_with_its_head_is_read_once_and_bounded() -> None:
    """As one that `receive` waits for is."""
    cycle = BoundedRequestCycle.__new__(BoundedRequestCycle)
    cycle.disconnected = cycle.response_complete = False
    cycle.take_whole(b"0123456789")
    assert await read_body(cycle.receive, {}, max_bytes=10) == b"0123456789"
    assert cycle.read_whole() is None
    cycle.take_whole(b"0123456789")
    with pytest.raises(BodyTooLarge):
        await read_body(cycle.receive, {}, max_bytes=9)
    cycle.take_whole(gzip.compress(b"x" * 10))
    assert await read_body(cycle.receive, {b"content-encoding": b"gzip"}, max_bytes=40) == b"x" * 10
    cycle.take_whole(b"0123456789")
    cycle.disconnected, cycle.message_event = True, asyncio.Event()
    cycle.message_event.set()
    cycle.waiting_for_100_continue, cycle.flow = False, FlowControl(cast("asyncio.Transport", None))
    with pytest.raises(ClientDisconnected):
        await read_body(cycle.receive, {}, max_bytes=10)
