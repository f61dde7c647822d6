"""When a changed file is told."""

from pathlib import Path

from llm_proxy.stack.rolling_restart import FileWatcher


def test_a_change_is_told_once_and_only_when_the_file_stands_still(tmp_path: Path) -> None:
    """Editors write in steps; a file that appears is a change too."""
    file, later = tmp_path / "a", tmp_path / "b"
    file.write_text("1")
    watched = [file, later]
    changes = FileWatcher(0.0, watched)
    assert not changes.has_changed(1.0, watched)
    file.write_text("12")
    assert not changes.has_changed(2.0, watched)
    file.write_text("123")
    assert not changes.has_changed(3.0, watched)
    assert changes.has_changed(4.0, watched)
    assert not changes.has_changed(5.0, watched)
    later.write_text("new")
    assert [changes.has_changed(at, watched) for at in (6.0, 7.0, 8.0)] == [False, True, False]


def test_files_are_looked_at_once_a_second(tmp_path: Path) -> None:
    """However often somebody asks."""
    file = tmp_path / "a"
    file.write_text("1")
    changes = FileWatcher(0.0, [file])
    file.write_text("12")
    assert [changes.has_changed(at, [file]) for at in (1.0, 1.5, 2.0)] == [False, False, True]


def test_what_a_reload_reads_is_no_change_afterwards(tmp_path: Path) -> None:
    """An edit and a reload at once exchange the sidecars once; a later edit counts again."""
    file = tmp_path / "a"
    file.write_text("1")
    changes = FileWatcher(0.0, [file])
    file.write_text("12")
    changes.mark_read([file])
    assert [changes.has_changed(at, [file]) for at in (1.0, 2.0, 3.0)] == [False, False, False]
    file.write_text("123")
    assert [changes.has_changed(at, [file]) for at in (4.0, 5.0)] == [False, True]
