"""A program: the sidecars' parent with workers that act a word each, in place of LiteLLM.

`python prefork_program.py START_TIMEOUT_S PORT WORD...`: the first worker acts the first word, and so on; all
further ones serve.
"""

import asyncio
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

from llm_proxy.sidecar import prefork
from llm_proxy.sidecar.recycle_limits import RecycleLimits

FOREVER_S = 600


def serve(link: prefork.ParentLink, _: int) -> None:
    """Serves: each connection gets this process's id."""
    assert link.may_listen()
    asyncio.run(answer(link))


async def answer(link: prefork.ParentLink, then: Callable[[], object] = lambda: None) -> None:
    """Reports that it serves, calls `then`, and sends this process's id on each connection."""
    server = await asyncio.start_server(_send_pid, sock=link.listener)
    link.report_ready(asyncio.get_running_loop())
    then()
    await server.serve_forever()


async def _send_pid(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(str(os.getpid()).encode())
    writer.close()


def hang(_link: prefork.ParentLink, _: int) -> None:
    """Never serves."""
    time.sleep(FOREVER_S)


def be_stopped(_link: prefork.ParentLink, _: int) -> None:
    """Never serves, and no signal but SIGKILL ends it."""
    os.kill(os.getpid(), signal.SIGSTOP)


def grow(link: prefork.ParentLink, _: int) -> None:
    """Serves, and requests a replacement at once."""
    assert link.may_listen()
    asyncio.run(answer(link, link.request_replacement))


def outlive(link: prefork.ParentLink, before: int) -> None:
    """Listens, then kills the worker before it, and reports only when that one is gone."""
    assert link.may_listen()
    link.listener.listen()
    os.kill(before, signal.SIGKILL)
    while is_there(before):
        time.sleep(0.01)
    asyncio.run(answer(link))


def is_there(pid: int) -> bool:
    """Whether a process runs or waits to be reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


ACTS: dict[str, Callable[[prefork.ParentLink, int], None]] = {
    one.__name__: one for one in (serve, hang, be_stopped, grow, outlive)
}


def main() -> int:
    """Runs the parent; returns its exit code."""
    timeout_s, port, words = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    shared = mmap.mmap(-1, 16)  # how many workers have begun, and the id of the last one

    def act(link: prefork.ParentLink) -> int:
        began, before = (int.from_bytes(shared[at : at + 8]) for at in (0, 8))
        shared[:] = (began + 1).to_bytes(8) + os.getpid().to_bytes(8)
        ACTS[words[began] if began < len(words) else "serve"](link, before)
        return 0

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return prefork.run([listener], RecycleLimits(), act, timeout_s)


if __name__ == "__main__":
    sys.exit(main())
