"""Sidecar addresses: port ranges and address files."""

from pathlib import Path

from llm_proxy.upstream.monitor import read_addresses


def test_a_file_lists_one_sidecar_a_line_and_is_read_again(tmp_path: Path) -> None:
    """Beside plain addresses; ranges are expanded in both."""
    file = tmp_path / "sidecars"
    file.write_text("http://127.0.0.1:4101\nhttp://127.0.0.1:4103-4104/\n")
    given = ("http://there:4000/v1", f"@{file}")
    there = "http://there:4000"
    assert read_addresses(given) == (there, *(f"http://127.0.0.1:{port}" for port in (4101, 4103, 4104)))
    file.write_text("http://127.0.0.1:4109\n")
    assert read_addresses(given) == (there, "http://127.0.0.1:4109")


def test_a_missing_or_empty_file_lists_no_sidecar(tmp_path: Path) -> None:
    """The monitor keeps the list it has."""
    (tmp_path / "words").write_text("# nobody\n\n")
    assert read_addresses((f"@{tmp_path / 'none'}", f"@{tmp_path / 'words'}")) == ()
