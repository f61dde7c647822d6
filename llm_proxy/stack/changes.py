"""Whether any of a few files has changed, found by looking at them now and then.

Invariant: a change is told once, when the file has stood still for a look: editors write in steps.
"""

from collections.abc import Iterable
from pathlib import Path

LOOK_EVERY_S = 1.0

Signature = tuple[tuple[str, int, int], ...]


class Changes:
    """Looks at files once a second; the list of files is asked for anew each time."""

    def __init__(self, now_s: float, files: Iterable[Path]) -> None:
        self._told = self._seen = _signature(files)
        self._looked_at_s = now_s

    def found(self, now_s: float, files: Iterable[Path]) -> bool:
        """Whether something has changed since the last change that was told."""
        if now_s - self._looked_at_s < LOOK_EVERY_S:
            return False
        self._looked_at_s = now_s
        before, self._seen = self._seen, _signature(files)
        if self._seen == self._told or self._seen != before:
            return False
        self._told = self._seen
        return True

    def cover(self, files: Iterable[Path]) -> None:
        """Count what the files hold now as found: a reload is about to read it."""
        self._told = self._seen = _signature(files)


def _signature(files: Iterable[Path]) -> Signature:
    found: list[tuple[str, int, int]] = []
    for file in files:
        try:
            seen = file.stat()
        except OSError:
            continue
        found.append((str(file), seen.st_mtime_ns, seen.st_size))
    return tuple(sorted(found))
