"""Which Pythons are supported is said in several places; all say the same."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SUPPORTED = ("3.11", "3.12", "3.13", "3.14")


def test_the_installer_takes_what_the_commands_try() -> None:
    """`requires-python`, the choice of an interpreter, and what `make test-pythons` looks for."""
    assert PROJECT["requires-python"] == ">=3.11,<3.15"
    assert "(3, 11) <= sys.version_info < (3, 15)" in (ROOT / "scripts" / "python.sh").read_text()
    tried = (ROOT / "scripts" / "test_pythons.py").read_text()
    assert f"SUPPORTED = {SUPPORTED}".replace("'", '"') in tried


def test_an_unsupported_python_is_refused_by_name() -> None:
    """Before anything is built."""
    command = [sys.executable, str(ROOT / "scripts" / "test_pythons.py"), "3.10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "make test-pythons: not supported: 3.10\n")
