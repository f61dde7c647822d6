"""The end of a provider's stream: its last event ends it, whatever becomes of the connection after that."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

DRAIN_TIMEOUT_S = 0.5
"""After a stream's last event, for the rest of the body: then the connection can be used again."""


async def read_to_end(
    chunks: AsyncIterator[bytes], is_complete: Callable[[], bool], close: Callable[[], Awaitable[None]]
) -> AsyncGenerator[bytes]:
    """Yield the chunks of a body; once its stream is complete only what comes soon, and no failure.

    Args:
        chunks: The body as it comes.
        is_complete: Whether the stream's last event was among them.
        close: Closes a connection that stays open, or breaks, after that.
    """
    ends_at_s: float | None = None
    while True:
        if ends_at_s is None and is_complete():
            ends_at_s = asyncio.get_running_loop().time() + DRAIN_TIMEOUT_S
        try:
            async with asyncio.timeout_at(ends_at_s):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except Exception:
            if ends_at_s is None:
                raise
            await close()
            return
        yield chunk
