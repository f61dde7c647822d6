"""A server ends when it is told to, without looking for the order."""

import asyncio
import socket

import uvicorn

from llm_proxy.http_server import PromptServer


async def _app(_scope: object, _receive: object, _send: object) -> None:
    """Serves nothing."""


async def test_a_server_that_does_not_tick_ends_at_once() -> None:
    bound = socket.create_server(("127.0.0.1", 0))
    server = PromptServer(uvicorn.Config(_app, lifespan="off", log_config=None), tick_s=None)
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    async with asyncio.timeout(10):
        while not server.started:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        server.end()
        await serving
