"""Limits of every process that holds keys or records: private files, no core dumps, enough open files.

Invariant: `harden_process` runs before the process makes its first file; child processes inherit all limits.
"""

import contextlib
import os
import resource
import stat
from pathlib import Path


def harden_process() -> None:
    """Makes new files and folders readable by their owner alone; disables core dumps."""
    os.umask(stat.S_IRWXG | stat.S_IRWXO)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


OPEN_FILES = 65_536


def raise_files_limit() -> None:
    """Lets this process and its children open `OPEN_FILES` files, or as many as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has a limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def restrict_to_owner(path: Path) -> None:
    """Removes the permissions of group and others from a file, unless it is another user's."""
    known = path.stat()
    if known.st_uid == os.geteuid():
        path.chmod(stat.S_IMODE(known.st_mode) & ~(stat.S_IRWXG | stat.S_IRWXO))
