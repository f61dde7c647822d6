"""Cancels a call when its caller hangs up; LiteLLM does so for chats, text completions and embeddings alone.

Invariants: the caller is watched from the end of its request to the end of the answer; a cancelled call has
ended, and its provider's connection is closed, when this returns.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from llm_proxy.sidecar.http_protocol import request_of
from llm_proxy.sidecar.responses import App, Message, Receive, Scope, Send

T = TypeVar("T")


async def cancel_on_disconnect(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    """Run an ASGI application for one request; raise what it raises."""
    request_ended = asyncio.Event()

    async def receive_and_note() -> Message:
        message = await receive()
        if not message.get("more_body", False):
            request_ended.set()
        return message

    async def until_disconnect() -> None:
        await request_ended.wait()
        while (await receive())["type"] != "http.disconnect":
            pass

    async def run() -> None:
        await app(scope, receive_and_note, send)

    call, watch = asyncio.create_task(run()), asyncio.create_task(until_disconnect())
    try:
        await asyncio.wait((call, watch), return_when=asyncio.FIRST_COMPLETED)
        if call.done():
            call.result()
    finally:
        for task in (call, watch):
            task.cancel()
        await asyncio.gather(call, watch, return_exceptions=True)


async def unless_disconnected(sending: Awaitable[T], receive: Receive) -> T | asyncio.CancelledError:
    """Return what an awaitable returns; `CancelledError` if the caller hangs up before it."""
    cycle, task, left = request_of(receive), asyncio.current_task(), False
    if cycle is None or task is None:
        return await sending

    def leave() -> None:
        nonlocal left
        left = True
        task.cancel()

    if cycle.disconnected:
        leave()
    cycle.on_leave = leave
    try:
        return await sending
    except asyncio.CancelledError as error:
        if not left:
            raise
        task.uncancel()
        return error
    finally:
        cycle.on_leave = None
