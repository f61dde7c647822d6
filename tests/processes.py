"""What runs on this machine, read from /proc (Linux). A process may end between two looks."""

import contextlib
import os
import re
import signal
from collections.abc import Iterable
from pathlib import Path


def _state_and_parent(pid: int) -> tuple[str, int]:
    """State letter and parent; one that is gone counts as a zombie of nobody. Source: proc_pid_stat(5)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "Z", 0
    return fields[0], int(fields[1])


def lives(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be noticed does not."""
    return _state_and_parent(pid)[0] != "Z"


def parent_of(pid: int) -> int:
    """The process that started it; 0 for one that is gone."""
    return _state_and_parent(pid)[1]


def children(pid: int) -> list[int]:
    """The processes that it started and that are not waited for yet, the oldest first."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def descendants(ancestor: int) -> dict[int, str]:
    """Command lines of a process's children, theirs, and so on."""
    parents = {int(path.name): _state_and_parent(int(path.name))[1] for path in Path("/proc").glob("[0-9]*")}
    found: set[int] = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: _command(pid) for pid in found - {ancestor}}


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Sends each the signal, but to those that have ended by themselves."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def may_dump_core(pid: int) -> bool:
    """Whether the kernel would write its memory to a file when it crashes; not of one that is gone."""
    try:
        limits = Path(f"/proc/{pid}/limits").read_text(encoding="ascii")
    except OSError:
        return False
    return re.search(r"(?m)^Max core file size +0 +0 ", limits) is None


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
