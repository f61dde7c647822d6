"""A worker's own folder on disk, `<directory>/worker-N`, locked as long as the worker lives; mapped files.

Invariants: two living processes never share a seat; a seat whose owner died, however it died, is free at
once and keeps its files for the next owner (flock(2): the kernel drops the lock with the process). A mapped
file is allocated whole before it is mapped: a page that found the disk full later would kill the process
(SIGBUS). What is written to it outlives the process, not a power cut.
"""

import fcntl
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_MAX_SLOTS = 4096


class WorkerSlot:
    """A locked folder; `release` or the end of the process frees it."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd

    @property
    def is_first(self) -> bool:
        """Of the workers that share a folder, one alone is: who says what is to be said once."""
        return self.path.name == "worker-0"

    def release(self) -> None:
        """Free the seat; its files stay."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def acquire_slot(directory: Path) -> WorkerSlot:
    """The first free seat under `directory`; raises `OSError` when the folder cannot be written."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(_MAX_SLOTS):
        if (seat := _lock(directory / f"worker-{number}")) is not None:
            return seat
    raise OSError(f"no free seat under {directory}")


def abandoned_slots(directory: Path) -> Iterator[WorkerSlot]:
    """Seats left by processes that are gone, each locked for the caller, who releases it."""
    for path in slot_folders(directory):
        if (seat := _lock(path)) is not None:
            yield seat


def slot_folders(directory: Path) -> list[Path]:
    """Every seat's folder, taken or not."""
    return sorted(path for path in directory.glob("worker-*") if path.is_dir())


def map_file(path: Path | None, size_bytes: int) -> mmap.mmap:
    """The file at `path`, made or grown to this size; plain memory without a path.

    Raises:
        OSError: The disk has no room for it, or the folder cannot be written.
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
