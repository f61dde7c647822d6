"""The least a relay in Python can do: callbacks on bytes, no ASGI, no tasks, no client library.

    python -m bench.least --port 20002 --upstream 20001 --redis redis://...

One Redis script a call, then the caller's path and body go upstream and what comes back goes back as it is.
No key, no limits, no record, no error handling: it shows what the machine and the loop leave.
"""

import argparse
import asyncio
from collections import deque
from typing import cast
from urllib.parse import urlsplit

import hiredis
import httptools
import uvloop

from bench.asked import Asked
from bench.relay import SCRIPT

LIMIT = 1_000_000_000
HEAD = b"POST %b HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


class Redis(asyncio.Protocol):
    """The connection to the store; replies come in order."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._waiting: deque[Caller | None] = deque()
        self._transport: asyncio.Transport
        self._calls = 0
        self._sha = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Replies: whoever asked goes on."""
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            caller = self._waiting.popleft()
            if caller is not None:
                caller.forward()
            elif isinstance(reply, bytes) and reply != b"OK":
                self._sha = reply

    def say(self, *words: str | bytes | int, caller: "Caller | None" = None) -> None:
        """Send a command."""
        self._waiting.append(caller)
        raw = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub means tuples of one
        self._transport.write(raw)

    def count(self, caller: "Caller") -> None:
        """Run the script for a call."""
        self._calls += 1
        self.say("EVALSHA", self._sha, 1, "bench:least", LIMIT, self._calls, caller=caller)


class Upstream(asyncio.Protocol):
    """A connection to the upstream, for one call at a time."""

    def __init__(self, idle: "list[Upstream]") -> None:
        self._idle = idle
        self._caller: Caller
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, caller: "Caller", request: bytes) -> None:
        """Send a request; what is answered goes to the caller."""
        self._caller, self._parser = caller, httptools.HttpResponseParser(self)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer; the parser only finds its end."""
        self._caller.transport.write(data)
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """The parser's word: the answer is whole."""
        self._idle.append(self)


class Caller(Asked):
    """A caller's connection."""

    def __init__(self, redis: Redis, idle: list[Upstream], upstream: int) -> None:
        super().__init__()
        self._redis, self._idle, self._upstream = redis, idle, upstream
        self._connecting: asyncio.Task[None] | None = None

    def asked(self) -> None:
        """Count it first."""
        self._redis.count(self)

    def forward(self) -> None:
        """Counted: on to the upstream."""
        if self._idle:
            self._idle.pop().ask(self, self._request())
        else:
            self._connecting = asyncio.create_task(self._connect())

    def _request(self) -> bytes:
        return HEAD % (self.url, len(self.body)) + self.body

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(lambda: Upstream(self._idle), "127.0.0.1", self._upstream)
        made.ask(self, self._request())


async def main(port: int, upstream: int, redis_url: str) -> None:
    """Serve until killed."""
    where, loop = urlsplit(redis_url), asyncio.get_running_loop()
    _, redis = await loop.create_connection(Redis, where.hostname or "127.0.0.1", where.port or 6379)
    redis.say("AUTH", where.password or "")
    redis.say("SCRIPT", "LOAD", SCRIPT)
    idle: list[Upstream] = []
    server = await loop.create_server(lambda: Caller(redis, idle, upstream), "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--upstream", type=int, required=True)
    arguments.add_argument("--redis", required=True)
    given = arguments.parse_args()
    uvloop.run(main(given.port, given.upstream, given.redis))
