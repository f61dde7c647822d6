"""The static upstream of every subject: it answers what a sidecar would, at next to no cost.

    python -m bench.upstream --port 20001

The model's name says what it does: `bench` answers at once, `bench-50ms` after 50 ms, `bench-250ms` after
250, `bench-varied` after 125 to 375; a streamed call gets `FRAMES` frames, one every 5 ms, and with
`bench-1hz` ten, one a second. `bench-native` has Responses and Messages beside chats, in as many frames.
Nothing is parsed but the framing.
One ticker serves all streams and rests without them.
"""

import argparse
import asyncio
import random
from collections.abc import Iterator
from typing import cast

import httptools
import orjson
import uvloop
from scripted.families import find
from scripted.script import Script

NATIVE = "bench-native"
DELAYS_S = {b"bench-50ms": (0.05, 0.05), b"bench-250ms": (0.25, 0.25), b"bench-varied": (0.125, 0.375)}
MODELS = ("bench", *(name.decode() for name in DELAYS_S), "bench-1hz", NATIVE)
OTHER_APIS = ("/v1/responses", "/v1/messages")
FRAMES, SLOW_FRAMES = 102, 10
TICK_S = 0.005
HEADERS = (
    b"x-litellm-model-id: bench\r\nx-litellm-model-group: bench\r\nx-litellm-response-cost: 0.000063\r\n"
    b"x-litellm-overhead-duration-ms: 4.2\r\nx-litellm-attempted-retries: 0\r\n"
)
USAGE = {
    "prompt_tokens": 17, "completion_tokens": 100, "total_tokens": 117,
    "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 0},
    "completion_tokens_details": {"audio_tokens": 0, "reasoning_tokens": 0},
}  # fmt: skip
FIXED = {"id": "chatcmpl-bench", "created": 1790000000, "model": "bench"}
MESSAGE = {"role": "assistant", "content": "A thin door opens quickly, and closes silently. " * 4}
CHOICE = {"index": 0, "finish_reason": "stop", "message": MESSAGE}
PRICE = {"input_cost_per_token": "0.000001", "output_cost_per_token": "0.000002"}


def _whole(document: object) -> bytes:
    body = orjson.dumps(document)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n"
    return head % (len(body), HEADERS) + body


def _group(name: str) -> dict[str, object]:
    native = ["responses", "messages"] if name == NATIVE else []
    deployment = {"id": name, "provider": "openai", "physical": name, "native": native, **PRICE}
    return {"name": name, "mode": "chat", "wildcard": False, "fallbacks": [], "deployments": [deployment]}


def _frames(count: int) -> list[bytes]:
    """Each a chunk of its own; the last one states the usage and the end."""

    def chunk(choices: list[object], **more: object) -> bytes:
        event = {**FIXED, "object": "chat.completion.chunk", "choices": choices, **more}
        return _wrap(b"data: " + orjson.dumps(event) + b"\n\n")

    content = chunk([{"index": 0, "delta": {"content": " word"}, "finish_reason": None}])
    stop = chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    end = chunk([], usage=USAGE) + _wrap(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return [*[content] * (count - 2), stop, end]


def _native(path: str) -> tuple[bytes, list[bytes]]:
    """The answer, whole and in `FRAMES` frames, of a provider with this path."""
    door, body, script = find(path), {"model": NATIVE}, Script(frames=FRAMES - 9, completion_tokens=100)
    if door is None or door.frames is None:
        raise KeyError(path)
    content, closing = door.frames(script, body, 1)
    *frames, end = map(_wrap, content + closing)
    return _whole(door.whole(script, body, 1)), [*frames, end + b"0\r\n\r\n"]


def _wrap(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


ANSWER = _whole({**FIXED, "object": "chat.completion", "choices": [CHOICE], "usage": USAGE})
CATALOG = _whole({"groups": [_group(name) for name in MODELS], "default_fallbacks": []})
ALIVE = _whole({"status": "healthy"})
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n"
    + HEADERS
    + b"\r\n"
)
FAST, SLOW = _frames(FRAMES), _frames(SLOW_FRAMES)
OTHERS = {path.encode(): _native(path) for path in OTHER_APIS}
Streams = list[tuple[asyncio.Transport, Iterator[bytes]]]


class Ticker:
    """Writes the next frame of every running stream."""

    def __init__(self) -> None:
        self._fast: Streams = []
        self._slow: Streams = []
        self._wanted = asyncio.Event()

    def add(self, transport: asyncio.Transport, frames: list[bytes], *, slow: bool) -> None:
        """Begins a stream; its first frame leaves with its head."""
        coming = iter(frames)
        transport.write(STREAM_HEAD + next(coming))
        (self._slow if slow else self._fast).append((transport, coming))
        self._wanted.set()

    async def run(self) -> None:
        """Ticks until cancelled."""
        loop = asyncio.get_running_loop()
        at, tick = loop.time(), 0
        while True:
            if not self._fast and not self._slow:
                self._wanted.clear()
                await self._wanted.wait()
                at = loop.time()
            at, tick = at + TICK_S, tick + 1
            await asyncio.sleep(at - loop.time())
            self._fast = [one for one in self._fast if _write(*one)]
            if tick % int(1 / TICK_S) == 0:
                self._slow = [one for one in self._slow if _write(*one)]


def _write(transport: asyncio.Transport, coming: Iterator[bytes]) -> bool:
    frame = next(coming, None)
    if frame is None or transport.is_closing():
        return False
    transport.write(frame)
    return True


class Connection(asyncio.Protocol):
    """One connection of a subject."""

    transport: asyncio.Transport

    def __init__(self, ticker: Ticker) -> None:
        self._ticker, self._parser = ticker, httptools.HttpRequestParser(self)
        self._url = self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A subject has connected."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """Called by the parser."""
        self._url, self._body = url, b""

    def on_body(self, part: bytes) -> None:
        """Called by the parser."""
        self._body += part

    def on_message_complete(self) -> None:
        """Called by the parser: answer at once, after the model's delay, or by and by."""
        if self._parser.get_method() == b"GET":
            self.transport.write(CATALOG if self._url == b"/llmp/catalog" else ALIVE)
            return
        bounds = next((bounds for name, bounds in DELAYS_S.items() if name in self._body), None)
        if bounds is not None:
            delay_s = random.uniform(*bounds)
            asyncio.get_running_loop().call_later(delay_s, self._answer, self._body)
        else:
            self._answer(self._body)

    def _answer(self, body: bytes) -> None:
        if self.transport.is_closing():
            return
        slow = b"bench-1hz" in body
        answer, frames = OTHERS.get(self._url, (ANSWER, SLOW if slow else FAST))
        if b'"stream":true' in body or b'"stream": true' in body:
            self._ticker.add(self.transport, frames, slow=slow)
        else:
            self.transport.write(answer)


async def serve(port: int) -> None:
    """Serves until killed."""
    ticker, loop = Ticker(), asyncio.get_running_loop()
    async with await loop.create_server(lambda: Connection(ticker), "127.0.0.1", port, backlog=4096):
        await ticker.run()


if __name__ == "__main__":
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--port", type=int, required=True)
    uvloop.run(serve(flags.parse_args().port))
