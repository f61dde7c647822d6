"""The release before: its source tree, from this clone's history, and the Pythons that run it.

`COMMIT` names it here alone; `make release` says when to change it, with `OLDEST_SCHEMA` in
`llm_proxy/schema/steps.py`. An environment of its own is made only if its lock differs from ours.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from llm_proxy.stack.process_specs import sidecar_python

COMMIT = "eb3c14f634da9ea023ac26dbe4169218e87873e0"
PROJECT_ROOT = Path(__file__).parents[1]
ENVIRONMENTS = PROJECT_ROOT / ".pythons" / "release-before"


def git(*words: str) -> "subprocess.CompletedProcess[bytes]":
    """What git says of this clone."""
    command = ["git", "-C", str(PROJECT_ROOT), *words]
    return subprocess.run(command, capture_output=True, check=False)


def history_lack() -> str | None:
    """Why this clone cannot show that release; None if it can."""
    try:
        found = git("cat-file", "-e", f"{COMMIT}^{{commit}}")
    except FileNotFoundError:
        return "git is not installed"
    if found.returncode == 0:
        return None
    return f"this clone has no commit {COMMIT[:12]}: it is shallow (`git fetch --unshallow`), or no clone"


def unpack(folder: Path) -> Path:
    """Returns that release's tree, unpacked into `folder`; skips the test where the clone has no history."""
    if (lack := history_lack()) is not None:
        pytest.skip(lack)
    archive = folder / "release-before.tar"
    archived = git("archive", "--output", str(archive), COMMIT)
    assert archived.returncode == 0, archived.stderr.decode()
    tree = folder / "release-before"
    with tarfile.open(archive) as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # no argument before 3.11.4
        packed.extractall(tree)  # noqa: S202 -- with the filter set above
    return tree


def gateway_python(tree: Path) -> Path:
    """The Python with the packages of that release's gateway."""
    return _environment(tree, "gateway", Path(sys.executable))


def litellm_python(tree: Path) -> Path:
    """The Python with the packages of that release's sidecar."""
    return _environment(tree, "sidecar", sidecar_python())


def _environment(tree: Path, lock: str, ours: Path) -> Path:
    theirs = (tree / "locks" / f"{lock}.txt").read_bytes()
    if theirs == (PROJECT_ROOT / "locks" / f"{lock}.txt").read_bytes():
        return ours
    folder = ENVIRONMENTS / f"{lock}-{hashlib.sha256(theirs).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        uv = run("sh", "scripts/uv.sh").strip()
        run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
        run(
            *(uv, "pip", "install", "--quiet", "--python", str(python), "--no-deps", "--require-hashes"),
            *("--compile-bytecode", "--requirement", str(tree / "locks" / f"{lock}.txt")),
        )
        (folder / "complete").touch()
    return python


def run(*command: str) -> str:
    """Runs a program in this checkout; returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    return subprocess.run(
        command, cwd=PROJECT_ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout
