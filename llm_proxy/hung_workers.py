"""When a worker counts as hung, and how its parent ends it: for the gateway's parent and for the sidecars'.

Invariants: a worker's event loop sends beats to its parent until it is closed, so a worker that drains sends
them too. Only time in which the parent runs counts: a machine that sleeps, a paused container, and one that
gets no CPU end no worker. Standard library only. Units: seconds.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

HUNG_AFTER_S = 60.0
"""Without a beat: as long as the chart's liveness probe of the gateway takes."""
BEATS, MAX_BEAT_EVERY_S = 12, 5.0
"""How many beats are due until a worker counts as hung; the longest time between two."""
ABORT_S = 1.0
"""From SIGABRT, at which a worker writes where it hangs, to SIGKILL."""


def send_beats(loop: asyncio.AbstractEventLoop, send: Callable[[], object], hung_after_s: float) -> None:
    """Calls `send` now and for each beat, as long as the event loop runs."""
    send()
    loop.call_later(_beat_every_s(hung_after_s), send_beats, loop, send, hung_after_s)


def _beat_every_s(hung_after_s: float) -> float:
    return min(hung_after_s / BEATS, MAX_BEAT_EVERY_S)


def describe_hang(hung_after_s: float) -> str:
    """Returns what a worker does whose beats have stopped, for `describe_kill`."""
    return f"hangs, its event loop stood still for {hung_after_s:g} s"


def describe_kill(worker: str, fault: str) -> str:
    """Returns the log line before a `Deadline` ends a worker; its stacks follow."""
    return f"{worker} {fault}: killed; the next lines show where it waits"


class AwakeClock:
    """Counts the seconds in which this process runs: at most `longest_pause_s` between two looks.

    Attributes:
        longest_pause_s: The parent looks at the clock at least that often.
    """

    def __init__(self, hung_after_s: float) -> None:
        self.longest_pause_s = 2 * _beat_every_s(hung_after_s)
        self._looked_s = time.monotonic()
        self._now_s = 0.0

    def now_s(self) -> float:
        """Returns the seconds counted so far."""
        looked_s = time.monotonic()
        self._now_s += min(looked_s - self._looked_s, self.longest_pause_s)
        self._looked_s = looked_s
        return self._now_s


@dataclass(slots=True)
class Deadline:
    """When a worker is killed unless its parent hears of it, by the parent's `AwakeClock`.

    Attributes:
        was_aborted: Whether it got SIGABRT: it is ended whatever it sends.
    """

    pid: int
    due_s: float
    was_aborted: bool = False

    def end_if_over(self, now_s: float, announce: Callable[[], object]) -> None:
        """Once the deadline is over, calls `announce` and sends SIGABRT, and `ABORT_S` later SIGKILL."""
        if now_s < self.due_s:
            return
        number = signal.SIGKILL if self.was_aborted else signal.SIGABRT
        if not self.was_aborted:
            announce()
        self.was_aborted, self.due_s = True, now_s + ABORT_S
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def extend(self, due_s: float) -> None:
        """Sets the deadline anew, after a sign of the worker."""
        if not self.was_aborted:
            self.due_s = due_s
