"""Files that callers upload: kept on disk without a name, within a bound, while their call runs.

Invariants: a file has no name in any folder, so that the kernel deletes it with its descriptor, whatever ends
the call or the process; only this process can read it; the files of a worker together are never larger than
the bound; the event loop never waits for the disk. Units: bytes. Source: open(2), `O_TMPFILE`.
"""

import asyncio
import logging
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from llm_proxy.errors import Overloaded

BLOCK_BYTES = 256 * 2**10
"""Written and read at once: about what one upload holds in memory."""
HEAD_BYTES = 4096
"""Of a file, kept in memory too: its kind and length are read from them."""
_LEFTOVER_AGE_S = 60
log = logging.getLogger(__name__)


class UploadSpace:
    """The room on disk that one worker's uploads may take together.

    Attributes:
        used_bytes: What is taken.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self.used_bytes = 0

    def remove_leftovers(self) -> None:
        """Deletes files with names: where the disk has no unnamed ones, a process may die between the two."""
        for path in self._folder.glob("tmp*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFTOVER_AGE_S:
                    path.unlink()

    def open(self) -> "Uploads":
        """Returns the uploads of one request, none yet; leaving its `with` block deletes them."""
        return Uploads(self)

    def take(self, size: int) -> None:
        """Takes room; raises `Overloaded` where none is left."""
        if self.used_bytes + size > self._max_bytes:
            raise Overloaded("Too many uploads are running; please try again.", retry_after_s=5)
        self.used_bytes += size

    def give_back(self, size: int) -> None:
        """Gives room back."""
        self.used_bytes -= size

    def create(self) -> "UnnamedFile":
        """Returns a new file; raises `OSError`."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return UnnamedFile(self._folder)


class Uploads:
    """The uploads of one request."""

    def __init__(self, space: UploadSpace) -> None:
        self._space = space
        self._taken = self._written = 0
        self._files: list[UnnamedFile] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Deletes the files."""
        for file in self._files:
            file.close()
        self._space.give_back(self._taken)
        self._taken = 0

    def expect(self, size: int) -> None:
        """Takes room for a request of `size` bytes before they come; raises `Overloaded`."""
        if size > self._taken:
            self._space.take(size - self._taken)
            self._taken = size

    def create(self) -> "UnnamedFile":
        """Returns a new file; raises `Overloaded` where the disk takes none."""
        try:
            file = self._space.create()
        except OSError as fault:
            raise _disk_error(fault) from fault
        self._files.append(file)
        return file

    async def append(self, file: "UnnamedFile", data: bytes) -> None:
        """Writes to the end of a file; raises `Overloaded` where there is no room for it."""
        self._written += len(data)
        self.expect(self._written)
        try:
            await file.append(data)
        except OSError as fault:
            raise _disk_error(fault) from fault


def _disk_error(fault: OSError) -> Overloaded:
    log.error("an upload cannot be stored", extra={"cause": fault.strerror})
    return Overloaded("The server cannot store uploads now; please try again.", retry_after_s=5)


class UnnamedFile:
    """A file that exists as long as this object is open; its calls run in threads, one at a time."""

    def __init__(self, folder: Path) -> None:
        """Creates it on the disk of `folder`; raises `OSError`."""
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 -- `close` closes it
        self._lock = threading.Lock()
        self._closed = False

    async def append(self, data: bytes) -> None:
        """Writes to its end; raises `OSError`."""
        await asyncio.to_thread(self._append, data)

    async def read_at(self, offset: int, size: int) -> bytes:
        """Returns `size` bytes from `offset`, fewer at its end; raises `OSError`."""
        return await asyncio.to_thread(self._read_at, offset, size)

    def close(self) -> None:
        """Deletes it; if a thread is using it, that thread does."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            self._file.close()
            self._lock.release()

    def _append(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            with self._lock:
                while rest and not self._closed:
                    rest = rest[os.write(self._file.fileno(), rest) :]
        finally:
            self._close_if_left()

    def _read_at(self, offset: int, size: int) -> bytes:
        try:
            with self._lock:
                return b"" if self._closed else os.pread(self._file.fileno(), size, offset)
        finally:
            self._close_if_left()

    def _close_if_left(self) -> None:
        if self._closed:
            self.close()


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """One file of a request.

    Attributes:
        name: The field it came in, as it was spelled (`file`, `image[]`).
        filename: Its last path component, of letters, digits, `.`, `-` and `_`; never empty.
        content_type: A media type without parameters; `application/octet-stream` where none was stated.
        size_bytes: Its size.
        head: Its first bytes.
        stored: Its bytes.
    """

    name: str
    filename: str
    content_type: str
    size_bytes: int
    head: bytes
    stored: UnnamedFile

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yields its bytes from the beginning; raises `Overloaded` where the disk fails."""
        offset = 0
        while offset < self.size_bytes:
            try:
                block = await self.stored.read_at(offset, min(BLOCK_BYTES, self.size_bytes - offset))
            except OSError as fault:
                raise _disk_error(fault) from fault
            if not block:
                raise _disk_error(OSError("an upload was closed while it was read"))
            offset += len(block)
            yield block
