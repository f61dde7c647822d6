"""The start of the process: LiteLLM with our configuration, patches and callback; a warm-up; serving.

Invariants: nothing listens before a call of each kind went through; a configuration that does not load ends
the process with one line; SIGTERM lets running calls end, then the call log is written out.
"""

import copy
import gc
import os
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvicorn
import yaml

from llm_proxy.sidecar import (
    cache_events,
    cache_gate,
    callbacks,
    guardrails,
    patches,
    response_cache,
    seams,
)
from llm_proxy.sidecar.doors import Doors
from llm_proxy.sidecar.effective import Broken, Effective, effective
from llm_proxy.sidecar.leaving import Leaving
from llm_proxy.sidecar.requirements import watched
from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.shapes import mapping
from llm_proxy.sidecar.warm_up import warm_up

BROKEN, FAILED = 2, 4
KEEP_ALIVE_S = 75


class NotStarted(Exception):  # noqa: N818 -- errors are named for the state they report
    """LiteLLM refused to start; the message is its reason."""


def run(config: Path, listener: socket.socket, key: str) -> int:
    """Serve until SIGTERM; the process's exit code."""
    import uvloop  # noqa: PLC0415 -- not there on every platform LiteLLM runs on

    gc.disable()  # what LiteLLM loads stays; to search it for garbage is a quarter of a start
    try:
        uvloop.run(_serve(config, listener, key))
    except Broken as problem:
        return _say(BROKEN, f"{config}: {problem}")
    except NotStarted as problem:
        return _say(FAILED, f"{config}: LiteLLM did not start: {problem}")
    return 0


async def _serve(config: Path, listener: socket.socket, key: str) -> None:
    doors = Doors(key)
    async with _litellm(config) as (loaded, observer):
        gc.freeze()
        gc.enable()
        doors.watched = watched(loaded.config["litellm_settings"])
        await warm_up(doors, key)
        await cache_gate.first_look()
        doors.cache = _cache(loaded, cache_events.reporter(observer, watched=doors.watched))
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
        _say(0, f"serving on port {listener.getsockname()[1]}")
        await Leaving(settings, doors, os.environ).serve(sockets=[listener])


@asynccontextmanager
async def _litellm(config: Path) -> AsyncGenerator[tuple[Effective, Theirs]]:
    loaded = await _load(config)
    proxy = seams.proxy()
    _give(proxy.proxy_config, config, loaded)
    chosen, left_out = patches.wanted(version("litellm"), os.environ.get(patches.SETTING, ""))
    for line in left_out:
        _say(0, line)
    for patch in chosen:
        if not patch.after_start:
            patch.install()
    started = proxy.proxy_startup_event(proxy.app)
    try:
        await started.__aenter__()
    except (Exception, SystemExit) as problem:
        raise NotStarted(_first_line(problem)) from problem
    for patch in chosen:
        if patch.after_start:
            patch.install()
    try:
        async with callbacks.installed() as observer:
            yield loaded, observer
    finally:
        await started.__aexit__(None, None, None)


def _cache(loaded: Effective, report: cache_events.Report) -> response_cache.ResponseCache | None:
    found = guardrails.configured(loaded.config)
    guardrails.remember(found)
    cache = response_cache.opened(loaded.cached, found, report)
    for note in found.notes() if cache is not None else ():
        _say(0, note)
    return cache


def _read(config: Path) -> object:
    try:
        found: object = yaml.safe_load(config.read_text(encoding="utf-8"))
    except yaml.YAMLError as problem:
        raise Broken(f"not YAML: {_first_line(problem)}") from problem
    return found


async def _load(config: Path) -> Effective:
    raw = _read(config)
    if mapping(raw).get("include"):
        merge = seams.proxy().proxy_config._process_includes  # noqa: SLF001 -- LiteLLM's rules for its own word
        try:
            raw = await merge(config=raw, config_file_path=str(config))
        except Exception as problem:
            raise Broken(f"include: {_first_line(problem)}") from problem
    found = effective(raw, os.environ)
    for note in found.notes:
        _say(0, note)
    return found


def _give(loader: Theirs, config: Path, loaded: Effective) -> None:
    """Have LiteLLM read our configuration instead of the file; modules beside the file are still found."""

    async def read(config_file_path: str | None = None) -> dict[str, Any]:
        seams.proxy().user_config_file_path = config_file_path
        return copy.deepcopy(loaded.config)

    loader._get_config_from_file = read  # noqa: SLF001 -- the same
    os.environ["CONFIG_FILE_PATH"] = str(config)


def _first_line(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:500] or type(problem).__name__


def _say(code: int, message: str) -> int:
    print(f"sidecar: {message}", file=sys.stderr, flush=True)  # noqa: T201 -- the log of this part
    return code
