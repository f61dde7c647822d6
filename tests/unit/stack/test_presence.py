"""Who runs in a state folder: known by a lock, never by what lies about."""

import os
from pathlib import Path

import pytest

from llm_proxy.stack import presence


def test_a_note_counts_while_somebody_holds_the_folder(tmp_path: Path) -> None:
    """With the process id of who does."""
    with presence.alone_in(tmp_path, os.getpid()):
        presence.note(tmp_path, {"LLM_PROXY_URL": "http://127.0.0.1:1"})
        assert presence.noted(tmp_path) == {"LLM_PROXY_URL": "http://127.0.0.1:1"}
        assert presence.launcher(tmp_path) == os.getpid()
        with pytest.raises(presence.Taken), presence.alone_in(tmp_path, 1):
            pass
    assert presence.noted(tmp_path) == {}
    assert not (tmp_path / presence.NOTE).exists()


def test_what_a_killed_launcher_left_behind_misleads_nobody(tmp_path: Path) -> None:
    """Its files are there, the lock is not held."""
    presence.note(tmp_path, {"LLM_PROXY_URL": "http://127.0.0.1:1"})
    (tmp_path / presence.PID).write_text("4711")
    (tmp_path / presence.LOCK).touch()
    assert presence.noted(tmp_path) == {}
    assert presence.launcher(tmp_path) is None


def test_where_nobody_ever_ran_nobody_runs(tmp_path: Path) -> None:
    """Also without the folder."""
    assert presence.noted(tmp_path / "none") == {}
