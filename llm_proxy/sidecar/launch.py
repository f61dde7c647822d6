"""Starts LiteLLM with our configuration, patches and callback, warms it up, serves it, and stops it.

Invariants: the port accepts no connection before one call of each kind succeeded; a configuration that does
not load ends the process with one line; at its end the process writes out the call log. Units: seconds.
"""

import asyncio
import copy
import gc
import json
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from llm_proxy.garbage import collect_garbage
from llm_proxy.huge_pages import use_huge_pages
from llm_proxy.json_access import Json, as_object
from llm_proxy.sidecar import cache_events, callback, catalog, guardrails, litellm_internals, response_cache
from llm_proxy.sidecar.app import SidecarApp
from llm_proxy.sidecar.call_log import WARM_UP_GROUP, CallLog
from llm_proxy.sidecar.config import EffectiveConfig, InvalidConfig, build_effective_config, has_observers
from llm_proxy.sidecar.config_file import ConfigReport
from llm_proxy.sidecar.deferred_imports import deferring
from llm_proxy.sidecar.direct_calls import DirectCalls
from llm_proxy.sidecar.direct_settings import direct_endpoints
from llm_proxy.sidecar.environment import ACCEPT_ALL, ACCEPT_VARIABLE, accepted_settings
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches import redis_breaker, registry
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, installed
from llm_proxy.sidecar.prefork import ParentLink
from llm_proxy.sidecar.process_log import log_line
from llm_proxy.sidecar.responses import App, Message, Scope
from llm_proxy.sidecar.server import SidecarServer
from llm_proxy.sidecar.setting_rules import find_lost_protections

WARM_UP_CHAT: Json = {
    "model": WARM_UP_GROUP,
    "messages": [{"role": "user", "content": "ready?"}],
    "cache": {"no-store": True},
    "no-log": True,
}
WARM_UP_CALLS: tuple[tuple[str, Json], ...] = (
    ("/v1/chat/completions", WARM_UP_CHAT),
    ("/v1/chat/completions", {**WARM_UP_CHAT, "stream": True, "stream_options": {"include_usage": True}}),
    (
        "/v1/embeddings",
        {"model": WARM_UP_GROUP, "input": "ready?", "cache": {"no-store": True}, "no-log": True},
    ),
)
WARM_UP_TIMEOUT_S = 10
EXIT_LITELLM = 4
IMPORTED_BY = os.getpid()
"""The process that imported this module: the one that serves, or the one that forks it."""
DEFAULT_GC_THRESHOLD, GC_THRESHOLD = (700, 10, 10), 10_000
"""Allocated objects before a collection, CPython's and ours."""


class StartFailed(Exception):  # noqa: N818 -- errors are named for the state they report
    """LiteLLM did not start; the message is its reason."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A process that has imported LiteLLM: what it and those that it forks serve.

    Attributes:
        config: The configuration file.
        loaded: What LiteLLM gets of it.
        after_start: The patches to install after LiteLLM's start; the others are installed.
    """

    config: Path
    loaded: EffectiveConfig
    after_start: tuple[LiteLLMPatch, ...]


def prepare(config: Path) -> Prepared:
    """Read the configuration, import LiteLLM and install the patches; raises `InvalidConfig`.

    What is imported is never garbage: to search it takes a quarter of the start, and in a forked process
    writes to each of its pages.
    """
    gc.disable()
    loaded = asyncio.run(_load_config(config))
    after_start = import_litellm()
    _override_config_loader(litellm_internals.proxy_module().proxy_config, config, loaded)
    catalog.set_published_apart(loaded.config["model_list"])
    gc.freeze()
    return Prepared(config, loaded, after_start)


@cache
def import_litellm() -> tuple[LiteLLMPatch, ...]:
    """Import LiteLLM with our patches; return those to install after its start."""
    chosen, left_out = registry.select_patches(
        version("litellm"), os.environ.get(registry.DISABLING_SETTING, "")
    )
    for line in left_out:
        log_line(line)
    with deferring():
        for patch in chosen:
            if not patch.after_start:
                _install(patch)
        litellm_internals.proxy_module()
        litellm_internals.import_for_first_calls()
    return tuple(patch for patch in chosen if patch.after_start)


def _install(patch: LiteLLMPatch) -> None:
    patch.install()
    installed.add(patch.name)


def run(prepared: Prepared, listener: socket.socket, keys: tuple[str, ...], link: ParentLink | None) -> int:
    """Serve until SIGTERM; return the process's exit code.

    Args:
        prepared: Returned by `prepare`, in this process or in its parent.
        listener: A bound socket that does not listen yet.
        keys: The traffic keys, newest first.
        link: To the parent that forked this process; None without one.
    """
    import uvloop  # noqa: PLC0415 -- not there on every platform LiteLLM runs on

    try:
        uvloop.run(_serve(prepared, listener, keys, link))
    except StartFailed as error:
        log_line(f"{prepared.config}: LiteLLM did not start: {error}")
        return EXIT_LITELLM
    return 0


async def _serve(
    prepared: Prepared, listener: socket.socket, keys: tuple[str, ...], link: ParentLink | None
) -> None:
    loaded = prepared.loaded
    app = SidecarApp(keys, config_report=ConfigReport(prepared.config, os.environ))
    async with _start_litellm(prepared) as call_log:
        gc.freeze()
        if gc.get_threshold() == DEFAULT_GC_THRESHOLD:  # not changed by LiteLLM's PYTHON_GC_THRESHOLD
            gc.set_threshold(GC_THRESHOLD, *DEFAULT_GC_THRESHOLD[1:])
        collect_garbage()
        app.states_timeouts = loaded.states_timeouts
        app.has_observers = has_observers(loaded.config["litellm_settings"])
        await warm_up(app, keys[0])
        await redis_breaker.wait_for_redis()
        app.cache = _create_cache(loaded, cache_events.hit_reporter(call_log, observed=app.has_observers))
        app.direct = DirectCalls(direct_endpoints(loaded.config))
        if os.getpid() == IMPORTED_BY:  # a forked process shares its memory until it writes to it
            use_huge_pages()  # a repeat takes 7 % less CPU, a call after a pause 3 %
        app.ready = True
        log_line(f"serving on port {listener.getsockname()[1]}")
        await SidecarServer(app, os.environ, link).serve(sockets=[listener])


@asynccontextmanager
async def _start_litellm(prepared: Prepared) -> AsyncGenerator[CallLog | None]:
    """Run LiteLLM with our callback; yield the call log."""
    proxy = litellm_internals.proxy_module()
    started = proxy.proxy_startup_event(proxy.app)
    try:
        await started.__aenter__()
    except (Exception, SystemExit) as error:
        raise StartFailed(_one_line(error)) from error
    for patch in prepared.after_start:
        _install(patch)
    try:
        _require_guardrails(prepared.loaded)
        async with _call_log() as call_log:
            callback.install_callback(call_log)
            yield call_log
    finally:
        await started.__aexit__(None, None, None)


def _require_guardrails(loaded: EffectiveConfig) -> None:
    missing = guardrails.find_missing_guardrails(loaded.config, accepted_settings(os.environ))
    if missing:
        raise StartFailed(
            f"it would serve without {', '.join(missing)}, which it could not set up (see the log's line "
            f"`Skipping guardrail`): mend the file, or accept it by --accept PATH or {ACCEPT_VARIABLE}"
        )


@asynccontextmanager
async def _call_log() -> AsyncGenerator[CallLog | None]:
    """Run the call log if a database is configured; write out what it holds at the end."""
    url = os.environ.get("LLM_CALLS_DATABASE_URL")
    if not url:
        yield None
        return
    call_log = CallLog(url, os.environ.get("LLM_PROXY__CA_FILE"))
    await call_log.start()
    try:
        yield call_log
    finally:
        await call_log.stop()


def _create_cache(
    loaded: EffectiveConfig, report: cache_events.ReportHit
) -> response_cache.ResponseCache | None:
    found = guardrails.find_guardrails(loaded.config)
    guardrails.set_guardrails(found)
    cache = response_cache.create_response_cache(loaded.cached_call_types, found, report)
    for note in found.notes() if cache is not None else ():
        log_line(note)
    return cache


async def _load_config(config: Path) -> EffectiveConfig:
    raw = _read_yaml(config)
    if as_object(raw).get("include"):
        merge = litellm_internals.proxy_module().proxy_config._process_includes  # noqa: SLF001 -- LiteLLM's rules for its own key
        try:
            raw = await merge(config=raw, config_file_path=str(config))
        except Exception as error:
            raise InvalidConfig(f"include: {_one_line(error)}") from error
    found = build_effective_config(raw, os.environ)
    accepted = accepted_settings(os.environ)
    lost = [] if ACCEPT_ALL in accepted else list(find_lost_protections(as_object(raw), accepted))
    if lost:
        told = "; ".join(f"{one.path} protects and has no effect here ({one.message})" for one in lost)
        raise InvalidConfig(f"{told}: mend the file, or accept it by --accept PATH or {ACCEPT_VARIABLE}")
    for note in found.notes:
        log_line(note)
    os.environ.update(found.variables)  # LiteLLM sets them only after it has read the references to them
    return found


def _read_yaml(config: Path) -> object:
    try:
        found: object = yaml.safe_load(config.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InvalidConfig(f"not YAML: {_one_line(error)}") from error
    return found


def _override_config_loader(loader: Untyped, config: Path, loaded: EffectiveConfig) -> None:
    """Make LiteLLM's loader return our configuration; modules beside the file are still found."""

    async def read(config_file_path: str | None = None) -> dict[str, Any]:
        litellm_internals.proxy_module().user_config_file_path = config_file_path
        return copy.deepcopy(loaded.config)

    loader._get_config_from_file = read  # noqa: SLF001 -- no setting does this
    os.environ["CONFIG_FILE_PATH"] = str(config)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


async def warm_up(app: App, key: str) -> None:
    """Make one call of each kind through the application, to a local provider; LiteLLM's first cost 1 s.

    A failure is logged and changes nothing else. The temporary deployment is removed.
    """
    async with _start_responder() as port:
        router = litellm_internals.router()
        if router is None:
            return
        params = {
            "model": f"openai/{WARM_UP_GROUP}",
            "api_base": f"http://127.0.0.1:{port}/v1",
            "api_key": "none",
        }
        router.add_deployment(litellm_internals.make_deployment(WARM_UP_GROUP, params))
        try:
            async with asyncio.timeout(WARM_UP_TIMEOUT_S):
                for path, body in WARM_UP_CALLS:
                    await _warm_up_call(app, key, path, json.dumps(body).encode())
        except TimeoutError:
            log_line("the warm-up took too long; serving")
        finally:
            router.delete_deployment(id=WARM_UP_GROUP)


async def _warm_up_call(app: App, key: str, path: str, body: bytes) -> None:
    unread = [body]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            log_line(f"warm-up: {path} answered {message['status']}")

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
    """Run a provider that answers with one word; yield its port."""
    server = await asyncio.start_server(_respond, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
    request: Json = json.loads(await reader.readexactly(size)) if size else {}
    streamed = bool(request.get("stream"))
    content_type = "text/event-stream" if streamed else "application/json"
    raw = _response_body(embedding="input" in request, streamed=streamed)
    writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n".encode())
    writer.write(f"content-length: {len(raw)}\r\n".encode())
    writer.write(b"connection: close\r\n\r\n" + raw)
    await writer.drain()
    writer.close()


def _response_body(*, embedding: bool, streamed: bool) -> bytes:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    if embedding:
        data = [{"object": "embedding", "index": 0, "embedding": [0.0]}]
        return json.dumps({"object": "list", "model": WARM_UP_GROUP, "data": data, "usage": usage}).encode()
    chunk: Json = {"id": "warm", "object": "chat.completion.chunk", "created": 1, "model": WARM_UP_GROUP}
    if not streamed:
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
