"""Several gateway processes on one socket: forked, watched, restarted, stopped together.

Invariants: a worker that dies is replaced, with a pause that grows while workers die young; a signal to the
parent goes to every worker; a parent that is killed takes its workers with it (Linux).
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from types import FrameType

import click

from llm_proxy.cli.serve import BACKLOG, listen, serve_one
from llm_proxy.settings import Settings

PR_SET_PDEATHSIG = 1
YOUNG_S = 5.0
PAUSE_S = 0.1
PAUSE_MAX_S = 10.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve_many(settings: Settings) -> int:
    """Run the configured number of workers until told to stop; returns the exit code."""
    bound = listen(settings)
    bound.listen(BACKLOG)
    return Workers(settings, bound).run()


class Workers:
    """The workers of one gateway."""

    def __init__(self, settings: Settings, bound: socket.socket) -> None:
        self._settings = settings
        self._bound = bound
        self._started: dict[int, float] = {}
        self._stopping = False
        self._pause_s = PAUSE_S

    def run(self) -> int:
        """Keep the number up until a signal says stop; returns when the last worker has ended."""
        for one in _SIGNALS:
            signal.signal(one, self._pass_on)
        for _ in range(self._settings.workers):
            self._fork()
        while self._started:
            pid, status = os.wait()
            started = self._started.pop(pid, 0.0)
            if not self._stopping:
                self._replace(pid, os.waitstatus_to_exitcode(status), time.monotonic() - started)
        return 0

    def _replace(self, pid: int, code: int, age_s: float) -> None:
        click.echo(f"llm-proxy: worker {pid} ended ({code}); starting another", err=True)
        self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S) if age_s < YOUNG_S else PAUSE_S
        time.sleep(self._pause_s)
        while not self._stopping:
            try:
                return self._fork()
            except OSError as full:
                click.echo(f"llm-proxy: no worker can be started ({full.strerror}); trying again", err=True)
                self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)
                time.sleep(self._pause_s)
        return None

    def _fork(self) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            for one in _SIGNALS:
                signal.signal(one, signal.SIG_DFL)
            _tie_to(parent)
            os._exit(serve_one(self._settings, self._bound))
        self._started[pid] = time.monotonic()

    def _pass_on(self, signum: int, _: FrameType | None) -> None:
        self._stopping = True
        for pid in list(self._started):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)


def _tie_to(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
