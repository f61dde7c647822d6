"""ASGI's shapes, and the few answers this room gives itself.

Source: https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from llm_proxy.sidecar.json_text import encoded

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


async def answer(send: Send, status: int, body: object, headers: Headers | None = None) -> None:
    """Send a JSON body."""
    raw = encoded(body)
    fixed = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*(headers or []), *fixed]})
    await send({"type": "http.response.body", "body": raw})


async def read_body(receive: Receive) -> bytes | None:
    """The request's body; None when the caller left before its end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def error(message: str, kind: str, code: str | None) -> dict[str, Any]:
    """An error in OpenAI's envelope."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
