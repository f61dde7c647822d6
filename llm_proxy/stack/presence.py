"""Who runs in a state folder, and the note it leaves for commands beside it.

Invariants: a launcher holds the folder's lock as long as it lives, however it ends, and a note counts only
while somebody holds it; the note is for its owner's eyes only (mode 0600).
"""

import contextlib
import fcntl
from collections.abc import Generator, Mapping
from pathlib import Path

from dotenv import dotenv_values

LOCK, PID, NOTE = "lock", "up.pid", "running.env"


class Taken(Exception):  # noqa: N818 -- errors are named for the state they report
    """Somebody runs in this folder already."""


@contextlib.contextmanager
def alone_in(state: Path, pid: int) -> Generator[None]:
    """Hold the folder; raises `Taken` when somebody does."""
    with (state / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Taken(str(state)) from None
        (state / PID).write_text(str(pid), encoding="utf-8")
        try:
            yield
        finally:
            (state / NOTE).unlink(missing_ok=True)
            (state / PID).unlink(missing_ok=True)


def launcher(state: Path) -> int | None:
    """The process id of who runs there; None when nobody does, whatever lies about."""
    try:
        with (state / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return int((state / PID).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
    except OSError:
        pass
    return None


def note(state: Path, names: Mapping[str, str]) -> None:
    """Write down where things are."""
    file = state / NOTE
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text("".join(f"{name}='{url}'\n" for name, url in names.items()), encoding="utf-8")


def noted(state: Path) -> dict[str, str]:
    """What was written down by who runs there now; nothing of one that is gone."""
    if launcher(state) is None:
        return {}
    return {name: value for name, value in dotenv_values(state / NOTE).items() if value}
