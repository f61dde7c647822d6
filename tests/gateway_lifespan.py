"""A gateway that runs in the test's own process, without a server."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from llm_proxy.app import Gateway


@asynccontextmanager
async def lifespan(gateway: Gateway) -> AsyncGenerator[None]:
    """The gateway started, and stopped at the end, as a server does it."""
    sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    reported: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    app: Any = gateway.asgi
    running = asyncio.create_task(app({"type": "lifespan", "asgi": {}}, sent.get, reported.put))
    await sent.put({"type": "lifespan.startup"})
    assert (await reported.get())["type"] == "lifespan.startup.complete"
    yield
    await sent.put({"type": "lifespan.shutdown"})
    await running
