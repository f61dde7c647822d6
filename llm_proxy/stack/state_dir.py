"""The state folder of a running stack: lock, process id, addresses, the status of its last reload.

Invariants: the launcher holds the lock as long as it lives, however it ends; process id and addresses
count only while the lock is held. The addresses file has mode 0600. `reload.json` is replaced as a whole;
`began_ns` is the machine's monotonic clock, so a command recognises the reload it requested.
"""

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

STATE_VARIABLE = "LLM_PROXY_STATE"
"""Names the folder: to commands, and to the gateway that a launcher starts."""
LOCK_FILE, PID_FILE, ADDRESSES_FILE, GATEWAY_FILE = "lock", "up.pid", "running.env", "gateway.pid"


class AlreadyRunning(Exception):  # noqa: N818 -- errors are named for the state they report
    """Another launcher holds this folder; the message says what to do."""


@contextlib.contextmanager
def exclusive(state: Path, pid: int) -> Generator[None]:
    """Holds the folder's lock and notes `pid`; raises `AlreadyRunning` when another process holds it."""
    with (state / LOCK_FILE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(
                f"another `llm-proxy up` runs on {state}/: stop it, or name another --state"
            ) from None
        (state / PID_FILE).write_text(str(pid), encoding="utf-8")
        try:
            yield
        finally:
            (state / ADDRESSES_FILE).unlink(missing_ok=True)
            (state / PID_FILE).unlink(missing_ok=True)


def running_pid(state: Path) -> int | None:
    """Returns the process id of the launcher that holds the folder; None when no launcher does."""
    try:
        with (state / LOCK_FILE).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return int((state / PID_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
    except OSError:
        pass
    return None


def write_addresses(state: Path, variables: Mapping[str, str]) -> None:
    """Writes the addresses of the running stack, by variable name, for commands beside it."""
    file = state / ADDRESSES_FILE
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text("".join(f"{name}='{url}'\n" for name, url in variables.items()), encoding="utf-8")


def read_addresses(state: Path) -> dict[str, str]:
    """The addresses of the running stack, by variable name; empty when no launcher holds the folder."""
    if running_pid(state) is None:
        return {}
    return {name: value for name, value in dotenv_values(state / ADDRESSES_FILE).items() if value}


RELOAD_FILE = "reload.json"


@dataclass(frozen=True, slots=True)
class ReloadStatus:
    """How a rolling restart goes, or how it ended.

    Attributes:
        began_ns: When the configuration was read, on the monotonic clock.
        done: Whether the new configuration serves; None while that is undecided.
        lines: What was printed so far.
    """

    began_ns: int
    done: bool | None
    lines: tuple[str, ...]

    def write(self, state: Path) -> None:
        """Replaces the status file of this state folder."""
        fields = {"began_ns": self.began_ns, "done": self.done, "said": self.lines}
        replace_file(state / RELOAD_FILE, json.dumps(fields))


def read_reload_status(state: Path) -> ReloadStatus | None:
    """Returns the last status written; None without one."""
    try:
        found = json.loads((state / RELOAD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return ReloadStatus(found["began_ns"], found["done"], tuple(found["said"]))


class Launcher:
    """Requests a reload from the launcher of a state folder, and reads how it goes."""

    def __init__(self, state: Path) -> None:
        self._state = state

    @property
    def runs(self) -> bool:
        """Whether a launcher holds the folder."""
        return running_pid(self._state) is not None

    def request_reload(self) -> int | None:
        """Requests a reload; returns its earliest `began_ns`, or None when no launcher takes the request."""
        pid, now_ns = running_pid(self._state), time.monotonic_ns()
        if pid is None:
            return None
        try:
            os.kill(pid, signal.SIGHUP)
        except OSError:
            return None
        return now_ns

    def note_gateway(self) -> None:
        """Notes that the gateway of this process serves."""
        replace_file(self._state / GATEWAY_FILE, str(os.getpid()))

    def is_gateway(self, pid: int) -> bool:
        """Whether the gateway that began to serve last is this process."""
        try:
            return (self._state / GATEWAY_FILE).read_text(encoding="ascii") == str(pid)
        except OSError:
            return False

    def reload_status(self) -> ReloadStatus | None:
        """Returns how the last reload goes or ended; None before the first."""
        return read_reload_status(self._state)


def replace_file(file: Path, text: str) -> None:
    """Replaces a file's text atomically."""
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(file)
