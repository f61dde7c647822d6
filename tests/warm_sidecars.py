"""Starts the sidecars of a test run as forks of one process that has imported LiteLLM: `warm_parent`.

The import takes five seconds of CPU, and a run starts a hundred sidecars. Invariant: only single sidecars of
this release, on Linux, are forks; every other process is started as usual.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from llm_proxy.sidecar.patches.registry import DISABLING_SETTING
from llm_proxy.stack import process
from llm_proxy.stack.process_specs import VERIFIED_ENTRY_POINT, sidecar_python

PROGRAM = Path(__file__).parent / "warm_parent.py"
PASSED_ON = ("PATH", "HOME", "PYTHONPATH", DISABLING_SETTING)
"""What a sidecar has of the test run's own environment; the last leaves patches out, to see what they do."""
POLL_S = 0.02


def passed_on() -> dict[str, str]:
    """Return these variables."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}


class WarmParent:
    """The process that has imported LiteLLM."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        launcher = os.getpid()
        with theirs:
            self._process = subprocess.Popen(
                [str(sidecar_python()), "-P", str(PROGRAM), str(theirs.fileno())],
                cwd=PROGRAM.parents[1],
                env=passed_on(),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                preexec_fn=lambda: process.die_with_parent(launcher, signal.SIGTERM),  # noqa: PLW1509 -- one thread
            )
        with ours:
            self._lines = ours.makefile("rwb", buffering=0)
        self._lock = Lock()
        self._unanswered = deque[dict[str, Any]]()
        atexit.register(self.close)

    def ask(self, **request: Any) -> Any:
        """Return the answer to a request; a sidecar whose start was given up meanwhile is killed."""
        with self._lock:
            self._lines.write(json.dumps(request).encode() + b"\n")
            self._unanswered.append(request)
            while True:
                line = self._lines.readline()
                asked = self._unanswered.popleft()
                if not line:
                    raise process.ProcessFailed(
                        f"the sidecars' parent ended with code {self._process.wait()}"
                    )
                if asked is request:
                    return json.loads(line)
                if "ended" not in asked:
                    os.kill(json.loads(line), signal.SIGKILL)

    def close(self) -> None:
        """End the process and the sidecars that still run."""
        self._lines.close()
        self._process.wait()


@cache
def warm_parent() -> WarmParent:
    """Return the test process's own, started."""
    return WarmParent()


class Forked(subprocess.Popen[bytes]):
    """A child of `WarmParent`, which alone learns its exit code."""

    def __init__(self, parent: WarmParent, pid: int, argv: Sequence[str]) -> None:
        self._parent, self.pid, self.args, self.returncode = parent, pid, argv, None

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        if self.returncode is None:
            self.returncode = self._parent.ask(ended=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raises `TimeoutExpired`."""
        until_s = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if until_s is not None and time.monotonic() > until_s:
                raise subprocess.TimeoutExpired("a forked sidecar", timeout or 0)
            time.sleep(POLL_S)
        return code


def start(spec: process.ProcessSpec, logs: Path) -> process.ManagedProcess:
    """Start a process of a test run."""
    if not can_be_forked(spec):
        return process.start(spec, logs)
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = logs / f"{spec.name}.log"
    asked = {"argv": spec.argv, "env": dict(spec.env), "cwd": str(spec.cwd), "log": str(log)}
    parent = warm_parent()
    return process.ManagedProcess(spec, Forked(parent, parent.ask(**asked), spec.argv), log)


def can_be_forked(spec: process.ProcessSpec) -> bool:
    """Return whether it is one sidecar of this release, and started by a test: not by what measures."""
    python, *words = spec.argv
    return (
        sys.platform == "linux"
        and "PYTEST_VERSION" in os.environ
        and python == str(sidecar_python())
        and (words[:2] == ["-m", "llm_proxy.sidecar"] or str(VERIFIED_ENTRY_POINT) in words)
        and "--prefork" not in words
        and spec.env.get("PYTHONPATH") == os.environ.get("PYTHONPATH")
    )
