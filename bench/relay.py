"""The floor: a relay that only relays, with plain ASGI and aiohttp, and on demand one Redis script a call.

    python -m bench.relay --port 20002 --upstream http://127.0.0.1:20001 [--redis redis://...]
    python -m bench.relay --port 20002        answers 401 to everybody: the least a rejection costs

No key, no limits, no record, no error handling: what any Python gateway on these libraries pays at least.
"""

import argparse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp
import redis.asyncio
import uvicorn
from yarl import URL

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
SCRIPT = """
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 60000)
local used = redis.call('ZCARD', KEYS[1])
if used < tonumber(ARGV[1]) then
  redis.call('ZADD', KEYS[1], now, ARGV[2])
  redis.call('PEXPIRE', KEYS[1], 60000)
end
return used
"""
"""A sliding window of requests, the least a shared limit needs."""
REJECTION = (
    b'{"error":{"message":"No.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}'
)
HEADERS = {"content-type": "application/json", "authorization": "Bearer bench"}


class Relay:
    """The relay as an ASGI application."""

    def __init__(self, upstream: str | None, redis_url: str | None) -> None:
        self._upstream = upstream
        self._redis: Any = redis.asyncio.from_url(redis_url) if redis_url else None
        self._session: aiohttp.ClientSession
        self._sha, self._calls = "", 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serves one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._upstream is None:
            await _send(send, 401, b"application/json", REJECTION)
        else:
            await self._relay(scope["path"], receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        connector, jar = aiohttp.TCPConnector(limit=0), aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(
            connector=connector, auto_decompress=False, cookie_jar=jar
        ) as self._session:
            if self._redis is not None:
                self._sha = await self._redis.script_load(SCRIPT)
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _relay(self, path: str, receive: Receive, send: Send) -> None:
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        if self._redis is not None:
            self._calls += 1
            await self._redis.evalsha(self._sha, 1, "bench:relay", 1_000_000_000, self._calls)
        url = URL(f"{self._upstream}{path}", encoded=True)
        async with self._session.post(url, data=body, headers=HEADERS) as answer:
            kind = answer.headers.get("content-type", "application/json").encode()
            if not kind.startswith(b"text/event-stream"):
                await _send(send, answer.status, kind, await answer.read())
                return
            head = [(b"content-type", kind)]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            async for part in answer.content.iter_any():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


async def _send(send: Send, status: int, kind: bytes, body: bytes) -> None:
    head = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serves until killed."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--port", type=int, required=True)
    flags.add_argument("--upstream")
    flags.add_argument("--redis")
    given = flags.parse_args()
    uvicorn.run(
        Relay(given.upstream, given.redis),
        host="127.0.0.1",
        port=given.port,
        loop="uvloop",
        http="httptools",
        log_level="error",
        access_log=False,
        backlog=4096,
    )


if __name__ == "__main__":
    main()
