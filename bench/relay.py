"""The floor: a relay that only relays, with plain ASGI and aiohttp, and on demand one Redis script a call.

    python -m bench.relay --port 20002 --upstream http://127.0.0.1:20001 [--redis redis://...]
    python -m bench.relay --port 20002 [--ours]     answers 401 to everybody: what a refusal costs at least,
                                                    on uvicorn's connections or on the gateway's

No key, no limits, no record, no error handling: what any Python gateway on these libraries pays at least.
"""

import argparse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp
import redis.asyncio
import uvicorn
from yarl import URL

from llm_proxy.edge.wire import Connection

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


REFUSAL = b'{"error":{"message":"No.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}'


class Relay:
    """The relay as an ASGI application."""

    def __init__(self, upstream: str | None, redis_url: str | None) -> None:
        self._base = upstream
        self._redis_url = redis_url
        self._session: aiohttp.ClientSession
        self._redis: Any = None
        self._sha = ""
        self._calls = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._base is None:
            await _refuse(send)
        else:
            await self._relay(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        if self._redis_url is not None:
            self._redis = redis.asyncio.from_url(self._redis_url)
            self._sha = await self._redis.script_load(SCRIPT)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._session.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _relay(self, scope: Message, receive: Receive, send: Send) -> None:
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        if self._redis is not None:
            self._calls += 1
            await self._redis.evalsha(self._sha, 1, "bench:relay", 1_000_000_000, self._calls)
        headers = {"content-type": "application/json", "authorization": "Bearer bench"}
        url = URL(f"{self._base}{scope['path']}", encoded=True)
        async with self._session.post(url, data=body, headers=headers) as answer:
            kind = answer.headers.get("content-type", "application/json").encode()
            if kind.startswith(b"text/event-stream"):
                await send(
                    {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}
                )
                async for part in answer.content.iter_any():
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
                return
            out = await answer.read()
            head = [(b"content-type", kind), (b"content-length", b"%d" % len(out))]
            await send({"type": "http.response.start", "status": answer.status, "headers": head})
            await send({"type": "http.response.body", "body": out})


async def _refuse(send: Send) -> None:
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(REFUSAL))]
    await send({"type": "http.response.start", "status": 401, "headers": head})
    await send({"type": "http.response.body", "body": REFUSAL})


def main() -> None:
    """Serve until killed."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--upstream")
    arguments.add_argument("--redis")
    arguments.add_argument("--ours", action="store_true")
    given = arguments.parse_args()
    uvicorn.run(
        Relay(given.upstream, given.redis),
        host="127.0.0.1",
        port=given.port,
        loop="uvloop",
        http=Connection if given.ours else "httptools",
        log_level="error",
        access_log=False,
        backlog=4096,
    )


if __name__ == "__main__":
    main()
