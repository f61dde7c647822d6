"""The first thing a connection meets: hot doors by exact path, everything else to FastAPI.

Invariants: the path is compared as it was sent, undecoded; nothing is redirected or normalised; a request
body is never read for a path or a method that does not exist, nor after a head two readers could read
differently. Pure ASGI.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from llm_proxy.edge.doors import BY_PATH
from llm_proxy.edge.request import Message, Receive, Scope, Send, check_head
from llm_proxy.edge.respond import refusal_headers, send_json
from llm_proxy.edge.serve import Serve
from llm_proxy.errors import BadRequest, MethodNotAllowed, Refused
from llm_proxy.telemetry import uuid7

App = Callable[[Any, Any, Any], Awaitable[None]]


class Front:
    """The gateway as one ASGI application."""

    def __init__(self, serve: Serve, rest: App) -> None:
        self._serve = serve
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        try:
            check_head(scope)
        except BadRequest as refused:
            await _refuse(send, refused)
            return
        door = BY_PATH.get(scope["raw_path"])
        if door is None:
            await self._rest(scope, receive, _tagged(send))
        elif scope["method"] == "POST":
            await self._serve(door, scope, receive, send)
        else:
            await _refuse(send, MethodNotAllowed("This path takes POST.", headers=(("allow", "POST"),)))


async def _refuse(send: Send, refused: Refused) -> None:
    headers = refusal_headers(refused)
    headers.append((b"x-request-id", str(uuid7()).encode()))
    await send_json(send, refused.status, orjson.dumps(refused.body()), headers)


def _tagged(send: Send) -> Send:
    """Every response has a request id, whoever answers."""

    async def tagged(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            if not any(name.lower() == b"x-request-id" for name, _ in headers):
                message["headers"] = [*headers, (b"x-request-id", str(uuid7()).encode())]
        await send(message)

    return tagged
