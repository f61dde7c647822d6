"""A program: a parent of one worker that answers each connection with its process id, and that acts.

`python hung_program.py PARENT HUNG_AFTER_S PORT ACT`: the parent is the `gateway`'s or the `sidecars'` own.
The first worker acts; those that follow it only serve. After SIGTERM a worker drains for twice HUNG_AFTER_S.
"""

import asyncio
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial

from llm_proxy.cli.workers import Workers
from llm_proxy.settings import load
from llm_proxy.sidecar import prefork
from llm_proxy.sidecar.recycle_limits import RecycleLimits

FOREVER_S = 600
PIECES, OF_THE_TIME = 8, 0.25
"""How often a busy worker blocks its loop, and for which part of the time after which it counts as hung."""


def note(text: str) -> None:
    """Writes a line to the log."""
    print(text, flush=True)  # noqa: T201 -- the log of this program


def serve(_loop: asyncio.AbstractEventLoop, _hung_after_s: float) -> None:
    """Only serves."""


def block(_loop: asyncio.AbstractEventLoop, _hung_after_s: float) -> None:
    """Blocks the event loop for ever."""
    time.sleep(FOREVER_S)


def be_stopped(_loop: asyncio.AbstractEventLoop, _hung_after_s: float) -> None:
    """Stands still; no signal but SIGKILL ends it."""
    os.kill(os.getpid(), signal.SIGSTOP)


def be_busy(loop: asyncio.AbstractEventLoop, hung_after_s: float, pieces: int = PIECES) -> None:
    """Blocks the event loop again and again, each time not too long."""
    time.sleep(hung_after_s * OF_THE_TIME)
    if pieces:
        loop.call_soon(be_busy, loop, hung_after_s, pieces - 1)
    else:
        note("was busy")


ACTS: dict[str, Callable[[asyncio.AbstractEventLoop, float], None]] = {
    one.__name__: one for one in (serve, block, be_stopped, be_busy)
}


async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends this process's id."""
    writer.write(str(os.getpid()).encode())
    writer.close()


async def work(
    listener: socket.socket,
    on_serving: Callable[[], object],
    on_closing: Callable[[], object],
    act: str,
    hung_after_s: float,
) -> None:
    """Serves until SIGTERM, then drains."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    server = await asyncio.start_server(answer, sock=listener)
    on_serving()
    ACTS[act](loop, hung_after_s)
    await ended.wait()
    server.close()
    on_closing()
    await asyncio.sleep(2 * hung_after_s)
    note("has drained")


def main() -> int:
    """Runs the parent; returns its exit code."""
    parent, hung_after_s, port, act = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    begun = mmap.mmap(-1, 1)

    def next_act() -> str:
        is_first, begun[0] = not begun[0], 1
        return act if is_first else "serve"

    def run_sidecar(link: prefork.ParentLink) -> int:
        if link.may_listen():
            with asyncio.Runner() as runner:
                ready = partial(link.report_ready, runner.get_loop())
                runner.run(work(link.listener, ready, link.report_closing, next_act(), hung_after_s))
        return 0

    def run_gateway(
        _settings: object,
        bound: socket.socket,
        _files: object,
        on_serving: Callable[[], object],
        on_loop: Callable[[asyncio.AbstractEventLoop], object],
    ) -> None:
        with asyncio.Runner() as runner:
            on_loop(runner.get_loop())
            runner.run(work(bound, on_serving, lambda: None, next_act(), hung_after_s))

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    if parent == "sidecars":
        return prefork.run([listener], RecycleLimits(hung_after_s=hung_after_s), run_sidecar)
    listener.listen()
    settings = load(llm_mode="mock", hung_after_s=hung_after_s)
    return Workers(settings, listener, [None], run_gateway).run(lambda: None).exit_code


if __name__ == "__main__":
    sys.exit(main())
