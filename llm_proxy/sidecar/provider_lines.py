"""The events of a provider's streamed body, as the lines that LiteLLM's parsers read.

Invariants: LiteLLM gets the same lines however the body is chunked; an event that was read and not yet taken
as a line can be taken as bytes; an exception of the connection comes after all events before it.
"""

import re
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from llm_proxy.sidecar.event_stream import EventDecoder, ServerSentEvent

MAX_HELD_BYTES = 2**20
"""Of an event whose end has not come; a longer one goes to the decoder, which bounds it."""
LINE_END = re.compile(rb"[\r\n]")
BEGUN_EVENT = re.compile(rb"(?:event:[^\r\n]*\r?\n)?(?:data:[^\r\n]*(?:\r?\n)?)?")
"""Matches a begun event of which the decoder makes nothing yet."""


class Chunks(Protocol):
    """A body that is read as it comes."""

    def __anext__(self) -> Awaitable[bytes]:
        """Return the next bytes."""
        ...

    def aclose(self) -> Awaitable[None]:
        """Close the body."""
        ...


class ProviderLines:
    """An asynchronous iterator of lines: one for each event.

    Attributes:
        taken: The bytes of each event that was taken as a line since the list was cleared, without the empty
            line; None for an event that came otherwise. Nothing is kept before the list is made.
    """

    def __init__(self, chunks: Chunks, line_of: Callable[[ServerSentEvent], str]) -> None:
        """Create it.

        Args:
            chunks: The body.
            line_of: Returns the line for an event, or raises the failure it states.
        """
        self._chunks = chunks
        self._line_of = line_of
        self._decoder = EventDecoder()
        self._events = deque[ServerSentEvent]()
        self.separator, self._begun, self._other = b"\n\n", b"", b""
        self._ended = self._flushed = False
        self._failure: Exception | None = None
        self._blocks = deque[bytes]()
        self.taken: list[bytes | None] | None = None

    def __aiter__(self) -> "ProviderLines":
        """Return itself."""
        return self

    async def __anext__(self) -> str:
        """Return the next line; raise what broke the body off, or the failure that an event states."""
        while not self._events:
            if self._blocks:
                block = self._blocks.popleft()
                self._keep(self._decoder.feed_block(block, self.separator), block)
            elif self._other:
                rest, self._other = self._other, b""
                self._keep(self._decoder.feed(rest))
            elif not self._ended:
                await self.read()
            elif self._failure is not None or self._flushed:
                raise self._failure or StopAsyncIteration
            else:
                self._flushed = True
                self._keep(self._decoder.flush())
        return self._line_of(self._events.popleft())

    async def aclose(self) -> None:
        """Close the body."""
        await self._chunks.aclose()

    def _keep(self, events: list[ServerSentEvent], block: bytes | None = None) -> None:
        self._events.extend(events)
        if self.taken is not None:
            self.taken += [block] if len(events) == 1 else [None] * len(events)

    @property
    def next_event(self) -> bytes | None:
        """The bytes of the next event; None if it is not read, or is not known to be a whole one."""
        is_whole = self._blocks and not self._events and self._decoder.is_between_events
        return self._blocks[0] if is_whole else None

    def drop_event(self) -> None:
        """Take the next event away."""
        self._blocks.popleft()

    def take_event(self) -> None:
        """Take the next event, which is one line of data, as if it were taken as a line."""
        self._decoder.skip_event()
        block = self._blocks.popleft()
        if self.taken is not None:
            self.taken.append(block)

    def put_back(self, event: bytes) -> None:
        """Put an event before the next one."""
        self._blocks.appendleft(event)

    @property
    def is_between_events(self) -> bool:
        """Whether everything was taken, and the next byte begins an event."""
        return self.is_drained and not self._begun and self._decoder.is_between_events

    @property
    def is_drained(self) -> bool:
        """Whether everything that was read was taken, but for the begin of an event."""
        return not (self._blocks or self._events or self._other)

    async def read(self) -> bool:
        """Read a chunk of the body, once the lines are drained; return False at its end."""
        if self._ended:
            return False
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._ended, self._other, self._begun = True, self._begun, b""
            return False
        except Exception as error:  # noqa: BLE001 -- raised once all events were taken
            self._ended, self._failure = True, error
            return False
        self.feed(chunk)
        return True

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body; the decoder gets those that do not begin between two events."""
        data, self._begun = self._begun + chunk, b""
        if not self._decoder.is_between_events:
            self._other = data
            return
        if b"\r\n\r\n" in data:
            self.separator = b"\r\n\r\n"
        *blocks, rest = data.split(self.separator)
        self._blocks.extend(blocks)
        if not rest:
            return
        held = not LINE_END.search(rest) or BEGUN_EVENT.fullmatch(rest)
        if held and len(rest) <= MAX_HELD_BYTES:
            self._begun = rest
        else:
            self._other = rest
