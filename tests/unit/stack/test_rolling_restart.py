"""When a changed file is reported."""

from pathlib import Path

from llm_proxy.stack.rolling_restart import FileWatcher


def test_a_change_is_reported_once_and_only_when_the_file_stays_the_same(tmp_path: Path) -> None:
    """Editors write in steps; a new file is a change too."""
    file, later = tmp_path / "a", tmp_path / "b"
    file.write_text("1")
    watched = [file, later]
    watcher = FileWatcher(0.0, watched)
    assert not watcher.has_changed(1.0, watched)
    file.write_text("12")
    assert not watcher.has_changed(2.0, watched)
    file.write_text("123")
    assert not watcher.has_changed(3.0, watched)
    assert watcher.has_changed(4.0, watched)
    assert not watcher.has_changed(5.0, watched)
    later.write_text("new")
    assert [watcher.has_changed(at, watched) for at in (6.0, 7.0, 8.0)] == [False, True, False]


def test_files_are_polled_once_a_second(tmp_path: Path) -> None:
    """However often `has_changed` is called."""
    file = tmp_path / "a"
    file.write_text("1")
    watcher = FileWatcher(0.0, [file])
    file.write_text("12")
    assert [watcher.has_changed(at, [file]) for at in (1.0, 1.5, 2.0)] == [False, False, True]


def test_a_change_that_a_reload_reads_is_not_reported(tmp_path: Path) -> None:
    """An edit and a reload at the same time replace the sidecars once; a later edit counts again."""
    file = tmp_path / "a"
    file.write_text("1")
    watcher = FileWatcher(0.0, [file])
    file.write_text("12")
    watcher.mark_read([file])
    assert [watcher.has_changed(at, [file]) for at in (1.0, 2.0, 3.0)] == [False, False, False]
    file.write_text("123")
    assert [watcher.has_changed(at, [file]) for at in (4.0, 5.0)] == [False, True]
