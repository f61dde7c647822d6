"""Steady mixed load in the open loop, and the comparison of what callers, provider and Postgres know of it.

Each call carries a mark as `X-Request-Id` and, where a provider should see it, in its prompt. A record is
lost when the provider saw a call or its caller got an answer and no record tells of it; doubled when two do.
A call is repeated when the provider saw it twice. Times are seconds since the load began.
"""

import asyncio
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from endpoint_errors import error_code

Json = dict[str, Any]
TIMEOUT_S = 30.0
MAX_RUNNING = 400
AGENTS = 200
CONFIG: Json = {
    "model_list": [
        {
            "model_name": "p/*",
            "litellm_params": {
                "model": "openai/*", "api_base": "PROVIDER/v1", "api_key": "sk-scripted", "max_retries": 0,
                "input_cost_per_token": 0.000001, "output_cost_per_token": 0.000002,
            },
            "model_info": {"id": "scripted"},
        }
    ],
    "router_settings": {"num_retries": 0, "disable_cooldowns": True},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of call.

    Attributes:
        expected: The statuses that are no error.
        script: What the provider is told to do.
        leaves_s: The caller hangs up after so long.
        unique: Its prompt is its own; else the answer may come from the cache.
    """

    name: str
    weight: float
    expected: tuple[int, ...] = (200,)
    script: Json = field(default_factory=dict[str, Any])
    stream: bool = False
    path: str = "/v1/chat/completions"
    leaves_s: float | None = None
    unique: bool = True
    known_key: bool = True
    valid: bool = True
    agent: str = ""


KINDS = (
    Kind("chat", 36),
    Kind("stream", 24, script={"do": "slow", "gap_ms": 30}, stream=True),
    Kind("long stream", 3, script={"do": "slow", "gap_ms": 50, "frames": 100}, stream=True),
    Kind("embeddings", 12, path="/v1/embeddings"),
    Kind("repeated chat", 5, unique=False),
    Kind("leaves a stream", 4, script={"do": "slow", "gap_ms": 200, "frames": 40}, stream=True, leaves_s=0.8),
    Kind("leaves early", 3, script={"do": "slow-first", "first_ms": 3000}, leaves_s=0.5),
    Kind("wrong key", 3, (401,), known_key=False),
    Kind("wrong body", 2, (400,), valid=False),
    Kind("provider 429", 2, (429,), script={"do": "status-429"}),
    Kind("provider 500", 2, (502,), script={"do": "status-500"}),
    Kind("truncated stream", 1, (200, 502), script={"do": "cut"}, stream=True),
    Kind("greedy agent", 3, (200, 429), agent="greedy"),
)


@dataclass(slots=True)
class Call:
    """One call as its caller saw it.

    Attributes:
        status: 0 when there was none.
        outcome: `ok`, `left`, or what went wrong.
        first_s: From its start to the first byte of the answer.
    """

    mark: str
    kind: str
    began_s: float
    seconds: float = 0.0
    status: int = 0
    outcome: str = ""
    first_s: float | None = None

    @property
    def expected(self) -> bool:
        """The caller got what was to be expected."""
        return self.outcome in {"ok", "left"}

    @property
    def ended_s(self) -> float:
        """When it ended."""
        return self.began_s + self.seconds


class Traffic:
    """The load; it sees the gateways as behind a load balancer that follows `/health/ready`."""

    def __init__(self, gateways: list[str], key: str, *, rate: float, seed: int = 7) -> None:
        self.calls: list[Call] = []
        self.script_of: Callable[[Kind], Json] = lambda kind: kind.script
        self._gateways, self._ready = gateways, dict.fromkeys(gateways, True)
        self._key, self._rate, self._random = key, rate, random.Random(seed)
        self._running: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession
        self._began = 0.0

    @property
    def now_s(self) -> float:
        """Since the load began."""
        return time.monotonic() - self._began

    async def run(self, until: asyncio.Event) -> None:
        """Makes calls until told to stop, then waits for those that run."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=2)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self._session:
            polling = asyncio.create_task(self._poll_readiness())
            self._began = due = time.monotonic()
            while not until.is_set():
                due += self._random.expovariate(self._rate)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if len(self._running) < MAX_RUNNING:
                    task = asyncio.create_task(self._call())
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
            await asyncio.gather(*self._running)
            polling.cancel()

    async def _poll_readiness(self) -> None:
        while True:
            for url in self._gateways:
                try:
                    timeout = aiohttp.ClientTimeout(total=1)
                    async with self._session.get(f"{url}/health/ready", timeout=timeout) as reply:
                        self._ready[url] = reply.status == 200
                except (aiohttp.ClientError, TimeoutError, OSError):
                    self._ready[url] = False
            await asyncio.sleep(0.2)

    async def _call(self) -> None:
        kind = self._random.choices(KINDS, [one.weight for one in KINDS])[0]
        call = Call(f"mark-{uuid.uuid4()}", kind.name, round(self.now_s, 3))
        self.calls.append(call)
        order = sorted(self._gateways, key=lambda url: (not self._ready[url], self._random.random()))
        began = time.monotonic()
        for url in order:
            try:
                async with asyncio.timeout(kind.leaves_s):
                    await self._send(url, kind, call, began)
            except aiohttp.ClientConnectorError:
                call.outcome = "connection refused"
                continue
            except TimeoutError:
                call.outcome = "left" if kind.leaves_s else "timeout"
            except (aiohttp.ClientError, OSError):
                call.outcome = "connection broke"
            break
        call.seconds = round(time.monotonic() - began, 4)

    async def _send(self, url: str, kind: Kind, call: Call, began: float) -> None:
        headers = {
            "X-Request-Id": call.mark,
            "Content-Type": "application/json",
            "Authorization": f"Bearer {self._key if kind.known_key else 'sk-somebody-elses'}",
            "X-Agent-Id": kind.agent or f"agent-{self._random.randrange(AGENTS)}",
        }
        body = self._body(kind, call.mark)
        async with self._session.post(url + kind.path, data=body, headers=headers) as reply:
            call.status, text = reply.status, b""
            async for chunk in reply.content.iter_any():
                if call.first_s is None:
                    call.first_s = round(time.monotonic() - began, 4)
                text = (text + chunk)[-4096:] if kind.stream else text + chunk
            call.outcome = outcome(kind, reply.status, text)

    def _body(self, kind: Kind, mark: str) -> bytes:
        script = self.script_of(kind)
        text = (mark if kind.unique else "again and again") + (f" {json.dumps(script)}" if script else "")
        body: Json = {"model": "p/any"} | ({"stream": True} if kind.stream else {})
        embedding = kind.path == "/v1/embeddings"
        body |= {"input": text} if embedding else {"messages": [{"role": "user", "content": text}]}
        raw = json.dumps(body).encode()
        return raw if kind.valid else raw[:-1]


def outcome(kind: Kind, status: int, text: bytes) -> str:
    """`ok`, or what is wrong with an answer of that kind."""
    if status not in kind.expected:
        return f"{status} {error_code(text)}"
    if not kind.stream or status != 200:
        return "ok"
    truncated = kind.name == "truncated stream"
    if text.endswith(b"data: [DONE]\n\n"):
        return "a truncated stream got its end" if truncated else "ok"
    if b'"error"' in text:
        return "ok" if truncated else f"broken off: {error_code(text.rpartition(b'data: ')[2])}"
    return "a stream without an end"


@dataclass(frozen=True, slots=True)
class Account:
    """What the comparison found: lost, doubled and repeated are marks, and should be empty.

    Attributes:
        unfinished: Records that say `lost`: calls that ran in a gateway that was killed.
    """

    calls: int
    at_provider: int
    records: int
    unfinished: int
    lost: frozenset[str]
    doubled: frozenset[str]
    repeated: frozenset[str]

    @property
    def holds(self) -> bool:
        """Nothing lost, nothing twice."""
        return not (self.lost or self.doubled or self.repeated)

    def as_json(self) -> Json:
        """Counts; of each set of marks the number and the first few."""
        found = asdict(self)
        sets = {name: sorted(found[name]) for name in ("lost", "doubled", "repeated")}
        return found | {name: len(marks) for name, marks in sets.items()} | {
            f"{name}_marks": marks[:5] for name, marks in sets.items() if marks
        }  # fmt: skip


async def account(calls: list[Call], provider_record: Path, database_url: str) -> Account:
    """Compares the three books once no more records come in."""
    seen, rows = _marks(provider_record), await _records(database_url)
    kept = Counter(mark for mark, _ in rows)
    made = {call.mark for call in calls}
    owed = {call.mark for call in calls if call.status == 200} | (seen.keys() & made)
    return Account(
        calls=len(calls),
        at_provider=seen.total(),
        records=len(rows),
        unfinished=sum(outcome == "lost" for _, outcome in rows),
        lost=frozenset(owed - kept.keys()),
        doubled=frozenset(mark for mark, count in kept.items() if count > 1),
        repeated=frozenset(mark for mark, count in seen.items() if count > 1),
    )


def _marks(provider_record: Path) -> Counter[str]:
    lines = provider_record.read_text(encoding="utf-8").splitlines()
    return Counter(mark for line in lines if (mark := json.loads(line)["mark"]))


async def _records(database_url: str, quiet_s: float = 3, timeout_s: float = 40) -> list[tuple[str, str]]:
    connection = await asyncpg.connect(database_url)
    try:
        count, since = -1, time.monotonic()
        async with asyncio.timeout(timeout_s):
            while time.monotonic() - since < quiet_s:
                if (now := await connection.fetchval("SELECT count(*) FROM requests")) != count:
                    count, since = now, time.monotonic()
                await asyncio.sleep(0.2)
        rows = await connection.fetch("SELECT client_request_id, outcome FROM requests")
    finally:
        await connection.close()
    return [(str(row[0]), str(row[1])) for row in rows]
