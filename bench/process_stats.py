"""CPU and memory of a process and its descendants, as the kernel counts them (proc_pid_stat(5))."""

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """User and system seconds the tree has used, its ended and awaited children included."""
    return sum(sum(map(int, _stat(one)[11:15])) for one in tree(pid)) / _TICKS


def rss_bytes(pid: int) -> int:
    """Resident memory of the tree; pages shared between its processes count in each."""
    return sum(int(_stat(one)[21]) for one in tree(pid)) * _PAGE_BYTES


def peak_rss_bytes(pid: int) -> int:
    """The most resident memory the process itself ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def pss_bytes(pid: int) -> int:
    """Resident memory of the tree; a page that several processes share counts once among them."""
    return sum(own_pss_bytes(one) for one in tree(pid))


def own_pss_bytes(pid: int) -> int:
    """Resident memory of one process, a shared page counted in parts; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return int(lines.partition("Pss:")[2].split()[0]) * 1024


def tree(pid: int) -> set[int]:
    """The process and its descendants."""
    parents = {int(path.name): int(_stat(int(path.name))[1]) for path in Path("/proc").glob("[0-9]*")}
    found = {pid}
    while more := {one for one, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _stat(pid: int) -> list[str]:
    """The fields after the command's name; zeros for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["0"] * 50
