"""What a process that holds keys and records owes their owner: files nobody else reads, and no core dump.

Invariant: called before the first file is made; children inherit both.
"""

import os
import resource
import stat
from pathlib import Path


def harden_process() -> None:
    """Make every file and folder of this process its owner's alone, whatever the umask; dump no memory."""
    os.umask(stat.S_IRWXG | stat.S_IRWXO)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def restrict_to_owner(path: Path) -> None:
    """Take from everybody but the owner what an earlier version left open; only where the file is ours."""
    known = path.stat()
    if known.st_uid == os.geteuid():
        path.chmod(stat.S_IMODE(known.st_mode) & ~(stat.S_IRWXG | stat.S_IRWXO))
