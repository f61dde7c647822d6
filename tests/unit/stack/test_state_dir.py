"""Which launcher holds a state folder: the lock decides, never the files that lie there."""

import os
from pathlib import Path

import pytest

from llm_proxy.stack import state_dir


def test_addresses_count_while_a_launcher_holds_the_folder(tmp_path: Path) -> None:
    """So does its process id."""
    with state_dir.exclusive(tmp_path, os.getpid()):
        state_dir.write_addresses(tmp_path, {"LLM_PROXY_URL": "http://127.0.0.1:1"})
        assert state_dir.read_addresses(tmp_path) == {"LLM_PROXY_URL": "http://127.0.0.1:1"}
        assert state_dir.running_pid(tmp_path) == os.getpid()
        another = f"another `llm-proxy up` runs on {tmp_path}/: stop it, or name another --state"
        with pytest.raises(state_dir.AlreadyRunning, match=another), state_dir.exclusive(tmp_path, 1):
            pass
    assert state_dir.read_addresses(tmp_path) == {}
    assert not (tmp_path / state_dir.ADDRESSES_FILE).exists()


def test_files_of_a_killed_launcher_are_ignored(tmp_path: Path) -> None:
    """The files are there, the lock is not held."""
    state_dir.write_addresses(tmp_path, {"LLM_PROXY_URL": "http://127.0.0.1:1"})
    (tmp_path / state_dir.PID_FILE).write_text("4711")
    (tmp_path / state_dir.LOCK_FILE).touch()
    assert state_dir.read_addresses(tmp_path) == {}
    assert state_dir.running_pid(tmp_path) is None


def test_a_folder_that_does_not_exist_has_no_launcher(tmp_path: Path) -> None:
    """And no addresses."""
    assert state_dir.running_pid(tmp_path / "none") is None
    assert state_dir.read_addresses(tmp_path / "none") == {}


def test_a_reload_status_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The file keeps the field's name of earlier versions."""
    assert state_dir.read_reload_status(tmp_path) is None
    status = state_dir.ReloadStatus(7, done=None, lines=("starting sidecar-2",))
    status.write(tmp_path)
    assert state_dir.read_reload_status(tmp_path) == status
    assert '"said": ["starting sidecar-2"]' in (tmp_path / state_dir.RELOAD_FILE).read_text()
