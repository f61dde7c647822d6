"""Load on one URL: so many connections, each sending its next request when the last answer is whole.

    python -m bench.load http://127.0.0.1:8080/v1/chat/completions --body '{...}' --connections 16 --seconds 2

Prints one line of JSON. Invariants: bounded in time and in requests; every answer's status is counted; one
that breaks off counts as broken; only loopback addresses are asked. Units: milliseconds.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

MOST_REQUESTS = 1_000_000
PATIENCE_S = 30.0


@dataclass(slots=True)
class Seen:
    """What was measured.

    Attributes:
        served: Whole answers.
        frames: Stream frames in them.
    """

    served: int = 0
    broken: int = 0
    frames: int = 0
    seconds: float = 0.0
    statuses: dict[int, int] = field(default_factory=dict[int, int])
    total_ms: list[float] = field(default_factory=list[float])
    first_ms: list[float] = field(default_factory=list[float])


class Connection(asyncio.Protocol):
    """One connection; sends again and again until the load ends."""

    def __init__(self, request: bytes, load: "Load") -> None:
        self._request = request
        self._load = load
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._sent = self._first = 0.0
        self._frames = 0
        self._waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected: the first request leaves."""
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """The subject closed it."""
        if self._waiting:
            self._load.seen.broken += 1
        self._load.closed()

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        """The parser's word: some of the body."""
        if not self._first:
            self._first = time.perf_counter()
        self._frames += part.count(b"data: ")

    def on_message_complete(self) -> None:
        """The parser's word: the answer is whole."""
        now, seen = time.perf_counter(), self._load.seen
        self._waiting = False
        seen.served += 1
        seen.frames += self._frames
        status = self._parser.get_status_code()
        seen.statuses[status] = seen.statuses.get(status, 0) + 1
        seen.total_ms.append((now - self._sent) * 1000)
        seen.first_ms.append(((self._first or now) - self._sent) * 1000)
        if not self._parser.should_keep_alive():
            self._transport.close()
        elif self._load.pause_s:
            asyncio.get_running_loop().call_later(random.uniform(0, self._load.pause_s), self._next)
        else:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        if not self._load.more():
            self._transport.close()
            return
        self._sent, self._first, self._frames = time.perf_counter(), 0.0, 0
        self._waiting = True
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(self._request)


class Load:
    """The running load."""

    def __init__(self, seconds: float, most: int, pause_s: float = 0.0) -> None:
        self.seen = Seen()
        self.pause_s = pause_s
        self._ends = time.perf_counter() + seconds
        self._left = most
        self._open = 0
        self._done = asyncio.Event()

    def more(self) -> bool:
        """Whether another request may be sent."""
        self._left -= 1
        return self._left >= 0 and time.perf_counter() < self._ends

    def closed(self) -> None:
        """A connection has ended."""
        self._open -= 1
        if self._open == 0:
            self._done.set()

    async def run(self, host: str, port: int, request: bytes, connections: int) -> Seen:
        """Put the load on; returns when every connection has ended."""
        loop = asyncio.get_running_loop()
        self._open = connections
        began = time.perf_counter()
        await asyncio.gather(
            *(
                loop.create_connection(lambda: Connection(request, self), host, port)
                for _ in range(connections)
            )
        )
        async with asyncio.timeout(self._ends - time.perf_counter() + PATIENCE_S):
            await self._done.wait()
        self.seen.seconds = time.perf_counter() - began
        return self.seen


def request(url: str, headers: dict[str, str], body: str) -> bytes:
    """The bytes of one POST."""
    where, raw = urlsplit(url), body.encode()
    given = {
        "host": where.netloc,
        "content-type": "application/json",
        **headers,
        "content-length": str(len(raw)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"POST {where.path} HTTP/1.1\r\n{head}\r\n".encode() + raw


def told(seen: Seen) -> dict[str, object]:
    """The measurement, percentiles in place of every time."""
    facts = asdict(seen)
    for name, times in (("total_ms", seen.total_ms), ("first_ms", seen.first_ms)):
        cuts = statistics.quantiles(times, n=100, method="inclusive") if len(times) > 1 else [*times] * 99
        facts[name] = {"p50": cuts[49], "p99": cuts[98]} if cuts else None
    return facts


def main() -> None:
    """Put the load on and print what was seen."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("url")
    arguments.add_argument("--body", required=True)
    arguments.add_argument("--header", action="append", default=[], help="name: value")
    arguments.add_argument("--connections", type=int, default=16)
    arguments.add_argument("--seconds", type=float, default=2.0)
    arguments.add_argument("--requests", type=int, default=MOST_REQUESTS)
    arguments.add_argument("--pause-ms", type=float, default=0.0, help="the most a caller waits between two")
    given = arguments.parse_args()
    where = urlsplit(given.url)
    if where.hostname != "127.0.0.1" or not 0 < given.seconds <= 60:
        arguments.error("only 127.0.0.1, and at most a minute")
    headers = dict(header.split(": ", 1) for header in given.header)
    load = Load(given.seconds, min(given.requests, MOST_REQUESTS), given.pause_ms / 1000)
    raw = request(given.url, headers, given.body)
    seen = uvloop.run(load.run(where.hostname, where.port or 80, raw, given.connections))
    print(json.dumps(told(seen)))


if __name__ == "__main__":
    main()
