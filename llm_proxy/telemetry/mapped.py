"""A file of a fixed size, mapped into memory: what is written to it outlives the process, not a power cut.

Invariant: the file is allocated whole before it is mapped; a page that found the disk full later would
kill the process (SIGBUS).
"""

import mmap
import os
import sys
from pathlib import Path


def mapped(path: Path | None, size_bytes: int) -> mmap.mmap:
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
