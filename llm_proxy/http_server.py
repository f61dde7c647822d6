"""The HTTP server of a process that serves: uvicorn's, which is woken to end instead of looking for it.

Invariants: uvicorn's own loop wakes ten times a second; this one once in `TICK_S`, and at once by `end`. A
request that uvicorn's parser has not read begins with what uvicorn itself would have given it.
"""

import asyncio
import contextlib
from itertools import count
from types import FrameType
from typing import Any, TypeVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

TICK_S = 1.0
_UVICORN_TICKS = 10
"""Of uvicorn's ticks, in each of ours."""
_Cycle = TypeVar("_Cycle", bound=RequestResponseCycle)


def new_cycle(
    kind: type[_Cycle],
    protocol: HttpToolsProtocol,
    transport: Any,  # noqa: ANN401 -- a transport, or what stands for one
    *,
    expects: bool,
    keep_alive: bool,
) -> _Cycle:
    """Returns the cycle of the request in `protocol.scope`; `expects`: it waits for `100 Continue`."""
    return kind(
        scope=protocol.scope,
        transport=transport,
        flow=protocol.flow,
        logger=protocol.logger,
        access_logger=protocol.access_logger,
        access_log=protocol.access_log,
        default_headers=protocol.server_state.default_headers,
        message_event=asyncio.Event(),
        expect_100_continue=expects,
        keep_alive=keep_alive,
        on_response=protocol.on_response_complete,
    )


class PromptServer(uvicorn.Server):
    """A server whose `end` takes effect at once."""

    def __init__(self, config: uvicorn.Config, tick_s: float | None = TICK_S) -> None:
        """Without `tick_s` it does not tick: then answers can have no `date`."""
        super().__init__(config)
        self._tick_s = tick_s
        self._ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def end(self) -> None:
        """Stops serving; callable in the handler of a signal."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ended.set)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stops serving; a second SIGINT does not wait for running calls."""
        super().handle_exit(sig, frame)
        self.end()

    async def main_loop(self) -> None:
        """Serves until `end`."""
        self._loop = asyncio.get_running_loop()
        for number in count(step=_UVICORN_TICKS):
            if await self.on_tick(number):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._tick_s):
                    await self._ended.wait()
