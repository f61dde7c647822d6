"""Records waiting on disk, in segments: lines of JSON, appended by one worker, read back oldest first.

Invariants: a segment is only appended to until it is closed, then only read and removed; a failed append
leaves no torn line behind; the whole stays under its bound by dropping the oldest segment, counted. Nothing
is flushed to the platter: a killed process loses nothing, a power cut may.
"""

import os
from collections.abc import Iterator
from pathlib import Path

_SEGMENT_BYTES = 4 * 2**20
_REJECTED_BYTES = 16 * 2**20
REJECTED = "rejected.jsonl"
_SUFFIX = ".records"
_SEGMENTS = f"{'[0-9]' * 12}{_SUFFIX}"


class Spool:
    """One worker's waiting records.

    Attributes:
        size_bytes: Bytes waiting.
        records: Records waiting.
        dropped: Records dropped since the start to stay under the bound.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = min(_SEGMENT_BYTES, max(4096, max_bytes // 4))
        self._file = -1
        self._next = 0
        self._current = folder
        self._counts: dict[Path, tuple[int, int]] = {}
        self.dropped = 0
        for path in segments(folder):
            self._note(path)

    @property
    def size_bytes(self) -> int:
        """Bytes waiting."""
        return sum(size for size, _ in self._counts.values())

    @property
    def records(self) -> int:
        """Records waiting."""
        return sum(count for _, count in self._counts.values())

    def append(self, lines: list[bytes]) -> None:
        """Keep these lines; raises `OSError` when the disk takes none of them."""
        if self._file < 0:
            self._begin()
        path = self._current
        size, count = self._counts[path]
        text = b"\n".join(lines) + b"\n"
        try:
            _write(self._file, text)
        except OSError:
            os.ftruncate(self._file, size)
            raise
        self._counts[path] = (size + len(text), count + len(lines))
        if size + len(text) >= self._segment_bytes:
            self.close()
        self._stay_under_bound()

    def oldest(self) -> Path | None:
        """The oldest segment, closed for appending; None when nothing waits."""
        oldest = min(self._counts, default=None)
        if oldest is not None and self._file >= 0 and oldest == self._current:
            self.close()
        return oldest

    def discard(self, segment: Path) -> None:
        """Every record of this segment is kept elsewhere."""
        segment.unlink(missing_ok=True)
        self._counts.pop(segment, None)

    def adopt(self, segment: Path) -> None:
        """Take over a dead worker's segment, on the same file system."""
        mine = self._name()
        segment.rename(mine)
        self._note(mine)
        self._stay_under_bound()

    def reject(self, line: bytes) -> None:
        """Put aside, for people, a record no database takes; kept while there is room."""
        aside = self._folder / REJECTED
        if not aside.exists() or aside.stat().st_size < _REJECTED_BYTES:
            with aside.open("ab") as file:
                file.write(line + b"\n")

    def close(self) -> None:
        """Append no more to the segment being written."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _begin(self) -> None:
        self._current = self._name()
        self._file = os.open(self._current, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._counts[self._current] = (0, 0)

    def _name(self) -> Path:
        self._next += 1
        return self._folder / f"{self._next:012}{_SUFFIX}"

    def _note(self, path: Path) -> None:
        content = path.read_bytes()
        self._counts[path] = (len(content), content.count(b"\n"))
        self._next = max(self._next, int(path.name.removesuffix(_SUFFIX)))

    def _stay_under_bound(self) -> None:
        while self.size_bytes > self._max_bytes and len(self._counts) > 1:
            oldest = min(self._counts)
            self.dropped += self._counts[oldest][1]
            self.discard(oldest)


def segments(folder: Path) -> list[Path]:
    """A worker's segments, oldest first."""
    return sorted(folder.glob(_SEGMENTS))


def lines(segment: Path) -> Iterator[bytes]:
    """The whole lines of a segment; one torn by a power cut is left out."""
    with segment.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1]


def _write(descriptor: int, text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
