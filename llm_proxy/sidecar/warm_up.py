"""The first calls, made by the process to itself before anybody waits: they cost LiteLLM about a second.

Invariants: they go through the doors to a responder of our own on the loopback, and leave no deployment
behind; a warm-up that fails costs the first caller that second and nothing else.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from llm_proxy.json_access import Json
from llm_proxy.sidecar import seams
from llm_proxy.sidecar.asgi import App, Message, Scope
from llm_proxy.sidecar.call_row import OUR_OWN

NAME = OUR_OWN
CHAT: Json = {
    "model": NAME,
    "messages": [{"role": "user", "content": "ready?"}],
    "cache": {"no-store": True},
    "no-log": True,
}
CALLS: tuple[tuple[str, Json], ...] = (
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/embeddings", {"model": NAME, "input": "ready?", "cache": {"no-store": True}, "no-log": True}),
)
PATIENCE_S = 10


async def warm_up(app: App, key: str) -> None:
    """Make one call of each kind."""
    async with _responder() as port:
        router = seams.router()
        if router is None:
            return
        params = {"model": f"openai/{NAME}", "api_base": f"http://127.0.0.1:{port}/v1", "api_key": "none"}
        router.add_deployment(seams.deployment(NAME, params))
        try:
            async with asyncio.timeout(PATIENCE_S):
                for path, body in CALLS:
                    await _call(app, key, path, json.dumps(body).encode())
        except TimeoutError:
            print("sidecar: the warm-up took too long; serving", file=sys.stderr, flush=True)  # noqa: T201 -- the log of this part
        finally:
            router.delete_deployment(id=NAME)


async def _call(app: App, key: str, path: str, body: bytes) -> None:
    unread = [body]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            print(f"sidecar: warm-up: {path} answered {message['status']}", file=sys.stderr, flush=True)  # noqa: T201 -- the same

    headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-length", str(len(body)).encode())]
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
        "state": {},
    }
    await app(scope, receive, send)


@asynccontextmanager
async def _responder() -> AsyncGenerator[int]:
    """A provider that says one word; its port."""
    server = await asyncio.start_server(_respond, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
    asked: Json = json.loads(await reader.readexactly(size)) if size else {}
    media = "text/event-stream" if asked.get("stream") else "application/json"
    raw = _words("input" in asked, bool(asked.get("stream")))
    writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {media}\r\ncontent-length: {len(raw)}\r\n".encode())
    writer.write(b"connection: close\r\n\r\n" + raw)
    await writer.drain()
    writer.close()


def _words(embedding: bool, stream: bool) -> bytes:  # noqa: FBT001 -- what was asked for
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    if embedding:
        data = [{"object": "embedding", "index": 0, "embedding": [0.0]}]
        return json.dumps({"object": "list", "model": NAME, "data": data, "usage": usage}).encode()
    chunk: Json = {"id": "warm", "object": "chat.completion.chunk", "created": 1, "model": NAME}
    if not stream:
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        return json.dumps(
            {**chunk, "object": "chat.completion", "choices": [choice], "usage": usage}
        ).encode()
    choices = [{"index": 0, "delta": {"role": "assistant", "content": "yes"}, "finish_reason": None}]
    end: list[Json] = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    frames: list[Json] = [
        {**chunk, "choices": choices},
        {**chunk, "choices": end},
        {**chunk, "choices": [], "usage": usage},
    ]
    return (
        b"".join(b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames) + b"data: [DONE]\n\n"
    )
