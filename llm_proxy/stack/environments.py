"""The Python environments of an installed wheel, made on first use: LiteLLM's, and the local stack's.

Invariants: in a checkout `make setup` makes them, and nothing is made here. Every package is installed by the
hash in a lock file that the wheel brings, and no other package. An environment is used only once it is
complete; two starts at once make one. Another version of llm-proxy has environments of its own.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llm_proxy.stack.process import NotInstalled

CHECKOUT = Path(__file__).parents[2]
_PACKAGE, _DISTRIBUTION = Path(__file__).parents[1], "llm-proxy"
_PINS = re.compile(r"^[A-Za-z0-9._-]+(?:\[[^\]]*\])?==", re.MULTILINE)
_OWN_CODE = re.compile(r"^llm_proxy/(?!.*\.pyc,).*$", re.MULTILINE)
"""Lines of the wheel's record that are the same for every installer and folder."""
_WRITTEN = re.compile(r"^wchar: (\d+)$", re.MULTILINE)
_COMPLETE = "complete"
_LOOK_EVERY_S = 0.5
_ERROR_LINES = 15


@dataclass(frozen=True, slots=True)
class Installed:
    """How much of an environment is installed.

    Attributes:
        name: The environment's.
        packages: How many packages are complete, of `total`.
        written_bytes: What the installer has written so far, downloads too; 0 where the system does not say.
    """

    name: str
    packages: int
    total: int
    written_bytes: int


Progress = Callable[[Installed], None]


@dataclass(frozen=True, slots=True)
class LockedEnvironment:
    """An environment and its lock file.

    Attributes:
        name: For a person, and of its folder.
        lock: The lock file's name.
        in_checkout: Its folder below a checkout.
    """

    name: str
    lock: str
    in_checkout: str

    def find(self) -> Path | None:
        """Returns its Python; None where the environment is not there yet."""
        folder = CHECKOUT / self.in_checkout if is_checkout() else _folder(self)
        is_complete = is_checkout() or (folder / _COMPLETE).is_file()
        python = folder / "bin" / "python"
        return python if is_complete and python.exists() else None


SIDECAR = LockedEnvironment("sidecar", "locks/sidecar.txt", ".venv-sidecar")
STACK = LockedEnvironment("stack", "locks/stack.txt", ".venv")


def is_checkout() -> bool:
    """Whether this code runs in a checkout or an image, where the environments are made beforehand."""
    return (CHECKOUT / SIDECAR.lock).is_file()


def shipped_file(name: str) -> Path:
    """Returns a file of the checkout's top folder, in a wheel its copy; it may be missing."""
    return CHECKOUT / name if is_checkout() else _PACKAGE / "shipped" / name


def make(wanted: LockedEnvironment, variables: Mapping[str, str], report: Progress) -> Path:
    """Makes an environment unless it is there; returns its Python.

    Args:
        wanted: The environment.
        variables: The installer's environment: its index, its proxy, its certificates.
        report: Is called while the packages arrive.

    Raises:
        NotInstalled: In a checkout; or the installer failed, with the last lines it wrote.
    """
    if is_checkout():
        raise NotInstalled(f"{CHECKOUT / wanted.in_checkout} is missing: run `make setup` first")
    folder, lock = _folder(wanted), shipped_file(wanted.lock)
    with _alone(folder):
        found = wanted.find()
        if found is not None:
            return found
        shutil.rmtree(folder, ignore_errors=True)
        python = folder / "bin" / "python"
        for command in _commands(folder, lock, variables):
            _run(command, variables, partial(_report, wanted, folder, lock, report))
        _report(wanted, folder, lock, report, None)
        _copy_own_package(next(folder.glob("lib/python*/site-packages")))
        (folder / _COMPLETE).touch()
        return python


def _folder(wanted: LockedEnvironment) -> Path:
    """Where an environment lies outside a checkout: of this lock, this code and this Python."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.sha256(shipped_file(wanted.lock).read_bytes())
    digest.update(
        "\n".join(sorted(_OWN_CODE.findall(_own_distribution().read_text("RECORD") or ""))).encode()
    )
    digest.update(f"{sys.version} {sys.base_prefix}".encode())
    return Path(cache) / "llm-proxy" / f"{wanted.name}-{digest.hexdigest()[:16]}"


def _own_distribution() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise NotInstalled("llm-proxy runs from no checkout and from no installed wheel") from None


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as fault:
        raise NotInstalled(
            f"{folder.parent}: {fault.strerror}; XDG_CACHE_HOME names another place"
        ) from fault


def _commands(folder: Path, lock: Path, variables: Mapping[str, str]) -> tuple[Sequence[str], ...]:
    """Returns what makes the environment: uv where it is there, else venv and pip."""
    python = str(folder / "bin" / "python")
    by_hash = ("--no-deps", "--require-hashes", "--requirement", str(lock))
    uv = variables.get("UV") or shutil.which("uv", path=variables.get("PATH"))
    if uv:
        return (
            (uv, "venv", "--quiet", "--python", sys.executable, str(folder)),
            (uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, *by_hash),
        )
    if importlib.util.find_spec("pip") is None:
        raise NotInstalled("neither uv nor pip is here to install LiteLLM with: install one of them")
    return (
        (sys.executable, "-m", "venv", "--without-pip", str(folder)),
        (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *by_hash),
    )


def _run(command: Sequence[str], variables: Mapping[str, str], tick: Callable[[int], None]) -> None:
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(command, env=dict(variables), stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None:
            tick(process.pid)
            time.sleep(_LOOK_EVERY_S)
        errors.seek(0)
        said = errors.read().splitlines()[-_ERROR_LINES:]
    if process.returncode:
        raise NotInstalled(f"{Path(command[0]).name} failed: " + " ".join(said))


def _report(
    wanted: LockedEnvironment, folder: Path, lock: Path, report: Progress, installer: int | None
) -> None:
    there = sum(1 for _ in folder.glob("lib/python*/site-packages/*.dist-info"))
    total = len(_PINS.findall(lock.read_text(encoding="utf-8")))
    report(Installed(wanted.name, there, total, 0 if installer is None else _written_bytes(installer)))


def _written_bytes(installer: int) -> int:
    """Returns what a process and its running children wrote; pip works in a child."""
    written = 0
    with suppress(OSError, ValueError):
        written += int(_WRITTEN.findall(Path(f"/proc/{installer}/io").read_text(encoding="ascii"))[0])
        children = Path(f"/proc/{installer}/task/{installer}/children").read_text(encoding="ascii")
        written += sum(map(_written_bytes, map(int, children.split())))
    return written


def _copy_own_package(site_packages: Path) -> None:
    """Copies this wheel's files with their record, by which the sidecar's check knows each of them."""
    for file in _own_distribution().files or ():
        source, target = Path(str(file.locate())), site_packages / file
        if file.parts[0] != ".." and source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
