"""Runs every test on each supported Python that this machine has; writes docs/pythons.md.

    make test-pythons                      3.11 to 3.14, whichever are on PATH or among pyenv's
    make test-pythons ARGS="3.12 3.13"     these only; the page keeps what it says of others

Both environments are built on each, in a copy of the last commit (`.pythons/VERSION`).
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
PAGE = ROOT / "docs" / "pythons.md"
HEAD = """\
# Pythons

Made by `make test-pythons` (do not edit): every test, with both environments (the gateway's and LiteLLM's)
built from the lock files on that Python.

| Python | system | tests | minutes |
| --- | --- | --- | ---: |
"""
ABSENT = "not there when this page was made"
ROW = re.compile(r"^\| (3\.\d+)(?:\.\d+)? \|.*$", re.MULTILINE)
ENDED = re.compile(r"^=* ?(\d+ (?:passed|failed|error).*?)(?: in [\d.]+s.*)?$", re.MULTILINE)


def found(version: str) -> str | None:
    """An interpreter of this version; None when this machine has none.

    A shim of pyenv's stands for one that may not be chosen: then those it chooses from are looked at.
    """
    name = f"python{version}"
    for folder in map(Path, os.get_exec_path()):
        kept = sorted((folder.parent / "versions").glob(f"{version}.*/bin/{name}"), reverse=True)
        for candidate in (folder / name, *(kept if folder.name == "shims" else ())):
            if candidate.is_file() and run(str(candidate), "-c", "").returncode == 0:
                return str(candidate)
    return None


def run(*command: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """A command, with what it printed."""
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def tested(version: str, python: str) -> tuple[str, bool]:
    """A row of the page, and whether every test passed."""
    folder = ROOT / ".pythons" / version
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    began = time.monotonic()
    copied = run("git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder))
    ready = copied if copied.returncode else run("make", "-s", "setup-dev", f"PYTHON={python}", cwd=folder)
    if ready.returncode:
        print(ready.stderr[-3000:], file=sys.stderr)
        return f"| {version} | {system()} | the environments could not be made | |", False
    exact = run(".venv/bin/python", "-c", "import platform; print(platform.python_version())", cwd=folder)
    sidecars = run(
        ".venv-sidecar/bin/python", "-c", "import platform; print(platform.python_version())", cwd=folder
    )
    if exact.stdout != sidecars.stdout:
        return f"| {version} | {system()} | the environments have different Pythons | |", False
    done = run(".venv/bin/python", "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", cwd=folder)
    (folder.parent / f"{version}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    ends = ENDED.findall(done.stdout)
    told = ends[-1].strip("= ") if ends else "ended without a result"
    print(f"  {version}: {told}", flush=True)
    minutes = (time.monotonic() - began) / 60
    return f"| {exact.stdout.strip()} | {system()} | {told} | {minutes:.0f} |", done.returncode == 0


def system() -> str:
    """What the tests ran on."""
    return f"{platform.system()} {platform.machine()}"


def main() -> int:
    """Test, and write the page; 0 when all passed."""
    asked = sys.argv[1:] or list(SUPPORTED)
    unknown = sorted(set(asked) - set(SUPPORTED))
    if unknown:
        print(f"make test-pythons: not supported: {', '.join(unknown)}", file=sys.stderr)
        return 2
    kept = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    rows = {one[1]: one[0] for one in ROW.finditer(kept)}
    well = True
    for version in asked:
        python = found(version)
        print(f"→ Python {version}: {python or 'not here'}", flush=True)
        if python is None:
            rows.setdefault(version, f"| {version} | | {ABSENT} | |")
            continue
        rows[version], passed = tested(version, python)
        well = well and passed
        lines = [rows[name] for name in SUPPORTED if name in rows]
        PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
