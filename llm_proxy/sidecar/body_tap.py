"""The body of a provider's answer, taken at once as it comes, without a task that waits for it.

Invariants: aiohttp's protocol gets every byte first, and keeps the connection, its parser and its timeouts;
it is the transport's protocol again before the connection serves another request; what breaks a body off is
raised by the next read.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from llm_proxy.sidecar.litellm_internals import Untyped


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
    tap = _Tap(transport, response.content, take)
    transport.set_protocol(tap)
    end = asyncio.ensure_future(response.content.wait_eof())  # fails at a timeout, which no protocol sees
    end.add_done_callback(tap.end)
    try:
        tap.pass_on()
        await tap.ended
    finally:
        tap.close()
        end.cancel()


class _Tap(asyncio.Protocol):
    """Passes everything on to aiohttp's protocol, and the bytes of its body to a function.

    Attributes:
        ended: Done once no more is taken.
    """

    def __init__(self, transport: asyncio.Transport, body: Untyped, take: Callable[[bytes], bool]) -> None:
        self._transport, self._body, self._take = transport, body, take
        self._inner = cast("asyncio.Protocol", transport.get_protocol())
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def pass_on(self) -> None:
        """Hand the bytes over that have come."""
        if self.ended.done():
            return
        try:
            while chunk := self._body.read_nowait():
                if not self._take(chunk):
                    break
            else:
                if not self._body.is_eof():
                    return
        except Exception as error:  # noqa: BLE001 -- the task that waits raises it
            if self._body.exception() is None:
                self.ended.set_exception(error)
        self.close()

    def close(self) -> None:
        """Take no more."""
        if self._transport.get_protocol() is self:
            self._transport.set_protocol(self._inner)
        if not self.ended.done():
            self.ended.set_result(None)

    def end(self, end: "asyncio.Task[None]") -> None:
        """Take no more: the body has ended, or is broken off."""
        if not end.cancelled():
            end.exception()  # the next read raises it
        self.close()

    def data_received(self, data: bytes) -> None:
        """Pass bytes of the connection on."""
        self._inner.data_received(data)
        self.pass_on()

    def eof_received(self) -> bool | None:
        """Pass the end of the provider's bytes on."""
        return self._inner.eof_received()

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
