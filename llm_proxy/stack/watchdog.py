"""A small process that outlives a killed launcher just long enough to end what it left behind.

Invariants: it knows process groups, told on standard input as `+number` and `-number` lines; when that input
ends it gives every group a moment and then kills it. Imported alone, with the standard library only.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TextIO

GRACE_S = 3.0


class Watchdog:
    """The launcher's end: tells the watchdog which groups are alive."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def guard(self, group: int) -> None:
        """From now on this group must not outlive the launcher."""
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """This group has ended in order."""
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """Ends the watchdog; what it still guards is killed."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()

    def _tell(self, line: str) -> None:
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(line)
                self._process.stdin.flush()


def watch(told: TextIO) -> None:
    """Listens until the launcher is gone, then ends every group it still guards."""
    for wanted in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(wanted, signal.SIG_IGN)
    groups: set[int] = set()
    for line in told:
        (groups.add if line.startswith("+") else groups.discard)(int(line[1:]))
    deadline_s = time.monotonic() + GRACE_S
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        for group in groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, wanted)
        while any(map(_lives, groups)) and time.monotonic() < deadline_s:
            time.sleep(0.05)


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    watch(sys.stdin)
