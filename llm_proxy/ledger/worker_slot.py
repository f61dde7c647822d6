"""Worker slots: a worker's own folder on disk, `<directory>/worker-N`, and files mapped into memory.

Invariants: two living processes never share a slot. The slot of a dead process is free at once and keeps its
files for the next owner (flock(2): the kernel releases the lock with the process). A mapped file is allocated
completely before it is mapped: a page that finds the disk full later would kill the process (SIGBUS). Its
contents survive the process, not a power failure.
"""

import fcntl
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_MAX_SLOTS = 4096


class WorkerSlot:
    """A locked folder; `release` or the end of the process unlocks it."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd

    @property
    def is_first(self) -> bool:
        """Whether this is slot 0: what concerns all workers of a directory is logged once, by its owner."""
        return self.path.name == "worker-0"

    def release(self) -> None:
        """Unlocks the slot; its files stay."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def acquire_slot(directory: Path) -> WorkerSlot:
    """Locks and returns the first free slot; raises `OSError` if the folder is not writable."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(_MAX_SLOTS):
        if (slot := _lock(directory / f"worker-{number}")) is not None:
            return slot
    raise OSError(f"no free worker slot under {directory}")


def abandoned_slots(directory: Path) -> Iterator[WorkerSlot]:
    """Yields the slots of dead processes, each locked for the caller, who releases it."""
    for path in slot_folders(directory):
        if (slot := _lock(path)) is not None:
            yield slot


def slot_folders(directory: Path) -> list[Path]:
    """Returns the folder of every slot, locked or not."""
    return sorted(path for path in directory.glob("worker-*") if path.is_dir())


def map_file(path: Path | None, size_bytes: int) -> mmap.mmap:
    """Maps the file at `path`, created or extended to this size; anonymous memory without a path.

    Raises:
        OSError: The disk is full, or the folder is not writable.
    """
    if path is None:
        return mmap.mmap(-1, size_bytes)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "a+b") as file:
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        else:
            file.truncate(size_bytes)
        return mmap.mmap(file.fileno(), size_bytes)


def _lock(path: Path) -> WorkerSlot | None:
    path.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return WorkerSlot(path, descriptor)
