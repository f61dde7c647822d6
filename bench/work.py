"""The hot path's work, counted and not timed: bytecodes and calls of one request, through the whole edge.

A gateway without stores, whose upstream answers from a shelf, is asked the same few things. What Python then
executes in the request's own task is the same on every machine, to the last bytecode, with one minor version
of Python and the locked packages.

    make work          prints the counts beside the last ones kept, and keeps them in bench/work.json
"""

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
import uvloop
from uvicorn import Config
from uvicorn.server import ServerState

import llm_proxy.edge.turn
import llm_proxy.edge.wire
from llm_proxy.app import Gateway
from llm_proxy.dialects import Call
from llm_proxy.edge.dispatcher import Dispatcher
from llm_proxy.edge.request import Message, Scope
from llm_proxy.edge.wire import Connection
from llm_proxy.identity import Caller
from llm_proxy.settings import load
from llm_proxy.upstream import CallGuard, RoutingInfo, TokenUsage
from llm_proxy.upstream.stream_filter import StreamFilter
from llm_proxy.upstream.token_usage import read_usage

BASELINE = Path(__file__).with_name("work.json")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
WARM = 20
REPEATS = 12
"""More than the refusals of one second that are kept as a sample, which costs more than the others."""
FRAMES = 100
KEY = "sk-replay-0123456789abcdef"
_SERVED = RoutingInfo("mock", "mock", "mock", "shelf", 63_000, "miss", 1, 4.2)
_USAGE = {
    "prompt_tokens": 17,
    "completion_tokens": FRAMES,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
_CHOICE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Paris. " * 20}}
ANSWER = orjson.dumps({"id": "a", "object": "chat.completion", "choices": [_CHOICE], "usage": _USAGE})
WORD = b'data: {"id":"a","choices":[{"index":0,"delta":{"content":" a"},"finish_reason":null}]}\n\n'
END = b"data: " + orjson.dumps({"id": "a", "choices": [], "usage": _USAGE}) + b"\n\ndata: [DONE]\n\n"


CONNECTION = (llm_proxy.edge.wire.__file__, llm_proxy.edge.turn.__file__)


class Shelf:
    """An answer that is already there."""

    def __init__(self, call: Call) -> None:
        self.routing = _SERVED
        self.stream_filter = StreamFilter(wants_usage=call.wants_usage) if call.streaming else None
        self._coming = iter((*(WORD,) * FRAMES, END))

    async def json(self) -> tuple[bytes, TokenUsage | None]:
        """The whole body, and its usage."""
        return ANSWER, read_usage(orjson.loads(ANSWER)["usage"])

    async def chunk(self) -> bytes | None:
        """The next frame."""
        raw = next(self._coming, None)
        return self.stream_filter.feed(raw) if raw is not None and self.stream_filter is not None else None

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass(slots=True)
class Upstream:
    """Answers every call from the shelf."""

    catalog: Any

    async def send(self, call: Call, caller: Caller, request_id: str, watch: CallGuard, **_: object) -> Shelf:  # noqa: ARG002 -- the pipeline's signature
        """The answer to a call."""
        return Shelf(call)

    def check_room(self) -> None:
        """There is always room."""


@dataclass(slots=True)
class Work:
    """What Python executed."""

    bytecodes: int = 0
    calls: int = 0


def requests() -> dict[str, Scope]:
    """The requests of the replay, by name: their scope, the body under `body`."""
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "The capital of France?"}]
    chat = {"model": "mock", "messages": said, "temperature": 0.7, "max_tokens": 100}
    named = {**chat, "metadata": {"agent_id": "scout"}}
    return {
        "chat": _scope(chat),
        "chat of a limited agent": _scope(named),
        f"stream of {FRAMES} frames": _scope({**chat, "stream": True}),
        "401": _scope(chat, key="sk-somebody-elses-0123456789"),
        "429": _scope({**chat, "metadata": {"agent_id": "busy"}}),
    }


def count() -> dict[str, Work]:
    """The work of each request of the replay."""
    with tempfile.TemporaryDirectory() as folder:
        given = {"environment": "development", "llm_mode": "mock", "internal_api_key": KEY}
        settings = load(**given, agent_rpm=WARM * 4, spool_dir=Path(folder))
        return uvloop.run(_counted(Gateway(settings)))


async def _counted(gateway: Gateway) -> dict[str, Work]:
    front = _shelved(gateway)
    found: dict[str, Work] = {}
    for name, scope in requests().items():
        for _ in range(WARM * 5 if name == "429" else WARM):
            await asyncio.create_task(_ask(front, scope, Work()))
        seen = [Work() for _ in range(REPEATS)]
        for work in seen:
            await asyncio.create_task(_ask(front, scope, work))
        found[name] = min(seen, key=lambda work: work.bytecodes)  # a new second may open a new sample
    return found | await _carried(front)


def _shelved(gateway: Gateway) -> Dispatcher:
    """The gateway's front, its upstream put back by the shelf: nobody but a test wants another one."""
    front = gateway.asgi
    if not isinstance(front, Dispatcher):
        raise TypeError(front)
    serve: Any = getattr(front, "_serve")  # noqa: B009 -- its own, and no one else's
    serve._stages = replace(serve._stages, upstream=Upstream(gateway.upstream.catalog))  # noqa: SLF001 -- the same
    return front


async def _ask(front: Dispatcher, scope: Scope, work: Work) -> None:
    body: bytes = scope["body"]

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        pass

    with counted(work):
        await front(scope, receive, send)


async def _carried(front: Dispatcher) -> dict[str, Work]:
    """What a connection does to carry each request and its answer, over a real socket."""
    config = Config(front, access_log=False, log_config=None, ws="none")
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(config=config, server_state=state, app_state={}), "127.0.0.1"
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    found: dict[str, Work] = {}
    for name, scope in requests().items():
        head = b"".join(b"%b: %b\r\n" % pair for pair in scope["headers"])
        seen = [Work() for _ in range(WARM + REPEATS)]
        for work in seen:
            with counted(work, CONNECTION):
                writer.write(b"POST %b HTTP/1.1\r\n%b\r\n%b" % (scope["raw_path"], head, scope["body"]))
                answer = await reader.readuntil(b"\r\n\r\n")
                if b"\r\ntransfer-encoding: chunked\r\n" in answer:
                    await reader.readuntil(b"\r\n0\r\n\r\n")
                else:
                    await reader.readexactly(int(answer.partition(b"content-length: ")[2].split(b"\r\n")[0]))
        # Python 3.13 leaves bytecodes out where it has not traced a function before.
        found[f"connection: {name}"] = min(seen[WARM:], key=lambda work: work.bytecodes)
    writer.close()
    server.close()
    return found


@contextlib.contextmanager
def counted(work: Work, only: tuple[str, ...] = ()) -> Generator[None]:
    """Count what this thread executes until the block ends: in these files, or in all but its own."""

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        file = frame.f_code.co_filename
        if (file not in only) if only else (file in (__file__, contextlib.__file__)):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "call":
            work.calls += 1
        elif event == "opcode":
            work.bytecodes += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _scope(body: dict[str, Any], key: str = KEY) -> Scope:
    raw = orjson.dumps(body)
    headers = [
        (b"host", b"gateway"),
        (b"content-type", b"application/json"),
        (b"authorization", b"Bearer " + key.encode()),
        (b"content-length", b"%d" % len(raw)),
    ]
    path = "/v1/chat/completions"
    return {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": headers,
        "http_version": "1.1", "body": raw,
    }  # fmt: skip


def main() -> None:
    """Print and keep the counts of this Python."""
    known: dict[str, Any] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    before: dict[str, Any] = known.get(VERSION, {})
    known[VERSION] = {name: {"bytecodes": one.bytecodes, "calls": one.calls} for name, one in count().items()}
    BASELINE.write_text(json.dumps(known, indent=2) + "\n")
    for name, one in known[VERSION].items():
        kept = before.get(name, one)["bytecodes"]
        change = f"{one['bytecodes'] / kept - 1:+7.1%}"
        print(f"{name:28} {one['bytecodes']:8,} bytecodes {change} {one['calls']:6,} calls")
    if others := ", ".join(sorted(known.keys() - {VERSION})):
        print(f"The counts of {others} stand as they were: `make work` there as well.")


if __name__ == "__main__":
    main()
