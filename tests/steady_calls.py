"""Calls that begin one after the other at a steady pace, however long each takes."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def steady_calls(
    every_s: float, call: Callable[[int], Coroutine[Any, Any, None]]
) -> AsyncGenerator[None]:
    """Begins a call every `every_s` until the block ends, then waits for all; `call` gets its number."""
    over, running = asyncio.Event(), list[asyncio.Task[None]]()

    async def begin() -> None:
        while not over.is_set():
            running.append(asyncio.create_task(call(len(running))))
            await asyncio.sleep(every_s)

    beginning = asyncio.create_task(begin())
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(beginning, *running)
