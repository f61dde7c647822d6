"""Checks LiteLLM's Python environment before any of it runs, then becomes the sidecar.

Started as `python -I -S verify_environment.py ARGS`, so that no `*.pth` file and no `sitecustomize.py` runs
before. Invariants: standard library only; a malicious release never starts; any other finding prevents the
start unless `LLM_PROXY_SIDECAR_ENVIRONMENT_CHECK` is `warn`. `*.pyc` files beside their source are not
checked. With `--check` instead of ARGS it only reports, by its exit code.
"""

import base64
import csv
import fnmatch
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

MALICIOUS_RELEASES = {"litellm": ("1.82.7", "1.82.8", "1.107.*")}
"""Releases published with malicious code: two in March 2026, one line in October 2026.

Each stands for whatever was published under these three numbers, post-releases and candidates too.
"""

EXIT_UNSAFE = 5
CHECK_SETTING = "LLM_PROXY_SIDECAR_ENVIRONMENT_CHECK"
OWN_NAME = "llm-proxy"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
_NUMBERS = re.compile(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?", re.IGNORECASE)
_DIST_INFO = re.compile(r"^(.+)-([^-]+)\.dist-info$")
_CODE = (".py", ".so", ".pyd", ".pth")
_RUN_AT_START = ("sitecustomize.py", "usercustomize.py")
_MAX_SHOWN = 20


def normalize(name: str) -> str:
    """Return a distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_malicious(name: str, version: str) -> bool:
    """Whether this release is known to be malicious."""
    found = _NUMBERS.match(version)
    release = ".".join(str(int(part or 0)) for part in found.groups()) if found else version
    patterns = MALICIOUS_RELEASES.get(normalize(name), ())
    return any(fnmatch.fnmatchcase(release, pattern) for pattern in patterns)


def read_pins(lock_text: str) -> set[tuple[str, str]]:
    """Return name and version of each distribution in a lock file."""
    return {(normalize(name), version) for name, version in _PIN.findall(lock_text)}


def installed_versions(site_packages: Path) -> Iterator[tuple[str, str]]:
    """Yield name and version of each installed distribution except our own."""
    for folder in sorted(site_packages.glob("*.dist-info")):
        found = _DIST_INFO.match(folder.name)
        if found and normalize(found[1]) != OWN_NAME:
            yield normalize(found[1]), found[2]


def find_malicious_releases(site_packages: Path) -> list[str]:
    """Return a line for each installed release that is known to be malicious."""
    return [
        f"{name} {version} was published with malicious code"
        for name, version in installed_versions(site_packages)
        if is_malicious(name, version)
    ]


def find_changes(site_packages: Path, lock: Path) -> list[str]:
    """Return a line for each difference between the environment, its lock file and its packages' records.

    Args:
        site_packages: The folder of the environment's packages.
        lock: The environment's lock file; if it is missing, versions are not compared.
    """
    problems: list[str] = []
    if lock.is_file():
        allowed = read_pins(lock.read_text(encoding="utf-8"))
        problems += [
            f"{name} {version} is not in {lock.name}"
            for name, version in installed_versions(site_packages)
            if (name, version) not in allowed
        ]
    recorded: set[str] = set()
    for record in sorted(site_packages.glob("*.dist-info/RECORD")):
        problems += _changed_files(site_packages, record, recorded)
    return problems + list(_unowned_files(site_packages, recorded))


def _changed_files(site_packages: Path, record: Path, recorded: set[str]) -> Iterator[str]:
    """Yield code files without the digest their package recorded; add the package's files to `recorded`."""
    with record.open(newline="", encoding="utf-8") as lines:
        for row in csv.reader(lines):
            recorded.add(os.path.normpath(row[0]))
            if row[0].endswith(_CODE) and row[1] and _digest(site_packages / row[0], row[1]) != row[1]:
                yield f"{row[0]} is not the file its package installed"


def _digest(file: Path, like: str) -> str:
    """Return the file's digest in the algorithm and form of `like`; empty if it cannot be read."""
    algorithm = like.partition("=")[0]
    try:
        digest = hashlib.new(algorithm, file.read_bytes()).digest()
    except (OSError, ValueError):
        return ""
    return f"{algorithm}={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def _unowned_files(site_packages: Path, recorded: set[str]) -> Iterator[str]:
    """Yield files that Python runs at its start, and files that no package recorded."""
    for folder, _, files in os.walk(site_packages):
        for name in files:
            path = os.path.relpath(os.path.join(folder, name), site_packages)  # noqa: PTH118 -- 40,000 files: Path costs a second
            if name in _RUN_AT_START or (name.endswith(".pth") and _runs_code(site_packages / path)):
                yield f"{path} runs at every start of Python"
            elif path not in recorded and not _is_bytecode(path):
                yield f"{path} belongs to no package"


def find_start_files(site_packages: Path, python_path: str) -> list[str]:
    """Return a line for each file that Python runs at its start from a folder outside the environment.

    Args:
        site_packages: The folder whose `*.pth` files name some of these folders.
        python_path: The value of PYTHONPATH, which names the others.
    """
    named = [Path(folder) for folder in python_path.split(os.pathsep) if folder]
    for pth in site_packages.glob("*.pth"):
        lines = pth.read_text(encoding="utf-8", errors="replace").splitlines()
        named += [site_packages / line.strip() for line in lines if line.strip() and not line.startswith("#")]
    files = (folder / name for folder in dict.fromkeys(named) for name in _RUN_AT_START)
    return [f"{file} runs at every start of Python" for file in files if file.is_file()]


def _runs_code(pth: Path) -> bool:
    """Whether a `*.pth` file does more than name folders (see the documentation of `site`)."""
    text = pth.read_text(encoding="utf-8", errors="replace")
    return any(line.startswith(("import ", "import\t")) for line in text.splitlines())


def _is_bytecode(path: str) -> bool:
    return path.endswith(".pyc") and os.path.basename(os.path.dirname(path)) == "__pycache__"  # noqa: PTH119, PTH120 -- the same


def site_packages_of(executable: Path) -> Path:
    """Return the folder from which an environment's interpreter imports packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return executable.parent.parent / "lib" / version / "site-packages"


def _lock_file() -> Path:
    """Return the lock file of a checkout or an image, else the one that the wheel brings."""
    package = Path(__file__).parents[1]
    in_checkout = package.parent / "locks" / "sidecar.txt"
    return in_checkout if in_checkout.is_file() else package / "shipped" / "locks" / "sidecar.txt"


def _remedy(site_packages: Path) -> str:
    again = "make setup" if (Path(__file__).parents[2] / "Makefile").is_file() else "llm-proxy up"
    return f"; make the environment anew: rm -rf {site_packages.parents[2]} && {again}"


def main(args: list[str]) -> int:
    """Check, then replace this process by `python -m llm_proxy.sidecar ARGS`; return the exit code else."""
    site_packages = site_packages_of(Path(sys.executable))
    malicious = find_malicious_releases(site_packages)
    lock = _lock_file()
    mode = os.environ.get(CHECK_SETTING) or "refuse"
    if mode not in {"refuse", "warn"}:
        return _report([f"{CHECK_SETTING} is neither refuse nor warn"], "")
    found = malicious or [
        *find_changes(site_packages, lock),
        *find_start_files(site_packages, os.environ.get("PYTHONPATH", "")),
    ]
    checking_only = args == ["--check"]
    if found:
        remedy = "" if malicious else _remedy(site_packages)
        code = _report(found, remedy)
        if malicious or mode == "refuse" or checking_only:
            return code
    if not checking_only:
        os.execv(sys.executable, [sys.executable, "-m", "llm_proxy.sidecar", *args])  # noqa: S606 -- our own program
    return 0


def _report(found: list[str], remedy: str) -> int:
    more = f" (and {len(found) - _MAX_SHOWN} more)" if len(found) > _MAX_SHOWN else ""
    listed = "; ".join(found[:_MAX_SHOWN]) + more
    print(f"sidecar: LiteLLM's environment: {listed}{remedy}", file=sys.stderr, flush=True)  # noqa: T201 -- the log of this process
    return EXIT_UNSAFE if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
