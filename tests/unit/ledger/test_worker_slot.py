"""A worker slot belongs to one living process."""

from pathlib import Path

from llm_proxy.ledger.worker_slot import abandoned_slots, acquire_slot


def test_slot_is_free_when_its_owner_is_dead(tmp_path: Path) -> None:
    """Two living workers never share a slot."""
    first, second = acquire_slot(tmp_path), acquire_slot(tmp_path)
    assert first.path != second.path
    assert list(abandoned_slots(tmp_path)) == []
    first.release()
    (found,) = abandoned_slots(tmp_path)
    assert found.path == first.path
    found.release()
    second.release()
