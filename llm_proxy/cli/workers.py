"""The worker processes of one gateway: forked, replaced, stopped together.

Invariants: a signal to the parent goes to every worker, also to one that is being forked; on Linux no worker
outlives a killed parent. A worker that ends or hangs is replaced, after a growing pause while workers end
within `EARLY_EXIT_S`. While none serves, all are tried again together, `MAX_FAILED_STARTS` times; a single
one is tried once. A forked worker never returns into its parent's code.
"""

import asyncio
import contextlib
import faulthandler
import functools
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType

from llm_proxy.cli.printing import EXIT_FAILED, EXIT_UNAVAILABLE, warn
from llm_proxy.hung_workers import AwakeClock, Deadline, describe_hang, describe_kill, send_beats
from llm_proxy.settings import Settings
from llm_proxy.stack.process import die_with_parent
from llm_proxy.telemetry import WorkerMetricsFiles

EARLY_EXIT_S = 5.0
MIN_RESTART_PAUSE_S = 0.1
MAX_RESTART_PAUSE_S = 10.0
MAX_FAILED_STARTS = 5
STOP_POLL_S = 0.2
"""How often a pause between two starts looks for a signal."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_SERVES, _BEAT = b"\1", b"\2"
_MAX_REASON_BYTES = 2000

OnLoop = Callable[[asyncio.AbstractEventLoop], object]
RunWorker = Callable[
    [Settings, socket.socket, WorkerMetricsFiles | None, Callable[[], object], OnLoop], str | None
]
"""Runs one gateway until a signal; returns why it could not start.

It calls back once it serves, and before that with its event loop.
"""


@dataclass(frozen=True, slots=True)
class WorkersEnd:
    """How the workers of a gateway ended.

    Attributes:
        exit_code: 0 when a signal ended them and each stopped in order.
        reason: Why it is not 0; None with 0.
    """

    exit_code: int
    reason: str | None = None


@dataclass(slots=True)
class _Worker:
    """A running worker.

    Attributes:
        status: Read end of its pipe: beats, `_SERVES` once it serves, or why it cannot; closed when it ends.
        deadline: When it is killed unless it sends a beat.
    """

    pid: int
    files: WorkerMetricsFiles | None
    status: int
    started_s: float
    deadline: Deadline
    serves: bool = False
    reason: str = ""


class Workers:
    """The worker processes of one gateway."""

    def __init__(
        self,
        settings: Settings,
        bound: socket.socket,
        files: Sequence[WorkerMetricsFiles | None],
        run_worker: RunWorker,
    ) -> None:
        """Each worker keeps its metrics in one of `files`; a single one may keep them in its memory."""
        self._settings, self._bound, self._run_worker = settings, bound, run_worker
        self._missing = list(files)
        self._max_failed_starts = MAX_FAILED_STARTS if len(files) > 1 else 1
        self._hung_after_s = settings.hung_after_s or float("inf")
        self._clock = AwakeClock(self._hung_after_s)
        self._running: dict[int, _Worker] = {}
        self._stopping = False
        self._failed_starts = 0
        self._fork_at_s = 0.0
        self._pause_s = MIN_RESTART_PAUSE_S
        self._fault: str | None = None

    def run(self, on_serving: Callable[[], object]) -> WorkersEnd:
        """Keeps the number of workers until a signal has ended them all, or none can start.

        `on_serving` is called each time a worker serves.
        """
        for one in _SIGNALS:
            signal.signal(one, self._forward_signal)
        while self._running or not self._stopping:
            if self._failed_starts >= self._max_failed_starts:
                tries = f", tried {self._failed_starts} times" if self._failed_starts > 1 else ""
                return WorkersEnd(EXIT_UNAVAILABLE, f"the gateway cannot start{tries}: {self._fault}")
            self._fork_missing()
            self._read_statuses(on_serving)
            self._kill_hung()
        return WorkersEnd(EXIT_FAILED, self._fault) if self._fault else WorkersEnd(0)

    def _fork_missing(self) -> None:
        """Forks the missing workers when their pause is over and no first worker is still starting."""
        serve = any(worker.serves for worker in self._running.values())
        if time.monotonic() < self._fork_at_s or (self._running and not serve):
            return
        while self._missing and not self._stopping:
            try:
                self._fork(self._missing[-1])
            except OSError as error:
                self._fault = f"no process can be forked: {error.strerror}"
                warn(self._fault)
                self._note_failure(early=True)
                return
            self._missing.pop()

    def _fork(self, files: WorkerMetricsFiles | None) -> None:
        """Forks a worker, unless a signal has come; raises `OSError`."""
        parent = os.getpid()
        # A signal between the fork and the note of the worker would reach every worker but this one.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            if self._stopping:
                return
            status, report = os.pipe()
            try:
                pid = os.fork()
            except OSError:
                os.close(status)
                os.close(report)
                raise
            if pid == 0:
                self._become_worker(parent, files, report)
            os.close(report)
            deadline = Deadline(pid, self._clock.now_s() + self._hung_after_s)
            self._running[status] = _Worker(pid, files, status, time.monotonic(), deadline)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _become_worker(self, parent: int, files: WorkerMetricsFiles | None, report: int) -> None:
        """Runs the gateway in a forked process and ends it."""
        code = EXIT_FAILED

        def send(message: bytes) -> None:
            with contextlib.suppress(OSError):  # the parent has died, or stands still and the pipe is full
                os.write(report, message)

        try:
            for one in _SIGNALS:
                signal.signal(one, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            die_with_parent(parent, signal.SIGTERM)
            faulthandler.enable()
            os.set_blocking(report, False)
            beats = functools.partial(send_beats, send=lambda: send(_BEAT), hung_after_s=self._hung_after_s)
            serves = functools.partial(send, _SERVES)
            reason = self._run_worker(self._settings, self._bound, files, serves, beats)
            if reason is not None:
                send(reason.encode(errors="replace")[:_MAX_REASON_BYTES])
            code = 0 if reason is None else EXIT_UNAVAILABLE
        except BaseException:  # noqa: BLE001 -- nothing may return into the parent's code
            traceback.print_exc()
        finally:
            os._exit(code)

    def _read_statuses(self, on_serving: Callable[[], object]) -> None:
        """Waits until a worker reports or ends, or a missing one is due."""
        is_quiet = self._running and not self._missing and not self._is_aborting()
        timeout_s = self._clock.longest_pause_s if is_quiet else STOP_POLL_S
        for status in select.select(list(self._running), [], [], timeout_s)[0]:
            worker, reported = self._running[status], os.read(status, _MAX_REASON_BYTES)
            if not reported:
                self._bury(worker)
                continue
            worker.deadline.extend(self._clock.now_s() + self._hung_after_s)
            if reason := reported.strip(_SERVES + _BEAT):
                worker.reason = reason.decode(errors="replace")
            elif _SERVES in reported:
                worker.serves, self._failed_starts = True, 0
                on_serving()

    def _is_aborting(self) -> bool:
        return any(worker.deadline.was_aborted for worker in self._running.values())

    def _kill_hung(self) -> None:
        now_s, fault = self._clock.now_s(), describe_hang(self._hung_after_s)
        for worker in self._running.values():
            line = describe_kill(f"worker {worker.pid}", fault)
            worker.deadline.end_if_over(now_s, functools.partial(warn, line))

    def _bury(self, worker: _Worker) -> None:
        del self._running[worker.status]
        os.close(worker.status)
        code = os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])
        if worker.files is not None:
            worker.files.drop_gauges()
        if self._stopping:
            if code:
                self._fault = f"worker {worker.pid} ended with code {code} while it stopped"
                warn(self._fault)
            return
        self._missing.append(worker.files)
        if not worker.serves:
            self._fault = worker.reason or f"a worker ended with code {code} before it served"
        ended = f"worker {worker.pid} ended ({code})" if worker.serves else f"no worker: {self._fault}"
        warn(f"{ended}; starting another")
        early = not worker.serves or time.monotonic() - worker.started_s < EARLY_EXIT_S
        self._note_failure(early=early, served=worker.serves)

    def _note_failure(self, *, early: bool, served: bool = False) -> None:
        """Sets when the missing workers are forked; counts a try of which no worker is left."""
        if not self._running and not served:
            self._failed_starts += 1
        if len(self._missing) > 1:
            return  # the pause of this try is set
        self._pause_s = min(self._pause_s * 2, MAX_RESTART_PAUSE_S) if early else MIN_RESTART_PAUSE_S
        self._fork_at_s = time.monotonic() + self._pause_s

    def _forward_signal(self, signum: int, _: FrameType | None) -> None:
        if not self._stopping:
            self._stopping, self._fault = True, None
            self._bound.close()  # so that the port refuses once the workers no longer listen
        for worker in list(self._running.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signum)
