"""Steady mixed load, as callers make it: whole answers, streams, embeddings, refusals, callers who leave.

Open loop: a call begins when its time has come, whatever became of those before it. Each carries a mark of
its own as `X-Request-Id` and, where a provider should see it, in its prompt; so the provider's calls, the
callers' answers and the records in Postgres can be compared one by one.
"""

import asyncio
import itertools
import json
import random
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, Any]
PATIENCE_S = 30.0
MOST_AT_ONCE = 400
READY_EVERY_S = 0.2
AGENTS = 200


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of call.

    Attributes:
        weight: Its share.
        expected: The statuses that are no error.
        play: What the provider is told to do.
        leaves_s: The caller hangs up after so long; None stays.
        marked: Whether its prompt is its own (else the answer may come from the cache).
        whole: Whether its body is whole JSON.
    """

    name: str
    weight: float
    expected: frozenset[int] = frozenset({200})
    play: Json = field(default_factory=dict)
    stream: bool = False
    path: str = "/v1/chat/completions"
    model: str = "p/any"
    leaves_s: float | None = None
    marked: bool = True
    key: bool = True
    whole: bool = True
    agent: str = ""


def _statuses(*codes: int) -> frozenset[int]:
    return frozenset(codes)


KINDS = (
    Kind("chat", 36),
    Kind("stream", 24, play={"do": "slow", "gap_ms": 30}, stream=True),
    Kind("long stream", 3, play={"do": "slow", "gap_ms": 50, "frames": 100}, stream=True),
    Kind("embeddings", 12, path="/v1/embeddings"),
    Kind("repeated chat", 5, marked=False),
    Kind("leaves a stream", 4, play={"do": "slow", "gap_ms": 200, "frames": 40}, stream=True, leaves_s=0.8),
    Kind("leaves early", 3, play={"do": "slow-first", "first_ms": 3000}, leaves_s=0.5),
    Kind("wrong key", 3, _statuses(401), key=False),
    Kind("wrong body", 2, _statuses(400), whole=False),
    Kind("provider 429", 2, _statuses(429), play={"do": "status-429"}),
    Kind("provider 500", 2, _statuses(502), play={"do": "status-500"}),
    Kind("cut stream", 1, _statuses(200, 502), play={"do": "cut"}, stream=True),
    Kind("greedy agent", 3, _statuses(200, 429), agent="greedy"),
)


@dataclass(slots=True)
class Made:
    """One call as its caller saw it.

    Attributes:
        began_s: Since the load began.
        status: HTTP status; 0 when there was none.
        word: `ok`, or what went wrong in one or two words.
        first_s: Seconds to the first byte of the answer; None without one.
        moved: How often a refused connection sent it to another gateway.
    """

    mark: str
    kind: str
    began_s: float
    seconds: float = 0.0
    status: int = 0
    word: str = ""
    first_s: float | None = None
    moved: int = 0
    gateway: str = ""

    @property
    def well(self) -> bool:
        """Whether its caller got what was to be expected."""
        return self.word in {"ok", "left"}


class Traffic:
    """The load, and what became of each call."""

    def __init__(self, gateways: list[str], key: str, *, rate: float, seed: int = 7) -> None:
        self.gateways = gateways
        self.ready = dict.fromkeys(gateways, True)
        self.made: list[Made] = []
        self.twist: Callable[[Kind], Json] = lambda kind: kind.play
        self._key = key
        self._rate = rate
        self._random = random.Random(seed)
        self._turn = itertools.count()
        self._running: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession
        self.began = 0.0

    async def run(self, until: asyncio.Event) -> None:
        """Make calls until told to stop, then wait for those that run."""
        waits = aiohttp.ClientTimeout(total=PATIENCE_S, sock_connect=2)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        async with aiohttp.ClientSession(connector=connector, timeout=waits) as self._session:
            looking = asyncio.create_task(self._look())
            self.began = due = time.monotonic()
            while not until.is_set():
                due += self._random.expovariate(self._rate)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if len(self._running) < MOST_AT_ONCE:
                    task = asyncio.create_task(self._one())
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
            await asyncio.gather(*self._running)
            looking.cancel()

    async def _look(self) -> None:
        """Follow readiness as a load balancer does."""
        while True:
            for url in self.gateways:
                try:
                    waits = aiohttp.ClientTimeout(total=1)
                    async with self._session.get(f"{url}/health/ready", timeout=waits) as reply:
                        self.ready[url] = reply.status == 200
                except (aiohttp.ClientError, TimeoutError, OSError):
                    self.ready[url] = False
            await asyncio.sleep(READY_EVERY_S)

    async def _one(self) -> None:
        kind = self._random.choices(KINDS, [one.weight for one in KINDS])[0]
        call = Made(f"mark-{uuid.uuid4()}", kind.name, round(time.monotonic() - self.began, 3))
        self.made.append(call)
        ready = [url for url in self.gateways if self.ready[url]] or self.gateways
        turn = next(self._turn)
        order = [ready[(turn + at) % len(ready)] for at in range(len(ready))]
        order += [url for url in self.gateways if url not in order]
        began = time.monotonic()
        for url in order:
            call.gateway = url
            try:
                async with asyncio.timeout(kind.leaves_s):
                    await self._ask(url, kind, call, began)
            except aiohttp.ClientConnectorError:
                call.word = "connection refused"
                call.moved += 1
                continue
            except TimeoutError:
                call.word = "left" if kind.leaves_s else "timeout"
            except (aiohttp.ClientError, OSError):
                call.word = "connection broke"
            break
        call.seconds = round(time.monotonic() - began, 4)

    async def _ask(self, url: str, kind: Kind, call: Made, began: float) -> None:
        headers = {"X-Request-Id": call.mark, "Content-Type": "application/json"}
        headers["Authorization"] = f"Bearer {self._key if kind.key else 'sk-somebody-elses'}"
        headers["X-Agent-Id"] = kind.agent or f"agent-{self._random.randrange(AGENTS)}"
        body = self._body(kind, call.mark)
        async with self._session.post(url + kind.path, data=body, headers=headers) as reply:
            call.status = reply.status
            text = b""
            async for chunk in reply.content.iter_any():
                if call.first_s is None:
                    call.first_s = round(time.monotonic() - began, 4)
                text = (text + chunk)[-4096:] if kind.stream else text + chunk
            call.word = _word(kind, reply.status, text)

    def _body(self, kind: Kind, mark: str) -> bytes:
        play = self.twist(kind)
        said = mark if kind.marked else "again and again"
        said += f" {json.dumps(play)}" if play else ""
        body: Json = {"model": kind.model}
        if kind.path == "/v1/embeddings":
            body["input"] = said
        else:
            body["messages"] = [{"role": "user", "content": said}]
        if kind.stream:
            body["stream"] = True
        raw = json.dumps(body).encode()
        return raw if kind.whole else raw[:-1]


def _word(kind: Kind, status: int, text: bytes) -> str:
    if status not in kind.expected:
        return f"{status} {_code(text)}"
    if kind.stream and status == 200:
        if text.endswith(b"data: [DONE]\n\n"):
            return "a cut stream was finished" if kind.name == "cut stream" else "ok"
        if b'"error"' in text:
            return (
                "ok" if kind.name == "cut stream" else f"broken off: {_code(text.rpartition(b'data: ')[2])}"
            )
        return "a stream without an end"
    return "ok"


def _code(text: bytes) -> str:
    try:
        return str(json.loads(text)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return "?"
