"""The bytecodes of our own that one call executes, from its first byte to its record: `make work`.

A gateway without stores serves in this process before the static upstream, and is asked the same few things
over a socket. The counts hold for one minor version of Python and the locked packages; they are the same on
every machine but for the order in which bytes arrive. Prints them beside those kept in bench/work.json, and
keeps them there. It measures and rejects nothing.
"""

import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from raw_http import send_raw
from running_stack import KEY, MASTER_KEY
from stack_processes import StackProcesses

import llm_proxy
from bench import testbed
from bench.load import post
from bench.testbed import PATH, body
from llm_proxy.cli.serve import bind_socket, run_worker
from llm_proxy.settings import load
from llm_proxy.stack.probe import free_port, is_up

KEPT = Path(__file__).with_name("work.json")
OURS = str(Path(llm_proxy.__file__).parent)
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
WARM, REPEATS = 20, 12
SETTLE_S = 0.05
"""What follows an answer, up to its record, is executed within this time."""
LIMIT = WARM * 4


class Work:
    """What this thread has executed."""

    def __init__(self) -> None:
        self.bytecodes = self.calls = 0

    def trace(self, frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        """`sys.settrace`'s function: counts what is ours."""
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.calls += event == "call"
        self.bytecodes += event == "opcode"
        return self.trace


def requests() -> dict[str, bytes]:
    """The requests, by name."""
    agent = [f"authorization: Bearer {KEY}", "x-agent-id: scout"]
    return {
        "chat": post(PATH, agent[:1], body()),
        "chat of a limited agent": post(PATH, agent, body()),
        "stream of 102 frames": post(PATH, agent[:1], body(stream=True)),
        "401": post(PATH, ["authorization: Bearer sk-somebody-elses-0123456789"], body()),
        "429": post(PATH, [agent[0], "x-agent-id: busy"], body()),
    }


def ask(port: int, work: Work, found: dict[str, dict[str, int]]) -> None:
    """Asks each thing until it is warm, then a few times more; keeps the least. Ends the gateway."""
    try:
        while not is_up(port, "/health/ready"):
            time.sleep(0.1)
        for name, raw in requests().items():
            for _ in range(LIMIT + 1 if name == "429" else WARM):
                send_raw(port, raw, wait_s=0.3)
            counts: list[tuple[int, int]] = []
            for _ in range(REPEATS):
                time.sleep(SETTLE_S)
                before = work.bytecodes, work.calls
                send_raw(port, raw, wait_s=0.3)
                time.sleep(SETTLE_S)
                counts.append((work.bytecodes - before[0], work.calls - before[1]))
            found[name] = dict(zip(("bytecodes", "calls"), min(counts), strict=True))
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


def count() -> dict[str, dict[str, int]]:
    """Serves, asks and counts."""
    with tempfile.TemporaryDirectory() as folder:
        stack = StackProcesses(Path(folder))
        stack.add("upstream", testbed.upstream_spec(upstream := free_port()), upstream)
        stack.start("upstream")
        settings = load(
            environment="development", internal_api_key=KEY, litellm_api_key=MASTER_KEY, agent_rpm=LIMIT,
            litellm_proxy_url=stack.url("upstream"), spool_dir=Path(folder), port=free_port(),
            drain_delay_s=0,
        )  # fmt: skip
        work, found = Work(), dict[str, dict[str, int]]()
        thread = threading.Thread(target=ask, args=(settings.port, work, found))
        thread.start()
        sys.settrace(work.trace)
        try:
            with open(os.devnull, "w") as log, contextlib.redirect_stderr(log):  # noqa: PTH123 -- a device
                run_worker(settings, bind_socket(settings))
        finally:
            sys.settrace(None)
            thread.join()
            stack.stop()
    return found


def main() -> None:
    """Prints and keeps the counts of this Python."""
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    before: dict[str, Any] = kept.get(VERSION, {})
    kept[VERSION] = count()
    KEPT.write_text(json.dumps(kept, indent=2) + "\n")
    for name, one in kept[VERSION].items():
        change = one["bytecodes"] / before.get(name, one)["bytecodes"] - 1
        print(f"{name:28} {one['bytecodes']:8,} bytecodes {change:+7.1%} {one['calls']:6,} calls")


if __name__ == "__main__":
    main()
