"""A worker's folder is its own as long as it lives."""

from pathlib import Path

from llm_proxy.ledger.worker_slot import abandoned, take


def test_a_seat_is_free_when_its_owner_is_gone(tmp_path: Path) -> None:
    """Two living workers never share one."""
    first, second = take(tmp_path), take(tmp_path)
    assert first.path != second.path
    assert list(abandoned(tmp_path)) == []
    first.release()
    (found,) = abandoned(tmp_path)
    assert found.path == first.path
    found.release()
    second.release()
