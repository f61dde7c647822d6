"""Hardening of every process that holds keys or records: private files, no core dumps.

Invariant: `harden_process` runs before the process makes its first file; child processes inherit both.
"""

import os
import resource
import stat
from pathlib import Path


def harden_process() -> None:
    """Makes new files and folders readable by their owner alone; disables core dumps."""
    os.umask(stat.S_IRWXG | stat.S_IRWXO)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def restrict_to_owner(path: Path) -> None:
    """Removes the permissions of group and others from a file of this user; leaves other users' files."""
    known = path.stat()
    if known.st_uid == os.geteuid():
        path.chmod(stat.S_IMODE(known.st_mode) & ~(stat.S_IRWXG | stat.S_IRWXO))
