"""Files of uploads: they have no name, their room is bounded, and they go with whatever ends their use."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm_proxy.errors import Overloaded
from llm_proxy.uploads import BLOCK_BYTES, UnnamedFile, UploadedFile, UploadSpace

DIES = """
import asyncio, os, signal, sys
from pathlib import Path
from llm_proxy.uploads import UploadSpace

async def main():
    with UploadSpace(Path(sys.argv[1]), 10**6).open() as uploads:
        await uploads.append(uploads.create(), b"secret" * 1000)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    """As often as it is sent, and in blocks."""
    data = os.urandom(2 * BLOCK_BYTES + 17)
    with UploadSpace(tmp_path, 10**9).open() as uploads:
        stored = uploads.create()
        for at in range(0, len(data), 100_000):
            await uploads.append(stored, data[at : at + 100_000])
        file = UploadedFile("file", "a", "audio/wav", len(data), data[:9], stored)
        for _ in range(2):
            blocks = [block async for block in file.blocks()]
            assert (len(blocks), b"".join(blocks)) == (3, data)
        assert os.listdir(tmp_path) == []  # noqa: PTH208 -- not in a coroutine


async def test_room_is_taken_before_bytes_come_and_given_back(tmp_path: Path) -> None:
    """By the request that announced them; what comes unannounced counts as it comes."""
    space = UploadSpace(tmp_path, 1000)
    with space.open() as first, space.open() as second:
        first.expect(800)
        with pytest.raises(Overloaded):
            second.expect(201)
        await second.append(second.create(), b"x" * 200)
        with pytest.raises(Overloaded):
            await second.append(second.create(), b"x")
        await first.append(first.create(), b"x" * 800)
        assert space.used_bytes == 1000
    assert space.used_bytes == 0


async def test_a_file_that_is_closed_while_it_is_written_goes_with_the_write(tmp_path: Path) -> None:
    """The thread closes it; no thread writes to a descriptor that means another file by then."""
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 -- not in a coroutine
    for _ in range(20):
        file = UnnamedFile(tmp_path)
        writing = asyncio.create_task(file.append(b"x" * 2**22))
        await asyncio.sleep(0)
        file.close()
        await writing
        assert await file.read_at(0, 1) == b""
    assert len(os.listdir("/proc/self/fd")) == len(before)  # noqa: PTH208 -- the same


async def test_a_full_disk_is_an_overload(tmp_path: Path) -> None:
    """As a folder that cannot be made is."""
    (tmp_path / "taken").write_text("x", encoding="ascii")
    with UploadSpace(tmp_path / "taken" / "uploads", 1000).open() as uploads, pytest.raises(Overloaded):
        uploads.create()


def test_nothing_is_left_of_a_process_that_is_killed(tmp_path: Path) -> None:
    """The kernel deletes what has no name."""
    ended = subprocess.run([sys.executable, "-c", DIES, str(tmp_path / "uploads")], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert list((tmp_path / "uploads").iterdir()) == []


def test_leftovers_of_other_disks_are_removed(tmp_path: Path) -> None:
    """A file that has a name for longer than its making takes; a newer one is another worker's."""
    old, new = tmp_path / "tmpold", tmp_path / "tmpnew"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 120, time.time() - 120))
    UploadSpace(tmp_path, 1000).remove_leftovers()
    assert list(tmp_path.iterdir()) == [new]
