"""What an installed wheel makes on first use: an environment of the lock that it brings, whole or none."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import os, sys
from llm_proxy.stack import NotInstalled, environments
seen = []
try:
    print(environments.make(environments.SIDECAR, os.environ, seen.append))
except NotInstalled as fault:
    sys.exit(f"not installed: {fault}")
print((seen[-1].name, seen[-1].packages, seen[-1].total) if seen else "nothing installed")
"""


@dataclass(frozen=True, slots=True)
class InstalledWheel:
    """A wheel of this tree as pip unpacks it, whose lock of the sidecar names one small package."""

    site: Path
    cache: Path
    uv: str

    def lock(self) -> Path:
        """The lock file that it brings."""
        return self.site / "llm_proxy" / "shipped" / "locks" / "sidecar.txt"

    def make(self, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Makes the environment; prints its Python and what was reported last."""
        given = {"PYTHONPATH": str(self.site), "XDG_CACHE_HOME": str(self.cache), "UV": self.uv}
        return subprocess.run(
            [sys.executable, "-P", "-c", PROGRAM],
            env=os.environ | given | variables,
            cwd=self.site,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def uv() -> str:
    """The installer of this checkout."""
    found = subprocess.run(["/bin/sh", "scripts/uv.sh"], cwd=ROOT, capture_output=True, text=True, check=True)
    return found.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True
    )
    return next(folder.glob("*.whl"))


@pytest.fixture
def installed(wheel: Path, uv: str, tmp_path: Path) -> InstalledWheel:
    """The wheel, unpacked anew for each test."""
    site = tmp_path / "site"
    subprocess.run([uv, "pip", "install", "--quiet", "--no-deps", "--target", site, wheel], check=True)
    unpacked = InstalledWheel(site, tmp_path / "cache", uv)
    full = unpacked.lock().read_text()
    small = re.search(r"^idna==[^\n]*\\\n(?:    --hash[^\n]*\n?)+", full, re.MULTILINE)
    assert small is not None
    unpacked.lock().write_text(small[0])
    return unpacked


def test_it_is_made_once_and_passes_its_own_check(installed: InstalledWheel) -> None:
    """The check knows every file: those of the lock's packages, and the copy of llm-proxy."""
    first = installed.make()
    assert first.returncode == 0, first.stderr
    python, reported = first.stdout.splitlines()
    assert reported == "('sidecar', 1, 1)"
    entry = Path(python).parents[1].glob("lib/python*/site-packages/llm_proxy/sidecar/verify_environment.py")
    checked = subprocess.run(
        [python, "-I", "-S", next(entry), "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert installed.make().stdout.splitlines() == [python, "nothing installed"]


def test_one_that_was_not_finished_is_made_anew(installed: InstalledWheel) -> None:
    """As after a power cut in the middle."""
    python = Path(installed.make().stdout.splitlines()[0])
    (python.parents[1] / "complete").unlink()
    next(python.parents[1].glob("lib/python*/site-packages/idna/core.py")).unlink()
    again = installed.make()
    assert again.stdout.splitlines() == [str(python), "('sidecar', 1, 1)"]
    assert next(python.parents[1].glob("lib/python*/site-packages/idna/core.py")).is_file()


def test_another_version_has_an_environment_of_its_own(installed: InstalledWheel) -> None:
    """A running stack of the version before keeps the one that it runs from."""
    before = installed.make().stdout.splitlines()[0]
    record = next(installed.site.glob("llm_proxy-*.dist-info/RECORD"))
    record.write_text(record.read_text() + "llm_proxy/another.py,,\n")
    assert installed.make().stdout.splitlines()[0] != before
    assert Path(before).exists()


def test_a_package_of_another_hash_is_not_installed(installed: InstalledWheel) -> None:
    """The installer's own reason is in the message, and nothing is left that would count as complete."""
    lock = installed.lock()
    lock.write_text(re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, lock.read_text()))
    failed = installed.make()
    assert failed.returncode == 1
    assert failed.stderr.startswith("not installed: uv failed: ")
    assert "idna" in failed.stderr
    assert not list(installed.cache.glob("llm-proxy/*/complete"))


def test_a_cache_folder_that_cannot_be_written_is_named(installed: InstalledWheel) -> None:
    """With the variable that names another."""
    (installed.cache).touch()
    failed = installed.make()
    assert failed.returncode == 1
    assert str(installed.cache) in failed.stderr
    assert failed.stderr.rstrip().endswith("XDG_CACHE_HOME names another place")


def test_without_uv_pip_makes_the_same(installed: InstalledWheel) -> None:
    """`python -m pip` of the Python that llm-proxy was installed for."""
    lacks = subprocess.run(
        [sys.executable, "-m", "pip", "--version"], capture_output=True, check=False
    ).returncode
    made = installed.make(UV="", PATH="/nowhere")
    if lacks:
        assert made.stderr.startswith("not installed: neither uv nor pip is here")
        return
    assert made.stdout.splitlines()[1] == "('sidecar', 1, 1)"
