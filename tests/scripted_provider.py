"""A scripted provider: OpenAI, Anthropic, Gemini and Ollama shapes, good and bad, as one small process.

`python tests/scripted_provider.py --port 0` prints its port. What it plays is in `scripted/script.py`. It
records every model call (other `GET`s and Ollama's `/api/show` are polls) and states its own tokens:
`GET /_calls` (`?TEXT`: those whose bodies have it), `POST /_reset`; or, with `--record FILE`, a line a call.
"""

import argparse
import asyncio
import contextlib
import json
import re
import signal
import socket
import struct
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote

from scripted import families, forms, responses_wire
from scripted.failures import FAILURES, Failure
from scripted.families import Door
from scripted.prefix_cache import PrefixCache
from scripted.responses_state import StoredResponses
from scripted.script import Json, Script, at_call, failure, last_words, read

CATALOG = {"groups": [{"name": "*", "mode": "chat", "deployments": [{"id": "one", "provider": "openai"}]}]}
"""For a gateway that takes this program for a sidecar: any model is served."""

MARK = re.compile(r"mark-[0-9a-f-]+")
"""What callers of long runs put into each prompt, so that a call is known again."""
PLAIN = "text/plain; charset=utf-8"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
STATED = (
    *("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens"),
    *("cache_write_tokens", "cache_write_1h_tokens", "service_tier"),
)
"""Bytes beyond ASCII, in UTF-8, as some providers send them."""


@dataclass(slots=True)
class Seen:
    """One call as the provider saw it.

    Attributes:
        at: Seconds since the epoch.
        client_left_s: Seconds after `at` when the client hung up before the end; None if it stayed.
        frames: Frames of a stream that were sent.
        usage: Tokens this call states; `told` once the frame or body that states them was sent.
    """

    number: int
    at: float
    family: str
    path: str
    headers: dict[str, str]
    body: Json
    model: str
    do: str
    status: int = 200
    stream: bool = False
    frames: int = 0
    usage: Json = field(default_factory=dict)
    told: bool = False
    client_left_s: float | None = None


class CallLog:
    """The calls so far, shared by all connections.

    Attributes:
        calls: Oldest first; empty where they are written to `record` instead, a line each.
    """

    def __init__(self, record: TextIO | None = None) -> None:
        self.calls: list[Seen] = []
        self._texts: list[str] = []
        self.by_key: Counter[str] = Counter()
        self.count = self.polls = 0
        self.record = record
        self.stored = StoredResponses()
        self.prefixes = PrefixCache()

    def add(self, seen: Seen) -> None:
        """Note a call before it is answered: a provider that is killed has noted it."""
        self.count += 1
        if self.record is None:
            self.calls.append(seen)
            return
        mark = MARK.search(json.dumps(seen.body))
        line = {"at": seen.at, "mark": mark.group() if mark else None, "do": seen.do}
        self.record.write(json.dumps(line) + "\n")
        self.record.flush()

    def having(self, mark: str) -> list[Json]:
        """The calls whose bodies have this text; asked for once a call, of thousands of calls."""
        self._texts += [json.dumps(seen.body) for seen in self.calls[len(self._texts) :]]
        return [asdict(seen) for seen, text in zip(self.calls, self._texts, strict=True) if mark in text]

    def reset(self) -> None:
        """Forget every call."""
        self.calls.clear()
        self._texts.clear()
        self.by_key.clear()
        self.count = self.polls = 0
        self.stored.reset()


class Connection(asyncio.Protocol):
    """One keep-alive connection; requests are answered one after the other."""

    def __init__(self, log: CallLog) -> None:
        self.log = log
        self.buffer = b""
        self.task: asyncio.Task[None] | None = None
        self.seen: Seen | None = None
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        if self.task is not None and not self.task.done():
            if self.seen is not None:
                self.seen.client_left_s = time.time() - self.seen.at
            self.task.cancel()
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.task is None or self.task.done():
            self._next()

    def _next(self) -> None:
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length") or 0)
        if len(rest) < size:
            return
        self.buffer = rest[size:]
        method, target, _ = first.split(" ", 2)
        self.task = asyncio.get_running_loop().create_task(self._answer(method, target, headers, rest[:size]))
        self.task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            print(f"provider: {fault!r}", file=sys.stderr, flush=True)  # noqa: T201 -- a fault of the script itself
            self.transport.abort()
        elif self.buffer:
            self._next()

    async def _answer(self, method: str, target: str, headers: dict[str, str], raw: bytes) -> None:
        path = target.partition("?")[0]
        credential = headers.get("authorization") or headers.get("api-key") or ""
        found = self.log.stored.answer(method, target, credential, raw)
        if found is not None:
            self._tell(*found)
            return
        if method == "GET" or path.startswith(("/_", "/token")) or path.endswith("/api/show"):
            self._control(method, path, unquote(target.partition("?")[2]))
            return
        door = families.find(path)
        if door is None:
            self._send(404, {"error": {"message": f"no such route: {method} {path}", "type": "not_found"}})
            return
        kind = headers.get("content-type", "")
        if kind.startswith("multipart/"):
            body = forms.read(kind, raw)
        else:
            body = forms.read_file(target, raw) if path.endswith("/listen") else json.loads(raw)
        await self._play(door, path, headers, body)

    def _tell(self, status: int, told: Json | list[bytes]) -> None:
        if isinstance(told, dict):
            self._send(status, told)
        else:
            self._raw(status, b"".join(told), "text/event-stream")

    def _control(self, method: str, path: str, mark: str) -> None:
        if path == "/token":  # an OAuth server, for providers that want one
            self._send(200, {"access_token": "scripted", "expires_in": 3600, "token_type": "Bearer"})
        elif path == "/_reset":
            self.log.reset()
            self._send(200, {})
        elif path == "/_calls":
            calls = self.log.having(mark)
            self._send(200, {"calls": calls, "polls": self.log.polls, "asked": self.log.stored.asked})
        elif path == "/llmp/catalog":
            self._send(200, CATALOG)
        elif method == "GET":
            self.log.polls += 1
            self._send(200, {"object": "list", "data": []})
        else:
            self.log.polls += 1
            self._send(200, {"model_info": {}, "template": ""})

    async def _play(self, door: Door, path: str, headers: dict[str, str], body: Json) -> None:
        model = families.model_of(path, body)
        script = self.log.prefixes.bill(read(model, body), model, body)
        number = self.log.count + 1
        credential = headers.get("authorization") or headers.get("api-key") or ""
        self.seen = Seen(
            number, time.time(), door.family, path, headers, body, model, script.do,
            stream=door.streams(body), usage={name: getattr(script, name) for name in STATED},
        )  # fmt: skip
        self.log.add(self.seen)
        refused = self.log.stored.refused(credential, body) if door.family == "responses" else None
        if refused is not None:
            code = "previous_response_not_found"
            self._send(400, {"error": {"message": refused, "param": "previous_response_id", "code": code}})
            return
        if door.family == "responses" and script.do in {"ok", "tools"}:
            self.log.stored.keep(
                credential, body, responses_wire.response(script, {**body, "model": model}, number)
            )
        key = script.key or model
        failed = failure(script, self.log.by_key[key])
        script = at_call(script, self.log.by_key[key])
        self.log.by_key[key] += 1
        if script.first_ms:
            await asyncio.sleep(script.first_ms / 1000)
        if script.do == "hang":
            await asyncio.Event().wait()
        if script.do == "drop":
            self.transport.abort()
        elif script.do.startswith("says-"):
            self._say(FAILURES[script.do.removeprefix("says-")])
        elif script.do == "raw-error":
            self._raw(script.status, b"".join(script.writes()), "application/json", script.headers())
        elif failed:
            self._fail(door, script, *failed)
        elif self.seen.stream and door.frames:
            await self._stream(door, script, {**body, "model": model}, number)
        else:
            await self._whole(door, script, {**body, "model": model}, number)

    def _fail(self, door: Door, script: Script, status: int, kind: str) -> None:
        assert self.seen is not None
        self.seen.status = status
        if kind == "html":
            self._raw(status, b"<html><body><h1>502 Bad Gateway</h1></body></html>", "text/html")
            return
        more = {"retry-after": script.retry_after} if script.retry_after else {}
        if 300 <= status < 400:
            more["location"] = f"/elsewhere{self.seen.path}"
        if kind == "echo":
            echoed = f"Your message was not understood: {last_words(self.seen.body)}"
            self._send(status, {"error": {"message": echoed, "type": "invalid_request_error"}}, more)
            return
        self._send(status, door.error(status, kind), more)

    def _say(self, said: Failure) -> None:
        """An error in the words of a real provider, whatever the door."""
        assert self.seen is not None
        self.seen.status = said.status
        if isinstance(said.body, str):
            self._raw(said.status, said.body.encode(), "text/html", said.headers)
        else:
            self._raw(said.status, json.dumps(said.body).encode(), "application/json", said.headers)

    async def _whole(self, door: Door, script: Script, body: Json, number: int) -> None:
        assert self.seen is not None
        answer = door.error(500, "plain") if script.do == "error-in-200" else door.whole(script, body, number)
        raw, media = (
            (answer.encode(), PLAIN)
            if isinstance(answer, str)
            else (json.dumps(answer).encode(), "application/json")
        )
        if script.do in {"cut", "reset", "silence"}:
            self._head(200, media, length=len(raw))
            self.transport.write(raw[: len(raw) // 2])
            await self._break(script)
        elif script.do in {"garbage", "eof", "half-frame"}:
            self._raw(200, raw[: len(raw) // 2], "application/json")
        elif script.do == "empty":
            self._raw(200, b"", "application/json")
        elif script.do == "not-sse":
            self._raw(200, b"<html><body>Sign in</body></html>", "text/html")
        elif script.do == "raw":
            self._raw(200, b"".join(script.writes()), "application/json", script.headers())
        else:
            self.seen.told = script.counted and script.do != "error-in-200"
            self._raw(200, raw, media)

    async def _break(self, script: Script) -> None:
        await asyncio.sleep(0.2 if script.do == "torn-end" else 0.02)  # what was written is delivered first
        if script.do in {"silence", "stays-open"}:
            await asyncio.Event().wait()
        if script.do == "reset":
            sock: socket.socket = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()

    async def _stream(self, door: Door, script: Script, body: Json, number: int) -> None:
        assert self.seen is not None
        assert door.frames is not None
        media = door.media if door.media_of is None else door.media_of(body)
        if script.do in {"not-sse", "empty"}:
            page = b"<html><body>Sign in</body></html>" if script.do == "not-sse" else b""
            self._raw(200, page, "text/html" if page else media)
            return
        if script.do == "error-in-200" and door.family == "speech":
            self._send(200, door.error(500, "plain"))
            return
        content, closing = ([], script.writes()) if script.do == "raw" else door.frames(script, body, number)
        if script.at_once:
            self.seen.told = script.counted
            self._raw(200, b"".join((*content, *closing)), media)
            return
        self._head(200, media, more=script.headers() if script.do == "raw" else None)
        faulty = {"cut", "reset", "silence", "eof", "garbage", "half-frame", "error-in-200"}
        for frame in content[: script.after] if script.do in faulty else content:
            await self._frame(frame, script)
        if script.do in {"cut", "reset", "silence"}:
            await self._break(script)
            return
        ending = {
            "eof": [],
            "half-frame": [frame[:25] for frame in content[script.after : script.after + 1]],
            "error-in-200": [door.error_frame()],
            "garbage": [b'data: {"id": "x", "choi\n\n', *content[script.after :], *closing],
            "no-done": [frame for frame in closing if b"[DONE]" not in frame],
        }
        for frame in ending.get(script.do, closing):
            await self._frame(frame, script)
        self.seen.told = script.counted and script.do not in faulty
        if script.do in {"stays-open", "torn-end"}:
            await self._break(script)
            return
        self.transport.write(b"0\r\n\r\n")

    async def _frame(self, frame: bytes, script: Script) -> None:
        assert self.seen is not None
        await self.writable.wait()
        self.transport.write(b"%x\r\n%b\r\n" % (len(frame), frame))
        self.seen.frames += 1
        if script.gap_ms:
            await asyncio.sleep(script.gap_ms / 1000)

    def _head(
        self,
        status: int,
        media: str,
        body: bytes = b"",
        length: int | None = None,
        more: dict[str, str] | None = None,
    ) -> None:
        framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
        lines = [
            f"HTTP/1.1 {status} Scripted",
            f"content-type: {media}",
            framing,
            "x-request-id: req_scripted",
        ]
        lines += [f"{name}: {value}" for name, value in (more or {}).items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)

    def _raw(self, status: int, raw: bytes, media: str, more: dict[str, str] | None = None) -> None:
        self._head(status, media, raw, len(raw), more)

    def _send(self, status: int, body: Json, more: dict[str, str] | None = None) -> None:
        self._raw(status, json.dumps(body).encode(), "application/json", more)


async def serve(host: str, port: int, record: TextIO | None) -> None:
    """Listen until SIGTERM; the port is the first line of the output."""
    log, loop, stop = CallLog(record), asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(lambda: Connection(log), host, port)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 -- the caller reads it
    await stop.wait()
    server.close()


def main() -> None:
    """Run the provider."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--host", default="127.0.0.1")
    flags.add_argument("--port", type=int, default=0)
    flags.add_argument("--record", type=Path, help="a file for the calls; none is kept in memory")
    asked = flags.parse_args()
    with contextlib.ExitStack() as held, contextlib.suppress(KeyboardInterrupt):
        record = held.enter_context(asked.record.open("a", encoding="utf-8")) if asked.record else None
        asyncio.run(serve(asked.host, asked.port, record))


if __name__ == "__main__":
    main()
