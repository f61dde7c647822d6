"""The spool keeps lines in order, complete and within its size."""

import resource
import signal
from pathlib import Path

import pytest

from llm_proxy.ledger.spool import Spool, list_segments, read_lines


def drained(spool: Spool) -> list[bytes]:
    """Everything waiting, oldest first, taken out."""
    found: list[bytes] = []
    while (segment := spool.oldest()) is not None:
        found += read_lines(segment)
        spool.discard(segment)
    return found


def test_lines_come_back_in_order_after_a_restart(tmp_path: Path) -> None:
    """Several appends, several segments, two owners."""
    first = Spool(tmp_path, 2**20)
    first.append([b"1", b"2"])
    first.close()
    first.append([b"3"])
    second = Spool(tmp_path, 2**20)
    second.append([b"4"])
    assert (second.records, second.size_bytes) == (4, 8)
    assert drained(second) == [b"1", b"2", b"3", b"4"]
    assert (second.records, second.size_bytes, list_segments(tmp_path)) == (0, 0, [])


def test_the_oldest_segment_is_dropped_at_the_size_limit(tmp_path: Path) -> None:
    """And counted; the newest stays."""
    spool = Spool(tmp_path, 20_000)
    for number in range(1000):
        spool.append([b"%099d" % number])
    left = drained(spool)
    assert len(left) * 100 <= 20_000
    assert left[-1] == b"%099d" % 999
    assert spool.dropped == 1000 - len(left)


def test_a_torn_last_line_is_skipped(tmp_path: Path) -> None:
    """A power cut may leave half a line; the others are read."""
    spool = Spool(tmp_path, 2**20)
    spool.append([b"whole"])
    segment = list_segments(tmp_path)[0]
    segment.write_bytes(segment.read_bytes() + b"ha")
    assert list(read_lines(segment)) == [b"whole"]


def test_a_failed_append_leaves_no_torn_line(tmp_path: Path) -> None:
    """A file that cannot grow, as on a full disk: OSError, and the old lines stay."""
    spool = Spool(tmp_path, 2**20)
    spool.append([b"before"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            spool.append([b"x" * 60, b"y" * 60])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    spool.append([b"after"])
    assert drained(spool) == [b"before", b"after"]


def test_a_dead_workers_segment_is_adopted(tmp_path: Path) -> None:
    """Renamed into the own folder, counted, read in its order."""
    (tmp_path / "dead").mkdir()
    (tmp_path / "mine").mkdir()
    dead, mine = Spool(tmp_path / "dead", 2**20), Spool(tmp_path / "mine", 2**20)
    dead.append([b"theirs"])
    mine.append([b"ours"])
    for segment in list_segments(tmp_path / "dead"):
        mine.adopt(segment)
    assert drained(mine) == [b"ours", b"theirs"]
    assert list_segments(tmp_path / "dead") == []


@pytest.mark.parametrize("times", [1, 2])
def test_a_rejected_line_is_never_replayed(tmp_path: Path, times: int) -> None:
    """It is in no segment."""
    spool = Spool(tmp_path, 2**20)
    for _ in range(times):
        spool.reject(b"odd")
    assert (tmp_path / "rejected.jsonl").read_bytes() == b"odd\n" * times
    assert spool.oldest() is None
