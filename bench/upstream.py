"""The static upstream every subject stands before: it answers what a sidecar would, at next to no cost.

    python -m bench.upstream --port 20001

What it plays stands in the model's name: `bench` answers at once, `bench-50ms` after 50 ms; a streamed call
gets `FRAMES` frames, one every 5 ms, and with `bench-1hz` ten, one a second. Invariants: any call is
answered; nothing of it is parsed but its framing; all streams share one ticker, which rests without them.
"""

import argparse
import asyncio
from collections.abc import Callable, Iterator

import orjson
import uvloop

from bench.asked import Asked

FRAMES = 102
SLOW_FRAMES = 10
TICK_S = 0.005
DELAY_S = 0.05
HEADERS = (
    b"x-litellm-model-id: bench\r\nx-litellm-model-group: bench\r\nx-litellm-response-cost: 0.000063\r\n"
    b"x-litellm-overhead-duration-ms: 4.2\r\nx-litellm-attempted-retries: 0\r\n"
)
_USAGE = {
    "prompt_tokens": 17, "completion_tokens": 100, "total_tokens": 117,
    "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 0},
    "completion_tokens_details": {"audio_tokens": 0, "reasoning_tokens": 0},
}  # fmt: skip
_ANSWER = {
    "id": "chatcmpl-bench", "object": "chat.completion", "created": 1790000000, "model": "bench",
    "choices": [{
        "index": 0, "finish_reason": "stop",
        "message": {"role": "assistant", "content": "A thin door opens quickly, and closes silently. " * 4},
    }],
    "usage": _USAGE,
}  # fmt: skip
_CATALOG = {
    "groups": [
        {
            "name": name, "mode": "chat", "wildcard": False, "fallbacks": [],
            "deployments": [{
                "id": name, "provider": "openai", "physical": name,
                "input_cost_per_token": "0.000001", "output_cost_per_token": "0.000002",
            }],
        }
        for name in ("bench", "bench-50ms", "bench-1hz")
    ],
    "default_fallbacks": [],
}  # fmt: skip


def whole(document: object) -> bytes:
    """One JSON answer with its head."""
    body = orjson.dumps(document)
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n%b" % (
        len(body),
        HEADERS,
        body,
    )


def frames(count: int) -> list[bytes]:
    """The frames of a stream, each a chunk of its own; the last ones state the usage and the end."""
    fixed = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1790000000,
        "model": "bench",
    }
    said = [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}]
    content = _chunk({**fixed, "choices": said})
    last = _chunk({**fixed, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    usage = _chunk({**fixed, "choices": [], "usage": _USAGE})
    return [*[content] * (count - 2), last, usage + _wrap(b"data: [DONE]\n\n") + b"0\r\n\r\n"]


def _chunk(event: object) -> bytes:
    return _wrap(b"data: " + orjson.dumps(event) + b"\n\n")


def _wrap(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


ANSWER = whole(_ANSWER)
CATALOG = whole(_CATALOG)
ALIVE = whole({"status": "healthy"})
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n"
    + HEADERS
    + b"\r\n"
)
FAST, SLOW = frames(FRAMES), frames(SLOW_FRAMES)


class Ticker:
    """Writes the next frame of every running stream, each at its own pace."""

    def __init__(self) -> None:
        self._running: list[tuple[asyncio.Transport, Iterator[bytes]]] = []
        self._slow: list[tuple[asyncio.Transport, Iterator[bytes]]] = []
        self._wanted = asyncio.Event()

    def add(self, transport: asyncio.Transport, *, slow: bool) -> None:
        """A stream begins; its first frame leaves with its head."""
        coming = iter(SLOW if slow else FAST)
        transport.write(STREAM_HEAD + next(coming))
        (self._slow if slow else self._running).append((transport, coming))
        self._wanted.set()

    async def run(self) -> None:
        """Tick until cancelled."""
        loop = asyncio.get_running_loop()
        at, turn = loop.time(), 0
        while True:
            if not self._running and not self._slow:
                self._wanted.clear()
                await self._wanted.wait()
                at = loop.time()
            at, turn = at + TICK_S, turn + 1
            await asyncio.sleep(at - loop.time())
            self._running = [one for one in self._running if _write(*one)]
            if turn % int(1 / TICK_S) == 0:
                self._slow = [one for one in self._slow if _write(*one)]


def _write(transport: asyncio.Transport, coming: Iterator[bytes]) -> bool:
    frame = next(coming, None)
    if frame is None or transport.is_closing():
        return False
    transport.write(frame)
    return True


class Connection(Asked):
    """One connection of a subject."""

    def __init__(self, ticker: Ticker) -> None:
        super().__init__()
        self._ticker = ticker

    def asked(self) -> None:
        """Answer at once, after the model's pause, or by and by."""
        if self.parser.get_method() == b"GET":
            self.transport.write(CATALOG if self.url == b"/llmp/catalog" else ALIVE)
        elif b"bench-50ms" in self.body:
            asyncio.get_running_loop().call_later(DELAY_S, self._answer, self.body)
        else:
            self._answer(self.body)

    def _answer(self, body: bytes) -> None:
        if self.transport.is_closing():
            return
        if b'"stream":true' in body or b'"stream": true' in body:
            self._ticker.add(self.transport, slow=b"bench-1hz" in body)
        else:
            self.transport.write(ANSWER)


async def main(port: int) -> None:
    """Serve until killed."""
    ticker = Ticker()
    loop = asyncio.get_running_loop()
    made: Callable[[], Connection] = lambda: Connection(ticker)  # noqa: E731 -- typed for asyncio
    server = await loop.create_server(made, "127.0.0.1", port, backlog=4096)
    async with server:
        await ticker.run()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, required=True)
    uvloop.run(main(arguments.parse_args().port))
