"""Load on one URL: connections that each send their next request when the last answer is complete.

    python -m bench.load http://127.0.0.1:8080/v1/chat/completions --body '{...}' --connections 16 --seconds 2

Prints one line of JSON, times in milliseconds. Bounded in time and requests; asks loopback addresses only.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field, fields
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

MAX_REQUESTS = 1_000_000
TIMEOUT_S = 30.0


@dataclass(slots=True)
class Result:
    """What was measured; `served` are complete answers, `frames` those of their streams."""

    served: int = 0
    broken: int = 0
    frames: int = 0
    seconds: float = 0.0
    statuses: dict[int, int] = field(default_factory=lambda: defaultdict[int, int](int))
    total_ms: list[float] = field(default_factory=list[float])
    first_ms: list[float] = field(default_factory=list[float])


class Connection(asyncio.Protocol):
    """One connection; sends again and again until the load ends."""

    def __init__(self, request: bytes, load: "Load") -> None:
        self._request, self._load = request, load
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._sent = self._first = 0.0
        self._frames = 0
        self._waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The first request leaves."""
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """An answer that was still owed counts as broken."""
        self._load.result.broken += self._waiting
        self._load.closed()

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        """Called by the parser."""
        self._first = self._first or time.perf_counter()
        self._frames += part.count(b"data: ")

    def on_message_complete(self) -> None:
        """Called by the parser: the answer is complete."""
        now, result, loop = time.perf_counter(), self._load.result, asyncio.get_running_loop()
        self._waiting = False
        result.served += 1
        result.frames += self._frames
        result.statuses[self._parser.get_status_code()] += 1
        result.total_ms.append((now - self._sent) * 1000)
        result.first_ms.append(((self._first or now) - self._sent) * 1000)
        if not self._parser.should_keep_alive():
            self._transport.close()
        elif self._load.pause_s:
            loop.call_later(random.uniform(0, self._load.pause_s), self._next)
        else:
            loop.call_soon(self._next)

    def _next(self) -> None:
        if not self._load.more():
            self._transport.close()
            return
        self._sent, self._first, self._frames, self._waiting = time.perf_counter(), 0.0, 0, True
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(self._request)


class Load:
    """The running load."""

    def __init__(self, seconds: float, requests: int, pause_s: float) -> None:
        self.result, self.pause_s = Result(), pause_s
        self._ends, self._left = time.perf_counter() + seconds, requests
        self._open, self._done = 0, asyncio.Event()

    def more(self) -> bool:
        """Another request may be sent."""
        self._left -= 1
        return self._left >= 0 and time.perf_counter() < self._ends

    def closed(self) -> None:
        """A connection has ended."""
        self._open -= 1
        if self._open == 0:
            self._done.set()

    async def run(self, port: int, request: bytes, connections: int) -> Result:
        """Returns when every connection has ended."""
        loop, began, self._open = asyncio.get_running_loop(), time.perf_counter(), connections
        new = (
            loop.create_connection(lambda: Connection(request, self), "127.0.0.1", port)
            for _ in range(connections)
        )
        await asyncio.gather(*new)
        async with asyncio.timeout(self._ends - time.perf_counter() + TIMEOUT_S):
            await self._done.wait()
        self.result.seconds = time.perf_counter() - began
        return self.result


def post(path: str, headers: list[str], body: str) -> bytes:
    """The bytes of one POST."""
    lines = ["host: 127.0.0.1", "content-type: application/json", *headers, f"content-length: {len(body)}"]
    return "\r\n".join([f"POST {path} HTTP/1.1", *lines, "", body]).encode("ascii")


def load_flags(about: str | None) -> argparse.ArgumentParser:
    """The words of a program that puts load on one URL: that URL, the body and headers of a call."""
    flags = argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)
    flags.add_argument("url")
    flags.add_argument("--body", required=True)
    flags.add_argument("--header", action="append", default=[], help="name: value")
    return flags


def main() -> None:
    """Puts the load on and prints what was measured."""
    flags = load_flags(__doc__)
    flags.add_argument("--connections", type=int, default=16)
    flags.add_argument("--seconds", type=float, default=2.0)
    flags.add_argument("--requests", type=int, default=MAX_REQUESTS)
    flags.add_argument("--pause-ms", type=float, default=0.0, help="the longest a caller waits between two")
    given = flags.parse_args()
    url = urlsplit(given.url)
    if url.hostname != "127.0.0.1" or not url.port or not 0 < given.seconds <= 60:
        flags.error("only 127.0.0.1, and at most a minute")
    load = Load(given.seconds, min(given.requests, MAX_REQUESTS), given.pause_ms / 1000)
    result = uvloop.run(load.run(url.port, post(url.path, given.header, given.body), given.connections))
    facts = {one.name: getattr(result, one.name) for one in fields(result)}
    for name, times in (("total_ms", result.total_ms), ("first_ms", result.first_ms)):
        cuts = statistics.quantiles(times, n=100, method="inclusive") if len(times) > 1 else times * 99
        facts[name] = {"p50": cuts[49], "p99": cuts[98]} if cuts else None
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
