"""The events of one streamed call that LiteLLM makes as a whole one, on their way to the caller.

LiteLLM chooses, retries, logs and prices the call as it does any other; its answer comes when the stream has
ended. Invariants: events pass in order, one write at a time, no faster than the caller reads; a call of which
an event was passed is never made again.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine

from llm_proxy.quantities import usage_comment
from llm_proxy.sidecar.event_stream import BROKEN_EVENT
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.provider_errors import StatedFailure


class EventChannel:
    """Between the code that reads a provider's stream and the code that sends it.

    Attributes:
        started: Whether an event was passed.
        failure: What broke the stream after its first event; None if nothing did.
    """

    def __init__(self) -> None:
        self._waiting = deque[bytes]()
        self._changed, self._taken = asyncio.Event(), asyncio.Event()
        self._ended = False
        self.started = False
        self.failure: StatedFailure | None = None

    async def put(self, frames: bytes) -> None:
        """Pass complete frames on; return when they were taken."""
        self.started = True
        self._waiting.append(frames)
        self._changed.set()
        while self._waiting:
            self._taken.clear()
            await self._taken.wait()

    def end(self) -> None:
        """Pass nothing more."""
        self._ended = True
        self._changed.set()

    async def take(self) -> bytes | None:
        """Return the next frames; None after the last."""
        while not self._waiting:
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        frames = self._waiting.popleft()
        self._taken.set()
        return frames


class StreamedCall:
    """A running call of LiteLLM's and the events that it passes."""

    def __init__(self, call: Coroutine[Untyped, Untyped, Untyped], channel: EventChannel) -> None:
        self._task = asyncio.create_task(call)
        self._task.add_done_callback(lambda _: channel.end())
        self._channel = channel
        self._first: bytes | None = None

    async def begin(self) -> bool:
        """Wait for the first event; return False if the call ended without one."""
        try:
            self._first = await self._channel.take()
        except BaseException:
            await self._stop()
            raise
        return self._first is not None

    def result(self) -> Untyped:
        """Return what LiteLLM's function returned for a call without an event, or raise its error."""
        return self._task.result()

    async def events(
        self, state_usage: Callable[[Untyped], str | None], on_error: Callable[[BaseException], None]
    ) -> AsyncGenerator[bytes]:
        """Yield the events, then what the call used, read from LiteLLM's result; or an error event."""
        try:
            frames = self._first
            while frames is not None:
                yield frames
                frames = await self._channel.take()
            yield usage_comment(state_usage(await self._task))
        except Exception as error:  # noqa: BLE001 -- whatever broke the stream
            on_error(error)
            yield BROKEN_EVENT
        finally:
            await self._stop()

    async def _stop(self) -> None:
        """End the call, if it still runs: its provider's connection is closed when this returns."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
