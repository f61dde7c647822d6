"""Starts LiteLLM with our configuration, patches and callback, warms it up, serves it, and stops it.

Invariants: the port accepts no connection before one call of each kind succeeded; a configuration that does
not load ends the process with one line; on SIGTERM the process reports `leaving` first, then stops accepting
calls, finishes the running ones within a limit and writes out the call log. Units: seconds, MiB.
"""

import asyncio
import copy
import gc
import json
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
import yaml

from llm_proxy.json_access import Json, as_object
from llm_proxy.sidecar import cache_events, guardrails, litellm_internals, response_cache
from llm_proxy.sidecar.app import SidecarApp
from llm_proxy.sidecar.call_log import WARM_UP_GROUP
from llm_proxy.sidecar.config import EffectiveConfig, InvalidConfig, build_effective_config, has_observers
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches import attempts, redis_breaker, registry
from llm_proxy.sidecar.responses import App, Message, Scope

WARM_UP_MODEL = WARM_UP_GROUP
WARM_UP_CHAT: Json = {
    "model": WARM_UP_MODEL,
    "messages": [{"role": "user", "content": "ready?"}],
    "cache": {"no-store": True},
    "no-log": True,
}
WARM_UP_CALLS: tuple[tuple[str, Json], ...] = (
    ("/v1/chat/completions", WARM_UP_CHAT),
    ("/v1/chat/completions", {**WARM_UP_CHAT, "stream": True, "stream_options": {"include_usage": True}}),
    (
        "/v1/embeddings",
        {"model": WARM_UP_MODEL, "input": "ready?", "cache": {"no-store": True}, "no-log": True},
    ),
)
WARM_UP_TIMEOUT_S = 10


async def warm_up(app: App, key: str) -> None:
    """Make one call of each kind."""
    async with _start_responder() as port:
        router = litellm_internals.router()
        if router is None:
            return
        params = {
            "model": f"openai/{WARM_UP_MODEL}",
            "api_base": f"http://127.0.0.1:{port}/v1",
            "api_key": "none",
        }
        router.add_deployment(litellm_internals.make_deployment(WARM_UP_MODEL, params))
        try:
            async with asyncio.timeout(WARM_UP_TIMEOUT_S):
                for path, body in WARM_UP_CALLS:
                    await _warm_up_call(app, key, path, json.dumps(body).encode())
        except TimeoutError:
            print("sidecar: the warm-up took too long; serving", file=sys.stderr, flush=True)  # noqa: T201 -- the log of this part
        finally:
            router.delete_deployment(id=WARM_UP_MODEL)


async def _warm_up_call(app: App, key: str, path: str, body: bytes) -> None:
    unread = [body]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            print(f"sidecar: warm-up: {path} answered {message['status']}", file=sys.stderr, flush=True)  # noqa: T201 -- the same

    headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-length", str(len(body)).encode())]
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
        "state": {},
    }
    await app(scope, receive, send)


@asynccontextmanager
async def _start_responder() -> AsyncGenerator[int]:
    """A provider that says one word; its port."""
    server = await asyncio.start_server(_respond, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
    asked: Json = json.loads(await reader.readexactly(size)) if size else {}
    media = "text/event-stream" if asked.get("stream") else "application/json"
    raw = _response_body("input" in asked, bool(asked.get("stream")))
    writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {media}\r\ncontent-length: {len(raw)}\r\n".encode())
    writer.write(b"connection: close\r\n\r\n" + raw)
    await writer.drain()
    writer.close()


def _response_body(embedding: bool, stream: bool) -> bytes:  # noqa: FBT001 -- what was asked for
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    if embedding:
        data = [{"object": "embedding", "index": 0, "embedding": [0.0]}]
        return json.dumps({"object": "list", "model": WARM_UP_MODEL, "data": data, "usage": usage}).encode()
    chunk: Json = {"id": "warm", "object": "chat.completion.chunk", "created": 1, "model": WARM_UP_MODEL}
    if not stream:
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        return json.dumps(
            {**chunk, "object": "chat.completion", "choices": [choice], "usage": usage}
        ).encode()
    choices = [{"index": 0, "delta": {"role": "assistant", "content": "yes"}, "finish_reason": None}]
    end: list[Json] = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    frames: list[Json] = [
        {**chunk, "choices": choices},
        {**chunk, "choices": end},
        {**chunk, "choices": [], "usage": usage},
    ]
    return (
        b"".join(b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames) + b"data: [DONE]\n\n"
    )


DRAIN_NOTICE_S = 3.0
"""By then every gateway has looked: they do once a second, and wait two for the answer."""
DRAIN_TIMEOUT_S = 30
LIMIT_SPREAD = 0.1
"""Each process of several takes up to so much less, so that they do not leave together."""
_CHECK_TICKS = 50


class SidecarServer(uvicorn.Server):
    """A server that first says it is leaving, and then stops.

    `LLM_PROXY_SIDECAR_MAX_MIB` of resident memory, or `LLM_PROXY_SIDECAR_MAX_CALLS` answered, make it leave
    by itself; unset they mean no limit.
    """

    def __init__(self, config: uvicorn.Config, doors: SidecarApp, given: Mapping[str, str]) -> None:
        super().__init__(config)
        self._doors = doors
        self._leave_s = float(given.get("LLM_PROXY_SIDECAR_LEAVE_S", DRAIN_NOTICE_S))
        less = 1 - random.random() * LIMIT_SPREAD  # noqa: S311 -- a spread, not a secret
        self._most_mib = float(given.get("LLM_PROXY_SIDECAR_MAX_MIB") or "inf") * less
        self._most_calls = float(given.get("LLM_PROXY_SIDECAR_MAX_CALLS") or "inf") * less

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- uvicorn's signature
        """The first SIGTERM says so and waits a little; another signal stops at once."""
        if self._doors.draining or sig == signal.SIGINT:
            self.should_exit = True
        else:
            self._start_draining(self._leave_s)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; every five seconds it looks at itself."""
        if counter % _CHECK_TICKS == 0 and not self._doors.draining:
            self._check_limits()
        return await super().on_tick(counter)

    def _check_limits(self) -> None:
        grown, answered = resident_mib(), self._doors.completed
        if grown > self._most_mib or answered > self._most_calls:
            why = f"{grown:.0f} MiB, {answered} calls answered"
            print(f"sidecar: leaving, to be started anew: {why}", file=sys.stderr, flush=True)  # noqa: T201 -- its log
            self.config.timeout_graceful_shutdown = max(
                self.config.timeout_graceful_shutdown or 0, DRAIN_TIMEOUT_S
            )
            self._start_draining(DRAIN_NOTICE_S)

    def _start_draining(self, after_s: float) -> None:
        self._doors.draining = True
        asyncio.get_running_loop().call_later(after_s, setattr, self, "should_exit", True)  # noqa: FBT003 -- setattr's


def resident_mib() -> float:
    """Memory of this process that is in use (proc(5), statm); 0 where nothing tells."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


EXIT_CONFIG, FAILED = 2, 4
KEEP_ALIVE_S = 75


class StartFailed(Exception):  # noqa: N818 -- errors are named for the state they report
    """LiteLLM refused to start; the message is its reason."""


def run(config: Path, listener: socket.socket, key: str) -> int:
    """Serve until SIGTERM; the process's exit code."""
    import uvloop  # noqa: PLC0415 -- not there on every platform LiteLLM runs on

    gc.disable()  # what LiteLLM loads stays; to search it for garbage is a quarter of a start
    try:
        uvloop.run(_serve(config, listener, key))
    except InvalidConfig as problem:
        return _print(EXIT_CONFIG, f"{config}: {problem}")
    except StartFailed as problem:
        return _print(FAILED, f"{config}: LiteLLM did not start: {problem}")
    return 0


async def _serve(config: Path, listener: socket.socket, key: str) -> None:
    doors = SidecarApp(key)
    async with _start_litellm(config) as (loaded, observer):
        gc.freeze()
        gc.enable()
        doors.has_observers = has_observers(loaded.config["litellm_settings"])
        await warm_up(doors, key)
        await redis_breaker.wait_for_redis()
        doors.cache = _create_cache(loaded, cache_events.hit_reporter(observer, watched=doors.has_observers))
        doors.ready = True
        settings = uvicorn.Config(
            doors,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(os.environ.get("LLM_PROXY_SIDECAR_DRAIN_S") or 30),
            backlog=2048,
        )
        _print(0, f"serving on port {listener.getsockname()[1]}")
        await SidecarServer(settings, doors, os.environ).serve(sockets=[listener])


@asynccontextmanager
async def _start_litellm(config: Path) -> AsyncGenerator[tuple[EffectiveConfig, Untyped]]:
    loaded = await _load_config(config)
    proxy = litellm_internals.proxy_module()
    _override_config_loader(proxy.proxy_config, config, loaded)
    chosen, left_out = registry.select_patches(
        version("litellm"), os.environ.get(registry.DISABLING_SETTING, "")
    )
    for line in left_out:
        _print(0, line)
    for patch in chosen:
        if not patch.after_start:
            patch.install()
    started = proxy.proxy_startup_event(proxy.app)
    try:
        await started.__aenter__()
    except (Exception, SystemExit) as problem:
        raise StartFailed(_first_line(problem)) from problem
    for patch in chosen:
        if patch.after_start:
            patch.install()
    try:
        async with attempts.callback_installed() as observer:
            yield loaded, observer
    finally:
        await started.__aexit__(None, None, None)


def _create_cache(
    loaded: EffectiveConfig, report: cache_events.ReportHit
) -> response_cache.ResponseCache | None:
    found = guardrails.find_guardrails(loaded.config)
    guardrails.set_guardrails(found)
    cache = response_cache.create_response_cache(loaded.cached_call_types, found, report)
    for note in found.notes() if cache is not None else ():
        _print(0, note)
    return cache


def _read_yaml(config: Path) -> object:
    try:
        found: object = yaml.safe_load(config.read_text(encoding="utf-8"))
    except yaml.YAMLError as problem:
        raise InvalidConfig(f"not YAML: {_first_line(problem)}") from problem
    return found


async def _load_config(config: Path) -> EffectiveConfig:
    raw = _read_yaml(config)
    if as_object(raw).get("include"):
        merge = litellm_internals.proxy_module().proxy_config._process_includes  # noqa: SLF001 -- LiteLLM's rules for its own word
        try:
            raw = await merge(config=raw, config_file_path=str(config))
        except Exception as problem:
            raise InvalidConfig(f"include: {_first_line(problem)}") from problem
    found = build_effective_config(raw, os.environ)
    for note in found.notes:
        _print(0, note)
    return found


def _override_config_loader(loader: Untyped, config: Path, loaded: EffectiveConfig) -> None:
    """Have LiteLLM read our configuration instead of the file; modules beside the file are still found."""

    async def read(config_file_path: str | None = None) -> dict[str, Any]:
        litellm_internals.proxy_module().user_config_file_path = config_file_path
        return copy.deepcopy(loaded.config)

    loader._get_config_from_file = read  # noqa: SLF001 -- the same
    os.environ["CONFIG_FILE_PATH"] = str(config)


def _first_line(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:500] or type(problem).__name__


def _print(code: int, message: str) -> int:
    print(f"sidecar: {message}", file=sys.stderr, flush=True)  # noqa: T201 -- the log of this part
    return code
