"""A server ends as soon as `end` is called, also one that never ticks."""

import asyncio
import socket

import uvicorn

from llm_proxy.http_server import PromptServer


async def _app(_scope: object, _receive: object, _send: object) -> None:
    """Serves nothing."""


async def test_a_server_that_does_not_tick_ends_at_once() -> None:
    """It serves until then, and without a tick nothing else wakes it."""
    bound = socket.create_server(("127.0.0.1", 0))
    server = PromptServer(uvicorn.Config(_app, lifespan="off", log_config=None), tick_s=None)
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    async with asyncio.timeout(10):
        while not server.started:  # noqa: ASYNC110 -- uvicorn has no event for it
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        assert not serving.done()
        server.end()
        await serving
    assert bound.fileno() == -1
