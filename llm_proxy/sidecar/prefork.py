"""A parent that has imported LiteLLM and forks a worker for each port; it restarts and replaces its workers.

Invariants: the parent has one thread and no event loop, and it never accepts a connection. It alone closes a
port, when no worker listens. A worker over its limits keeps its port until its replacement serves; one that
does not serve in time, or hangs, is killed. A worker whose parent has died serves on for `ORPHAN_S`, then
drains. Times are those of the parent's `AwakeClock`.
"""

import asyncio
import faulthandler
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import FrameType

from llm_proxy.hung_workers import AwakeClock, Deadline, describe_hang, describe_kill, send_beats
from llm_proxy.restart_pauses import STABLE_AFTER_S, restart_pause_s
from llm_proxy.sidecar.process_log import log_line, name_process
from llm_proxy.sidecar.recycle_limits import HARD_MIB_VARIABLE, UNLIMITED, RecycleLimits, resident_mib

ORPHAN_S = 60.0
"""Until then a launcher has started a new parent, and ends the orphans when the new workers serve."""
POLL_S = 1.0
START_TIMEOUT_S, MAX_START_TIMEOUT_S = 45.0, 360.0
"""A worker that does not serve by then is killed; the next one has twice the time, up to the second."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP, signal.SIGCHLD)
"""All but the last end the workers. SIGUSR1: after their running calls, however long these take."""
WARMED, READY, OVER_LIMIT, CLOSING, BEAT = b"w", b"r", b"o", b"c", b"b"
"""From a worker: it is about to listen; it serves; it is over its limits; it stops to listen; it beats."""
LISTEN, REPLACED = b"l", b"g"
"""To a worker: it may listen; its replacement serves."""


class ParentLink:
    """A worker's connection to its parent.

    Attributes:
        listener: The worker's port. Parent and replacement share it.
    """

    def __init__(self, link: socket.socket, listener: socket.socket, hung_after_s: float) -> None:
        link.settimeout(0)
        self._link, self.listener, self._hung_after_s = link, listener, hung_after_s

    def fileno(self) -> int:
        """Returns the descriptor, which is readable when `was_replaced` has news."""
        return self._link.fileno()

    def may_listen(self) -> bool:
        """Returns whether this worker may listen, as soon as the parent says so; False when it has died.

        A worker that listened without the parent's word could do so just before the parent closes the port.
        """
        self._send(WARMED)
        self._link.settimeout(None)
        try:
            return self._link.recv(1) == LISTEN
        except OSError:
            return False
        finally:
            self._link.settimeout(0)

    def report_ready(self, loop: asyncio.AbstractEventLoop) -> None:
        """Reports that this worker serves, and from now on that its event loop runs."""
        self._send(READY)
        send_beats(loop, partial(self._send, BEAT), self._hung_after_s)

    def request_replacement(self) -> None:
        """Requests another worker for this port."""
        self._send(OVER_LIMIT)

    def was_replaced(self) -> bool | None:
        """Returns whether the replacement serves; None when the parent has died."""
        try:
            return self._link.recv(1) == REPLACED or None
        except BlockingIOError:
            return False
        except OSError:
            return None

    def report_closing(self) -> None:
        """Reports that this worker stops to listen: its parent closes the port unless another one listens."""
        self._send(CLOSING)

    def _send(self, message: bytes) -> None:
        _send(self._link, message)


@dataclass(slots=True)
class _ForkedWorker:
    """A worker, as its parent sees it.

    Attributes:
        link: The parent's end of its `ParentLink`.
        deadline: When it is killed unless it is ready by then, or after that sends a beat.
        listens: Whether it listens, or may at any moment.
    """

    pid: int
    link: socket.socket
    started_s: float
    deadline: Deadline
    listens: bool = False
    is_ready: bool = False


@dataclass(slots=True)
class _Slot:
    """A port and who serves it.

    Attributes:
        workers: The worker that serves or starts last; before it those that end.
        failures: Ends in a row, each within `STABLE_AFTER_S` of the start.
        fork_at_s: When the next worker is forked; None while none is needed.
    """

    listener: socket.socket
    workers: list[_ForkedWorker] = field(default_factory=list[_ForkedWorker])
    failures: int = 0
    fork_at_s: float | None = None

    @property
    def port(self) -> int:
        """The port's number."""
        return int(self.listener.getsockname()[1])

    def close_unless_served(self) -> None:
        """Refuses new connections if no worker listens; the port stays bound, and `listen` opens it again.

        A socket that does not listen is left alone: Linux would shut down each connection it accepts later.
        """
        is_open = self.listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if is_open and not any(one.listens for one in self.workers):
            self.listener.shutdown(socket.SHUT_RDWR)


class _InWorker(BaseException):
    """Leaves the parent's code in a forked process, which has nothing to finish there."""

    def __init__(self, link: ParentLink) -> None:
        super().__init__()
        self.link = link


def run(
    listeners: Sequence[socket.socket],
    limits: RecycleLimits,
    run_worker: Callable[[ParentLink], int],
    start_timeout_s: float = START_TIMEOUT_S,
) -> int:
    """Run workers until SIGTERM, SIGINT, SIGHUP or SIGUSR1, and until each has ended; return the exit code.

    A worker that ends by itself before the first is ready ends the parent with its exit code.

    Args:
        listeners: A bound socket for each worker.
        limits: When a worker is killed.
        run_worker: Runs in each forked process; returns the process's exit code.
        start_timeout_s: How long the first worker of a port may take until it serves.
    """
    try:
        return _Parent(listeners, limits, start_timeout_s).run()
    except _InWorker as forked:
        link = forked.link
    name_process(link.listener.getsockname()[1])
    faulthandler.enable()
    return run_worker(link)


class _Parent:
    def __init__(
        self, listeners: Sequence[socket.socket], limits: RecycleLimits, start_timeout_s: float
    ) -> None:
        self._slots = [_Slot(one) for one in listeners]
        self._limits, self._start_timeout_s = limits, start_timeout_s
        self._selector = selectors.DefaultSelector()
        self._signals_in, self._signals_out = socket.socketpair()
        self._selector.register(self._signals_in, selectors.EVENT_READ)
        self._clock = AwakeClock(limits.hung_after_s)
        self._was_ready = self._stopping = False
        self._exit_code = 0

    def run(self) -> int:
        with self._receive_signals():
            first = self._slots[0]  # the others once it has shown that the configuration works
            first.fork_at_s = 0.0
            while not self._stopping or any(slot.workers for slot in self._slots):
                now_s = self._clock.now_s()
                for slot in self._slots if not self._stopping else ():
                    if slot.fork_at_s is not None and now_s >= slot.fork_at_s:
                        self._fork(slot)
                self._wait(now_s)
                self._reap()
                self._kill_silent()
                self._kill_over_hard_limit()
        return self._exit_code

    @contextmanager
    def _receive_signals(self) -> Generator[None]:
        self._signals_in.settimeout(0)
        self._signals_out.settimeout(0)
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, _do_nothing)
        signal.set_wakeup_fd(self._signals_out.fileno(), warn_on_full_buffer=False)
        yield
        signal.set_wakeup_fd(-1)

    def _fork(self, slot: _Slot) -> None:
        slot.fork_at_s = None
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._leave_parent(slot)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            raise _InWorker(ParentLink(theirs, slot.listener, self._limits.hung_after_s))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        theirs.close()
        ours.settimeout(0)
        now_s = self._clock.now_s()
        timeout_s = min(self._start_timeout_s * 2**slot.failures, MAX_START_TIMEOUT_S)
        worker = _ForkedWorker(pid, ours, now_s, Deadline(pid, now_s + timeout_s))
        slot.workers.append(worker)
        self._selector.register(ours, selectors.EVENT_READ, (slot, worker))

    def _leave_parent(self, own: _Slot) -> None:
        """Closes what a worker shall not share: the parent's links, signals, and the others' ports.

        It ignores SIGHUP, which a terminal that closes sends to each process: the parent drains it then.
        """
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)
        self._selector.close()
        self._signals_in.close()
        self._signals_out.close()
        for slot in self._slots:
            for worker in slot.workers:
                worker.link.close()
            if slot is not own:
                slot.listener.close()

    def _wait(self, now_s: float) -> None:
        """Handles signals and messages for `POLL_S`, or until a worker is to be forked or ended."""
        due_s = [now_s + min(POLL_S, self._clock.longest_pause_s)]
        for slot in self._slots:
            due_s += [] if slot.fork_at_s is None else [slot.fork_at_s]
            due_s += [one.deadline.due_s for one in slot.workers]
        for key, _ in self._selector.select(max(0.0, min(due_s) - now_s)):
            if key.data is not None:
                self._read_link(*key.data)
                continue
            for number in set(self._signals_in.recv(256)) - {signal.SIGCHLD}:
                self._stop(signal.Signals(number))

    def _stop(self, number: signal.Signals) -> None:
        self._stopping = True
        if number == signal.SIGHUP:
            log_line("SIGHUP: ending as at SIGTERM")
            number = signal.SIGTERM
        for slot in self._slots:
            for worker in slot.workers:
                _signal(worker.pid, number)

    def _read_link(self, slot: _Slot, worker: _ForkedWorker) -> None:
        messages = _receive(worker.link)
        if not messages:  # it has ended or is about to
            self._selector.unregister(worker.link)
        if WARMED in messages:
            worker.listens = True
            _send(worker.link, LISTEN)
        if READY in messages:
            self._note_ready(worker)
            for before in slot.workers[: slot.workers.index(worker)]:
                before.listens = False
                _send(before.link, REPLACED)
        if READY in messages or BEAT in messages:
            worker.deadline.extend(self._clock.now_s() + self._limits.hung_after_s)
        if CLOSING in messages:
            worker.listens = False
            slot.close_unless_served()
        if OVER_LIMIT in messages and worker is slot.workers[-1]:
            slot.fork_at_s = self._clock.now_s()

    def _note_ready(self, worker: _ForkedWorker) -> None:
        worker.is_ready = True
        if not self._was_ready:
            self._was_ready = True
            log_line(f"the first of {len(self._slots)} workers serves after {self._clock.now_s():.1f} s")
            for other in self._slots[1:]:
                other.fork_at_s = self._clock.now_s()

    def _reap(self) -> None:
        for slot in self._slots:
            for worker in list(slot.workers):
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
                if pid:
                    self._note_end(slot, worker, os.waitstatus_to_exitcode(status))

    def _note_end(self, slot: _Slot, worker: _ForkedWorker, code: int) -> None:
        is_last = worker is slot.workers[-1]
        slot.workers.remove(worker)
        if READY in _receive(worker.link):  # and ended before this was read
            self._note_ready(worker)
        with suppress(KeyError):
            self._selector.unregister(worker.link)
        worker.link.close()
        if self._stopping:
            return
        slot.close_unless_served()
        if not self._was_ready and not worker.deadline.was_aborted:
            self._exit_code = code if code > 0 else 1
            self._stop(signal.SIGTERM)
        elif is_last:
            self._schedule_fork(slot, worker, code)
        elif slot.workers[-1].is_ready:
            log_line(f"a replaced worker has ended: that of port {slot.port}, with code {code}")
        else:
            log_line(f"the worker of port {slot.port} ended with code {code}; its replacement starts")

    def _schedule_fork(self, slot: _Slot, worker: _ForkedWorker, code: int) -> None:
        """Schedules the next worker: at once after one that served; ends in a row make it wait longer."""
        now_s = self._clock.now_s()
        is_stable = worker.is_ready and (code == 0 or now_s - worker.started_s > STABLE_AFTER_S)
        slot.failures = 0 if is_stable else slot.failures + 1
        at_once = worker.is_ready and slot.failures <= 1
        pause_s = 0.0 if at_once else restart_pause_s(slot.failures)
        slot.fork_at_s = now_s + pause_s
        log_line(
            f"the worker of port {slot.port} ended with code {code}; "
            + (f"another one starts in {pause_s:g} s" if pause_s else "another one starts")
        )

    def _kill_silent(self) -> None:
        now_s = self._clock.now_s()
        for slot in self._slots:
            for worker in slot.workers:
                worker.deadline.end_if_over(now_s, partial(self._log_silence, slot, worker, now_s))

    def _log_silence(self, slot: _Slot, worker: _ForkedWorker, now_s: float) -> None:
        late = f"does not serve after {now_s - worker.started_s:.0f} s"
        fault = describe_hang(self._limits.hung_after_s) if worker.is_ready else late
        log_line(describe_kill(f"the worker of port {slot.port}", fault))

    def _kill_over_hard_limit(self) -> None:
        if self._limits.hard_mib == UNLIMITED:
            return
        for slot in self._slots:
            for worker in slot.workers:
                mib = resident_mib(worker.pid)
                if mib > self._limits.hard_mib:
                    log_line(
                        f"the worker of port {slot.port} holds {mib:.0f} MiB, "
                        f"more than {HARD_MIB_VARIABLE} allows: killed"
                    )
                    _signal(worker.pid, signal.SIGKILL)


def _receive(link: socket.socket) -> bytes:
    try:
        return link.recv(16)
    except OSError:
        return b""


def _send(link: socket.socket, message: bytes) -> None:
    with suppress(OSError):
        link.send(message)


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """The wake-up descriptor has the signal's number."""


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
