"""ScriptedApp: an ASGI application whose paths are its behaviours; it notes what it meets."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from llm_proxy.edge.responses import WRITE_CHUNK, send_json, start_stream

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OK: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
SIZED: Message = {**OK, "headers": [(b"content-length", b"4")]}


def part(body: bytes, *, more: bool = False) -> Message:
    """Returns a piece of a response's body."""
    return {"type": "http.response.body", "body": body, "more_body": more}


def _sender(send: Send, how: str) -> Any:
    """Returns what sends messages: the server's `send`, or one around it."""

    async def wrapped(message: Message) -> None:
        await send(message)

    return wrapped if how == "wrapped" else send


class ScriptedApp:
    """The application.

    Attributes:
        events: What it met, in order.
        proceed: Set by a test to let waiting paths continue.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self.proceed = asyncio.Event()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Behaves as the path says."""
        name = scope["path"].strip("/").partition("/")[0] or "hello"
        await getattr(self, f"_{name}", self._hello)(scope, receive, send)

    async def _hello(self, scope: Message, _receive: Receive, send: Send) -> None:
        said = scope["raw_path"]
        await send({**OK, "headers": [(b"content-length", b"%d" % len(said))]})
        await send(part(said))

    async def _echo(self, _scope: Message, receive: Receive, send: Send) -> None:
        """Responds with the body, once it is complete."""
        body, more = b"", True
        self.events.append("reads")
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.events.append("gone")
                return
            body, more = body + message["body"], message["more_body"]
        self.events.append("read")
        await send(OK)
        await send(part(body))

    async def _headers(self, scope: Message, receive: Receive, send: Send) -> None:
        """Responds with the names of the request's headers, once its body is complete."""
        while (await receive())["more_body"]:
            pass
        await send(OK)
        await send(part(b",".join(name for name, _ in scope["headers"])))

    async def _early(self, _scope: Message, _receive: Receive, send: Send) -> None:
        """Responds before it reads the body."""
        await send(SIZED)
        await send(part(b"soon"))

    async def _waits(self, _scope: Message, receive: Receive, send: Send) -> None:
        """Waits for `proceed`, then reads and responds."""
        self.events.append("waits")
        await self.proceed.wait()
        self.events.append((await receive())["type"])
        await send(SIZED)
        await send(part(b"late"))

    async def _streams(self, _scope: Message, _receive: Receive, send: Send) -> None:
        """Sends one piece, and after `proceed` the other."""
        await send(OK)
        await send(part(b"one,", more=True))
        self.events.append("streams")
        await self.proceed.wait()
        await send(part(b"two"))

    async def _listens(self, _scope: Message, receive: Receive, send: Send) -> None:
        """Streams, then waits for its client to disconnect."""
        await send(OK)
        await send(part(b"one,", more=True))
        while (await receive())["type"] != "http.disconnect":
            pass
        self.events.append("gone")
        await send(part(b"two"))

    async def _floods(self, _scope: Message, _receive: Receive, send: Send) -> None:
        """Far more than fits between two sockets."""
        await send(OK)
        self.events.append("floods")
        try:
            for _ in range(32):
                await send(part(b"a" * 2**18, more=True))
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise
        await send(part(b""))
        self.events.append("flooded")

    async def _writes(self, scope: Message, _receive: Receive, send: Send) -> None:
        """A numbered flood: each piece by the extension, or as a message where that does not take it."""
        await send(OK)
        await send(part(b"first", more=True))
        self.events.append("writes")
        write, taken = scope.get("extensions", {}).get(WRITE_CHUNK, {}).get("write"), 0
        for at in range(32):
            if at == 2:
                await self.proceed.wait()
            piece = b"%02d" % at * 2**17
            if write is not None and write(piece):
                taken += 1
            else:
                await send(part(piece, more=True))
        await send(part(b""))
        self.events.append(f"wrote {taken}")

    async def _answers(self, scope: Message, receive: Receive, send: Send) -> None:
        """A whole answer as the gateway sends it; below `/wrapped` in messages, `/odd` with an odd header."""
        how = scope["path"].rpartition("/")[2]
        if scope["method"] == "POST":
            await receive()
        value = b"one" if how != "odd" else b"one\r\nx-two: 2"
        await send_json(_sender(send, how), 200, b'{"whole":true}', [(b"x-request-id", value)])
        self.events.append("answered")

    async def _big(self, _scope: Message, _receive: Receive, send: Send) -> None:
        """A whole answer of far more than fits between two sockets."""
        await send_json(_sender(send, "whole"), 200, b"a" * 2**23, [])

    async def _changes(self, _scope: Message, _receive: Receive, send: Send) -> None:
        """Begins a stream; interrupted while its head waits, answers otherwise after `proceed`."""
        try:
            async with asyncio.timeout(0.05):
                await send(OK)
        except TimeoutError:
            self.events.append("interrupted")
        await self.proceed.wait()
        await send_json(_sender(send, "whole"), 503, b'{"whole":true}', [])

    async def _begins(self, scope: Message, _receive: Receive, send: Send) -> None:
        """A stream as the gateway begins it; below `/wrapped` in messages."""
        sender = _sender(send, scope["path"].rpartition("/")[2])
        is_sent = await start_stream(sender, [(b"x-request-id", b"one")], "text/plain", b"one,")
        if not is_sent:
            await send(part(b"one,", more=True))
        self.events.append(f"began {is_sent}")
        await self.proceed.wait()
        await send(part(b"two"))

    async def _status(self, scope: Message, _receive: Receive, send: Send) -> None:
        """A status with no header at all."""
        status = int(scope["path"].rpartition("/")[2])
        await send({"type": "http.response.start", "status": status})
        await send(part(b"" if status in {204, 304} else b"body"))

    async def _silent(self, _scope: Message, _receive: Receive, _send: Send) -> None:
        """Sends no response."""

    async def _raises(self, _scope: Message, _receive: Receive, _send: Send) -> None:
        raise ValueError("before the head")

    async def _headless(self, _scope: Message, _receive: Receive, send: Send) -> None:
        await send(part(b"no head"))

    async def _twice(self, _scope: Message, _receive: Receive, send: Send) -> None:
        await send(OK)
        await send(OK)

    async def _headed(self, _scope: Message, _receive: Receive, send: Send) -> None:
        await send(SIZED)
        raise ValueError("after the head, before the body")

    async def _half(self, _scope: Message, _receive: Receive, send: Send) -> None:
        await send(OK)
        await send(part(b"half", more=True))
        raise ValueError("within the body")

    async def _stops(self, _scope: Message, _receive: Receive, send: Send) -> None:
        await send(OK)
        await send(part(b"half", more=True))

    async def _long(self, _scope: Message, _receive: Receive, send: Send) -> None:
        await send(SIZED)
        await send(part(b"longer"))

    async def _short(self, _scope: Message, _receive: Receive, send: Send) -> None:
        await send(SIZED)
        await send(part(b"s"))

    async def _shorter(self, _scope: Message, _receive: Receive, send: Send) -> None:
        await send(SIZED)
        await send(part(b"s", more=True))
        await send(part(b""))

    async def _splits(self, scope: Message, _receive: Receive, send: Send) -> None:
        """A header with a line break, or what is taken for one."""
        _, _, kind, *streamed = scope["path"].split("/")
        evil = {"n": b"\n", "r": b"\r", "rn": b"\r\nset-cookie: x", "0": b"\0"}[kind]
        await send({**OK, "headers": [(b"x-a", b"b" + evil)]})
        await send(part(b"split", more=bool(streamed)))

    async def _impossible(self, _scope: Message, _receive: Receive, send: Send) -> None:
        await send({**OK, "status": 999})
        await send(part(b""))

    async def _again(self, _scope: Message, _receive: Receive, send: Send) -> None:
        """Sends more after the end."""
        await send(SIZED)
        await send(part(b"done"))
        await send(part(b"more"))

    async def _leaves(self, _scope: Message, _receive: Receive, send: Send) -> None:
        """Sends a response that closes the connection."""
        await send({**SIZED, "headers": [*SIZED["headers"], (b"connection", b"close")]})
        await send(part(b"last"))
