"""The static upstream of every subject: it answers what a sidecar would, at next to no cost.

    python -m bench.upstream --port 20001

The model's name says what it does: `bench` answers at once, `bench-50ms` after 50 ms, `bench-250ms` after
250, `bench-varied` after 125 to 375, these in few frames. A streamed call gets `FRAMES` frames, one every
5 ms; with `bench-200` 200 of them, with `bench-20hz` 100, one every 50 ms. Responses, Messages, Gemini's
`streamGenerateContent` and embeddings are told by their path. Nothing is parsed but the framing.
One ticker serves all streams and rests without them; `GET /served` says how many calls were answered.
"""

import argparse
import asyncio
import base64
import random
from array import array
from collections.abc import Iterator
from typing import cast

import httptools
import orjson
import uvloop
from scripted.families import find
from scripted.script import Script

NATIVE = "bench-native"
DELAYS_S = {b"bench-50ms": (0.05, 0.05), b"bench-250ms": (0.25, 0.25), b"bench-varied": (0.125, 0.375)}
TWO_HUNDRED, BUSY, EMBEDDINGS = "bench-200", "bench-20hz", "bench-embed"
MODELS = ("bench", *(name.decode() for name in DELAYS_S), TWO_HUNDRED, BUSY, NATIVE)
OTHER_APIS = ("/v1/responses", "/v1/messages")
GEMINI = ":streamGenerateContent"
FRAMES, FEW_FRAMES, BUSY_FRAMES = 102, 12, 100
TICK_S = 0.005
BUSY_TICKS = 10
"""A busy stream has a frame every so many ticks; a tenth of them has one now."""
BUSY_S = (BUSY_FRAMES - 1) * BUSY_TICKS * TICK_S
INPUTS, DIMENSIONS = 100, 1536
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
    mode = "embedding" if name == EMBEDDINGS else "chat"
    return {"name": name, "mode": mode, "wildcard": False, "fallbacks": [], "deployments": [deployment]}


def _vectors(*, packed: bool) -> bytes:
    """Answers to `INPUTS` inputs: vectors as numbers or, as OpenAI's own client asks for them, as base64."""
    rng = random.Random(1)
    vectors = [[round(rng.gauss(0, 0.03), 9) for _ in range(DIMENSIONS)] for _ in range(INPUTS)]
    sent = [base64.b64encode(array("f", one)).decode() for one in vectors] if packed else vectors
    data = [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(sent)]
    usage = {"prompt_tokens": 800, "total_tokens": 800}
    return _whole({"object": "list", "data": data, "model": EMBEDDINGS, "usage": usage})


def _frames(count: int) -> list[bytes]:
    """Each a chunk of its own; the last one states the usage and the end.

    Words differ: LiteLLM breaks off a stream that says the same a hundred times.
    """

    def chunk(choices: list[object], **more: object) -> bytes:
        event = {**FIXED, "object": "chat.completion.chunk", "choices": choices, **more}
        return _wrap(b"data: " + orjson.dumps(event) + b"\n\n")

    words = [
        chunk([{"index": 0, "delta": {"content": f" word{at}"}, "finish_reason": None}]) for at in range(10)
    ]
    content = [words[at % len(words)] for at in range(count - 2)]
    stop = chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    end = chunk([], usage=USAGE) + _wrap(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return [*content, stop, end]


def _native(path: str) -> tuple[bytes, list[bytes]]:
    """The answer, whole and in about `FRAMES` frames, of a provider with this path."""
    door, script = find(path), Script(frames=FRAMES - 9, completion_tokens=100)
    body: dict[str, object] = {"model": NATIVE, "contents": []}
    if door is None or door.frames is None:
        raise KeyError(path)
    content, closing = door.frames(script, body, 1)
    *frames, end = map(_wrap, content + closing)
    return _whole(door.whole(script, body, 1)), [*frames, end + b"0\r\n\r\n"]


def _wrap(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


ANSWER = _whole({**FIXED, "object": "chat.completion", "choices": [CHOICE], "usage": USAGE})
CATALOG = _whole({"groups": [_group(name) for name in (*MODELS, EMBEDDINGS)], "default_fallbacks": []})
ALIVE = _whole({"status": "healthy"})
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n"
    + HEADERS
    + b"\r\n"
)
FAST, FEW, BUSY_STREAM = _frames(FRAMES), _frames(FEW_FRAMES), _frames(BUSY_FRAMES)
BY_MODEL = {BUSY.encode(): BUSY_STREAM, TWO_HUNDRED.encode(): _frames(200)} | dict.fromkeys(DELAYS_S, FEW)
OTHERS = {path.encode(): _native(path) for path in (*OTHER_APIS, GEMINI)}
VECTORS, PACKED = _vectors(packed=False), _vectors(packed=True)
Streams = list[tuple[asyncio.Transport, Iterator[bytes]]]


class Ticker:
    """Writes the next frame of every running stream; busy streams have their turns one after the other."""

    def __init__(self) -> None:
        self._fast: Streams = []
        self._busy: list[Streams] = [[] for _ in range(BUSY_TICKS)]
        self._wanted = asyncio.Event()
        self.served = 0

    def add(self, transport: asyncio.Transport, frames: list[bytes]) -> None:
        """Begins a stream; its first frame leaves with its head."""
        coming = iter(frames)
        transport.write(STREAM_HEAD + next(coming))
        chosen = min(self._busy, key=len) if frames is BUSY_STREAM else self._fast
        chosen.append((transport, coming))
        self._wanted.set()

    async def run(self) -> None:
        """Ticks until cancelled."""
        loop = asyncio.get_running_loop()
        at, tick = loop.time(), 0
        while True:
            if not self._fast and not any(self._busy):
                self._wanted.clear()
                await self._wanted.wait()
                at = loop.time()
            at, tick = at + TICK_S, (tick + 1) % BUSY_TICKS
            await asyncio.sleep(at - loop.time())
            self._fast = [one for one in self._fast if _write(*one)]
            self._busy[tick] = [one for one in self._busy[tick] if _write(*one)]


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
            served = _whole(self._ticker.served) if self._url == b"/served" else ALIVE
            self.transport.write(CATALOG if self._url == b"/llmp/catalog" else served)
            return
        self._ticker.served += 1
        bounds = next((bounds for name, bounds in DELAYS_S.items() if name in self._body), None)
        if bounds is not None:
            delay_s = random.uniform(*bounds)
            asyncio.get_running_loop().call_later(delay_s, self._answer, self._body)
        else:
            self._answer(self._body)

    def _answer(self, body: bytes) -> None:
        if self.transport.is_closing():
            return
        path = self._url.partition(b"?")[0]
        if path.endswith(b"/embeddings"):
            self.transport.write(PACKED if b'"base64"' in body else VECTORS)
            return
        other = OTHERS.get(GEMINI.encode() if path.endswith(GEMINI.encode()) else path)
        if b'"stream":true' in body or b'"stream": true' in body or path.endswith(GEMINI.encode()):
            own = next((frames for name, frames in BY_MODEL.items() if name in body), FAST)
            self._ticker.add(self.transport, other[1] if other else own)
        else:
            self.transport.write(other[0] if other else ANSWER)


async def serve(port: int) -> None:
    """Serves until killed."""
    ticker, loop = Ticker(), asyncio.get_running_loop()
    async with await loop.create_server(lambda: Connection(ticker), "127.0.0.1", port, backlog=4096):
        await ticker.run()


if __name__ == "__main__":
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--port", type=int, required=True)
    uvloop.run(serve(flags.parse_args().port))
