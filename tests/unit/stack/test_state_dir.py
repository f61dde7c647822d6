"""Who runs in a state folder: known by a lock, never by what lies about."""

import os
from pathlib import Path

import pytest

from llm_proxy.stack import state_dir


def test_a_note_counts_while_somebody_holds_the_folder(tmp_path: Path) -> None:
    """With the process id of who does."""
    with state_dir.exclusive(tmp_path, os.getpid()):
        state_dir.write_addresses(tmp_path, {"LLM_PROXY_URL": "http://127.0.0.1:1"})
        assert state_dir.read_addresses(tmp_path) == {"LLM_PROXY_URL": "http://127.0.0.1:1"}
        assert state_dir.running_pid(tmp_path) == os.getpid()
        with pytest.raises(state_dir.Taken), state_dir.exclusive(tmp_path, 1):
            pass
    assert state_dir.read_addresses(tmp_path) == {}
    assert not (tmp_path / state_dir.ADDRESSES_FILE).exists()


def test_what_a_killed_launcher_left_behind_misleads_nobody(tmp_path: Path) -> None:
    """Its files are there, the lock is not held."""
    state_dir.write_addresses(tmp_path, {"LLM_PROXY_URL": "http://127.0.0.1:1"})
    (tmp_path / state_dir.PID_FILE).write_text("4711")
    (tmp_path / state_dir.LOCK_FILE).touch()
    assert state_dir.read_addresses(tmp_path) == {}
    assert state_dir.running_pid(tmp_path) is None


def test_where_nobody_ever_ran_nobody_runs(tmp_path: Path) -> None:
    """Also without the folder."""
    assert state_dir.read_addresses(tmp_path / "none") == {}
