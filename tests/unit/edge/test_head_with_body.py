"""A response's head waits for what follows it, and never longer than a turn of the loop."""

import asyncio

from llm_proxy.edge.wire import HeadWithBody

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Noted(asyncio.Transport):
    """A transport that remembers each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def wrapped() -> tuple[HeadWithBody, Noted]:
    transport = Noted()
    return HeadWithBody(transport, asyncio.get_running_loop()), transport


async def test_a_head_and_its_body_are_one_write() -> None:
    """What follows goes out as it comes."""
    joined, transport = wrapped()
    for part in (HEAD, b"ok", b"more"):
        joined.write(part)
    await asyncio.sleep(0)
    assert transport.writes == [HEAD + b"ok", b"more"]


async def test_a_head_alone_leaves_with_the_turn() -> None:
    """A stream's head does not wait for its first frame."""
    joined, transport = wrapped()
    joined.write(HEAD)
    assert transport.writes == []
    await asyncio.sleep(0)
    assert transport.writes == [HEAD]


async def test_two_heads_in_a_row_keep_their_order() -> None:
    """A `100 Continue` goes before the answer."""
    joined, transport = wrapped()
    joined.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    joined.write(HEAD)
    joined.write(b"ok")
    await asyncio.sleep(0)
    assert b"".join(transport.writes) == b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"ok"


async def test_closing_loses_no_head() -> None:
    """What was written before a close is sent."""
    joined, transport = wrapped()
    joined.write(HEAD)
    joined.close()
    assert (transport.writes, transport.closed, joined.is_closing()) == ([HEAD], True, True)
