"""The state folder of a running stack: lock, process id, addresses, the status of its last reload.

Invariants: the launcher holds the lock as long as it lives, however it ends; process id and addresses
count only while the lock is held. The addresses file has mode 0600. `reload.json` is replaced as a whole;
`began_ns` is the machine's monotonic clock, so a command recognises the reload it requested.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from dotenv import dotenv_values

LOCK_FILE, PID_FILE, ADDRESSES_FILE = "lock", "up.pid", "running.env"


class Taken(Exception):  # noqa: N818 -- errors are named for the state they report
    """Somebody runs in this folder already."""


@contextlib.contextmanager
def exclusive(state: Path, pid: int) -> Generator[None]:
    """Hold the folder; raises `Reservation` when somebody does."""
    with (state / LOCK_FILE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Taken(str(state)) from None
        (state / PID_FILE).write_text(str(pid), encoding="utf-8")
        try:
            yield
        finally:
            (state / ADDRESSES_FILE).unlink(missing_ok=True)
            (state / PID_FILE).unlink(missing_ok=True)


def running_pid(state: Path) -> int | None:
    """The process id of who runs there; None when nobody does, whatever lies about."""
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


def write_addresses(state: Path, names: Mapping[str, str]) -> None:
    """Write down where things are."""
    file = state / ADDRESSES_FILE
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text("".join(f"{name}='{url}'\n" for name, url in names.items()), encoding="utf-8")


def read_addresses(state: Path) -> dict[str, str]:
    """What was written down by who runs there now; nothing of one that is gone."""
    if running_pid(state) is None:
        return {}
    return {name: value for name, value in dotenv_values(state / ADDRESSES_FILE).items() if value}


RELOAD_FILE = "reload.json"


@dataclass(frozen=True, slots=True)
class ReloadStatus:
    """One exchange.

    Attributes:
        began_ns: When the configuration was read.
        done: Whether the new configuration serves; None while that is not decided.
        said: What to tell a person, line by line, so far.
    """

    began_ns: int
    done: bool | None
    said: tuple[str, ...]

    def write(self, state: Path) -> None:
        """Leave it where the command looks."""
        replace_file(state / RELOAD_FILE, json.dumps(asdict(self)))


def read_reload_status(state: Path) -> ReloadStatus | None:
    """The last outcome, if there was one."""
    try:
        found = json.loads((state / RELOAD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return ReloadStatus(found["began_ns"], found["done"], tuple(found["said"]))


def replace_file(file: Path, text: str) -> None:
    """Replace a file's text at once."""
    half_written = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    half_written.write_text(text, encoding="utf-8")
    half_written.replace(file)
