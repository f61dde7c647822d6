"""The body of a provider's answer, taken at once as it comes, without a task that waits for it.

Invariants: aiohttp's protocol keeps the connection and its parser; it gets every byte but whole chunks, and
those only while its parser is known to stand between two; it is the transport's protocol again, with its
timer, before the connection serves another request; what breaks a body off is raised by the next read.
"""

import asyncio
from collections.abc import Callable

from llm_proxy.sidecar.litellm_internals import Untyped

EVENT_BEGINS = (b"data:", b"event:")
"""No chunk's size begins so: a parser that made such bytes stood before a size, not within a chunk."""
MAX_SIZE_CHARS = 9
"""Of a chunk's size and the end of its line, as far as is looked."""
ZERO = ord("0")
MIN_WAIT_S = 0.001
EXPIRED_S = 1e-9
"""A time without bytes for aiohttp's timer, which is over at once."""


async def take_each(response: Untyped, take: Callable[[bytes], bool]) -> None:
    """Call a function with the bytes of a body as they come, until it returns False or no more may come.

    Args:
        response: The answer, as aiohttp's client returned it; nothing else reads its body meanwhile.
        take: It may not wait; what it raises is raised here.
    """
    connection = response.connection
    transport = connection.transport if connection is not None else None
    if transport is None or transport.is_closing():
        return
    tap = _Tap(transport, transport.get_protocol(), response.content, take)
    transport.set_protocol(tap)
    try:
        tap.pass_on()
        await tap.ended
    finally:
        tap.close()


def whole_chunks(data: bytes) -> bytes | None:
    """Return the body's bytes in chunks of HTTP, none the last; None unless `data` is whole chunks alone."""
    begin = data.find(b"\r\n", 0, MAX_SIZE_CHARS) + 2
    size = len(data) - begin - 2
    if size > 0 and data.endswith(b"\r\n") and data.startswith(b"%x\r\n" % size):
        return data[begin:-2]  # one chunk, as most often: half the time of what follows
    at, end = 0, len(data)
    parts: list[bytes] = []
    while at < end:
        begin = data.find(b"\r\n", at, at + MAX_SIZE_CHARS) + 2
        digits = data[at : begin - 2]
        if begin == 1 or not digits.isalnum() or digits[0] == ZERO:
            return None
        try:
            at = begin + int(digits, 16)
        except ValueError:
            return None
        if not data.startswith(b"\r\n", at):
            return None
        parts.append(data[begin:at])
        at += 2
    return b"".join(parts)


class _Tap(asyncio.Protocol):
    """Passes everything on to aiohttp's protocol, and the bytes of its body to a function.

    Attributes:
        ended: Done once no more is taken.
    """

    def __init__(
        self, transport: asyncio.Transport, inner: Untyped, body: Untyped, take: Callable[[bytes], bool]
    ) -> None:
        loop = asyncio.get_running_loop()
        self._transport, self._inner, self._body, self._take = transport, inner, body, take
        self.ended: asyncio.Future[None] = loop.create_future()
        self._is_between_chunks = False
        self._call_later, self._now = loop.call_later, loop.time
        self._timer: asyncio.TimerHandle | None = None
        self._limit_s: float | None = self._inner.read_timeout
        self._heard_s = self._now()
        self._inner.read_timeout = None
        self._inner.start_timeout()  # none now: it would be set anew for each chunk
        if self._limit_s:
            self._timer = self._call_later(self._limit_s, self._look, self._limit_s)

    def _look(self, limit_s: float) -> None:
        """Let aiohttp's timer run out, if no bytes came for so long."""
        left_s = self._heard_s + limit_s - self._now()
        if left_s > 0:
            self._timer = self._call_later(max(left_s, MIN_WAIT_S), self._look, limit_s)
            return
        self._inner.read_timeout = EXPIRED_S
        self._inner.start_timeout()
        self._timer = self._call_later(MIN_WAIT_S, self._look_for_failure)

    def _look_for_failure(self) -> None:
        """Take no more once aiohttp's timer has run out, which no protocol sees."""
        self._timer = self._call_later(MIN_WAIT_S, self._look_for_failure)
        self.pass_on()

    def pass_on(self) -> bytes:
        """Hand the bytes over that have come; return the last of them."""
        last = b""
        while not self.ended.done():
            try:
                chunk: bytes = self._body.read_nowait()
            except Exception:  # noqa: BLE001 -- the next read raises it
                self.close()
                break
            if not chunk:
                if self._body.is_eof():
                    self.close()
                break
            last = chunk
            self._give(chunk)
        return last

    def _give(self, chunk: bytes) -> None:
        try:
            if self._take(chunk):
                return
        except Exception as error:  # noqa: BLE001 -- raised where the bytes are taken
            self.ended.set_exception(error)
        self.close()

    def close(self) -> None:
        """Take no more."""
        if self._transport.get_protocol() is self:
            self._transport.set_protocol(self._inner)
            self._return_timer()
        if not self.ended.done():
            self.ended.set_result(None)

    def _return_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._inner.read_timeout = self._limit_s
        if self._inner.connected and not self._body.is_eof() and self._body.exception() is None:
            self._inner.start_timeout()

    def data_received(self, data: bytes) -> None:
        """Pass bytes of the connection on."""
        self._heard_s = self._now()
        body = whole_chunks(data)
        if body is not None and self._is_between_chunks:
            self._give(body)
            return
        self._inner.data_received(data)
        given = self.pass_on()
        self._is_between_chunks = given == body and given.startswith(EVENT_BEGINS)

    def eof_received(self) -> bool | None:
        """Pass the end of the provider's bytes on."""
        keeps_open: bool | None = self._inner.eof_received()
        return keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the end of the connection on."""
        self._inner.connection_lost(exc)
        self.pass_on()
        self.close()

    def pause_writing(self) -> None:
        """Pass it on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._inner.resume_writing()
