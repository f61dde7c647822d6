"""A burst on one URL in the open loop: calls leave when they are due, whether or not others are answered.

    python -m bench.burst http://127.0.0.1:8080/v1/chat/completions --body '{...}' --rate 200

`rate` calls a second for two seconds, ten times as many for one, and the first rate again for three. Prints
one line of JSON. A call's time counts from when it was due. `recovery_ms` is the time from the burst's end
until calls take no longer than 1.5 times the median before it, by the median of each 50 ms.
"""

import asyncio
import json
import statistics
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

from bench.load import TIMEOUT_S, load_flags, post

TIMES, BEFORE_S, BURST_S, AFTER_S = 10, 2.0, 1.0, 3.0
WINDOW_MS, BACK = 50, 1.5


@dataclass(slots=True)
class Answer:
    """One call; times in seconds since the start, `took_s` negative until it is answered."""

    due_s: float
    took_s: float = -1.0
    status: int = 0


class Connection(asyncio.Protocol):
    """One connection; it has one call at a time."""

    def __init__(self, burst: "Burst") -> None:
        self._burst, self._answer = burst, Answer(0.0)
        self._parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Called by the parser: the connection is free."""
        self._answer.took_s = self._burst.now_s - self._answer.due_s
        self._answer.status = self._parser.get_status_code()
        self._burst.answered()
        if self._parser.should_keep_alive():
            self._burst.free.append(self)
        else:
            self.transport.close()

    def send(self, answer: Answer, request: bytes) -> None:
        """Sends one call."""
        self._answer, self._parser = answer, httptools.HttpResponseParser(self)
        self.transport.write(request)


@dataclass(slots=True)
class Burst:
    """The running load."""

    port: int
    request: bytes
    began_s: float = 0.0
    unanswered: int = 0
    free: list[Connection] = field(default_factory=list[Connection])
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def now_s(self) -> float:
        """Since the start."""
        return asyncio.get_running_loop().time() - self.began_s

    async def run(self, rate: float) -> list[Answer]:
        """Every call, in the order in which they were due."""
        loop, at_s, sent = asyncio.get_running_loop(), 0.0, list[Answer]()
        self.began_s = loop.time()
        while at_s < BEFORE_S + BURST_S + AFTER_S:
            bursting = BEFORE_S <= at_s < BEFORE_S + BURST_S
            await asyncio.sleep(at_s - self.now_s)
            await self._send(answer := Answer(at_s))
            sent.append(answer)
            at_s += 1 / (rate * TIMES if bursting else rate)
        async with asyncio.timeout(TIMEOUT_S):
            await self.idle.wait()
        return sent

    def answered(self) -> None:
        """A call is answered; `idle` is set when all are."""
        self.unanswered -= 1
        if not self.unanswered:
            self.idle.set()

    async def _send(self, answer: Answer) -> None:
        self.unanswered += 1
        self.idle.clear()
        while self.free:
            connection = self.free.pop()
            if not connection.transport.is_closing():
                connection.send(answer, self.request)
                return
        new = asyncio.get_running_loop().create_connection(lambda: Connection(self), "127.0.0.1", self.port)
        _, connection = await new
        connection.send(answer, self.request)


def facts(sent: list[Answer]) -> dict[str, float]:
    """What the callers saw."""
    end_s = BEFORE_S + BURST_S
    good = [one for one in sent if one.status == 200]
    before = [one.took_s * 1000 for one in good if one.due_s < BEFORE_S]
    burst = [one.took_s * 1000 for one in good if BEFORE_S <= one.due_s < end_s]
    after = [((one.due_s - end_s) * 1000, one.took_s * 1000) for one in good if one.due_s >= end_s]
    most_ms = statistics.median(before) * BACK
    recovery_ms = 0
    for at_ms in range(0, int(AFTER_S * 1000), WINDOW_MS):
        window = [took_ms for due_ms, took_ms in after if at_ms <= due_ms < at_ms + WINDOW_MS]
        if window and statistics.median(window) > most_ms:
            recovery_ms = at_ms + WINDOW_MS
    return {
        "before_p50_ms": statistics.median(before),
        "before_p99_ms": statistics.quantiles(before, n=100)[98],
        "burst_p50_ms": statistics.median(burst),
        "burst_p99_ms": statistics.quantiles(burst, n=100)[98],
        "recovery_ms": recovery_ms,
        "failed": len(sent) - len(good),
    }


def main() -> None:
    """Puts the load on and prints what was measured."""
    flags = load_flags(__doc__)
    flags.add_argument("--rate", type=float, default=200)
    given = flags.parse_args()
    url = urlsplit(given.url)
    if url.hostname != "127.0.0.1" or not url.port or not 0 < given.rate <= 1000:
        flags.error("only 127.0.0.1, and at most 1,000 calls a second")
    burst = Burst(url.port, post(url.path, given.header, given.body))
    print(json.dumps(facts(uvloop.run(burst.run(given.rate)))))


if __name__ == "__main__":
    main()
