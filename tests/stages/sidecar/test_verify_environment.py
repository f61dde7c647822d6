"""A sidecar's Python environment is compared with its lock file before anything in it runs."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_proxy.sidecar.verify_environment import (
    EXIT_UNSAFE,
    find_changes,
    find_malicious_releases,
    installed_versions,
    is_malicious,
    read_pins,
    site_packages_of,
)
from llm_proxy.stack.environments import CHECKOUT
from llm_proxy.stack.process_specs import VERIFIED_ENTRY_POINT, sidecar_python

LOCKS = sorted((CHECKOUT / "locks").rglob("*.txt"))
PACKAGES = ("certifi", "h11", "sniffio")
PLANTED = "import pathlib; pathlib.Path({marker!r}).touch()\n"


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A small environment with copies of some of the sidecar's packages."""
    theirs = site_packages_of(sidecar_python())
    folder = tmp_path / "environment"
    ours = folder / theirs.relative_to(sidecar_python().parents[1])
    ours.mkdir(parents=True)
    for found in theirs.iterdir():
        if found.name.split("-")[0] in PACKAGES:
            shutil.copytree(found, ours / found.name)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(sidecar_python().resolve())
    shutil.copy(sidecar_python().parents[1] / "pyvenv.cfg", folder)
    return folder


def start(environment: Path, *args: str, mode: str = "", **more: str) -> "subprocess.CompletedProcess[str]":
    """Return the output and the exit code of starting a sidecar from this environment."""
    command = [str(environment / "bin" / "python"), "-I", "-S", str(VERIFIED_ENTRY_POINT), *args]
    given = {"PATH": os.environ["PATH"], "LLM_PROXY_SIDECAR_ENVIRONMENT_CHECK": mode} | more
    return subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, check=False, text=True, env=given, timeout=60
    )


def packages(environment: Path) -> Path:
    return site_packages_of(environment / "bin" / "python")


def plant_pth(site_packages: Path, marker: Path) -> str:
    (site_packages / "cook.pth").write_text(PLANTED.format(marker=str(marker)))
    return "cook.pth runs at every start of Python"


def plant_sitecustomize(site_packages: Path, marker: Path) -> str:
    (site_packages / "sitecustomize.py").write_text(PLANTED.format(marker=str(marker)))
    return "sitecustomize.py runs at every start of Python"


def change_code(site_packages: Path, marker: Path) -> str:
    with (site_packages / "certifi" / "core.py").open("a") as code:
        code.write(PLANTED.format(marker=str(marker)))
    return "certifi/core.py is not the file its package installed"


def remove_code(site_packages: Path, _: Path) -> str:
    (site_packages / "certifi" / "core.py").unlink()
    return "certifi/core.py is not the file its package installed"


def add_code(site_packages: Path, marker: Path) -> str:
    (site_packages / "certifi" / "extra.py").write_text(PLANTED.format(marker=str(marker)))
    return "certifi/extra.py belongs to no package"


def add_bytecode(site_packages: Path, _: Path) -> str:
    (site_packages / "json.pyc").write_bytes(b"\0")
    return "json.pyc belongs to no package"


def other_version(site_packages: Path, _: Path) -> str:
    [found] = site_packages.glob("h11-*.dist-info")
    found.rename(site_packages / "h11-0.0.1.dist-info")
    return "h11 0.0.1 is not in sidecar.txt"


def test_the_sidecar_s_own_environment_matches_its_lock() -> None:
    """The one that `make setup` creates."""
    assert find_changes(site_packages_of(sidecar_python()), CHECKOUT / "locks" / "sidecar.txt") == []


@pytest.mark.parametrize(
    "poison",
    [plant_pth, plant_sitecustomize, change_code, remove_code, add_code, add_bytecode, other_version],
)
def test_a_changed_environment_never_starts(
    environment: Path, tmp_path: Path, poison: Callable[[Path, Path], str]
) -> None:
    """One line names the file; planted code does not run."""
    assert start(environment, "--check").returncode == 0
    marker = tmp_path / "ran"
    expected = poison(packages(environment), marker)
    result = start(environment, "--config", "litellm.yaml")
    assert result.returncode == EXIT_UNSAFE
    [line] = result.stderr.splitlines()
    assert expected in line
    assert not marker.exists()


@pytest.mark.parametrize("name", ["sitecustomize.py", "usercustomize.py"])
@pytest.mark.parametrize("way", ["PYTHONPATH", "a recorded file"])
def test_start_files_in_other_folders_prevent_the_start(
    environment: Path, tmp_path: Path, name: str, way: str
) -> None:
    """PYTHONPATH and `*.pth` files add folders whose start files Python runs."""
    folder, marker = tmp_path / "beside", tmp_path / "ran"
    folder.mkdir()
    (folder / name).write_text(PLANTED.format(marker=str(marker)))
    more = {"PYTHONPATH": str(folder)} if way == "PYTHONPATH" else {}
    if not more:
        (packages(environment) / "editable.pth").write_text(f"{folder}\n")
        [record] = packages(environment).glob("h11-*.dist-info/RECORD")
        with record.open("a") as lines:
            lines.write("editable.pth,,\n")
    result = start(environment, "--config", "litellm.yaml", **more)
    assert result.returncode == EXIT_UNSAFE
    assert f"{folder / name} runs at every start of Python" in result.stderr
    assert not marker.exists()


def test_with_warn_a_finding_does_not_prevent_the_start(environment: Path, tmp_path: Path) -> None:
    """The sidecar starts and finds no configuration."""
    plant_pth(packages(environment), tmp_path / "ran")
    warned = start(environment, "--config", "litellm.yaml", mode="warn")
    assert "cook.pth runs at every start" in warned.stderr.splitlines()[0]
    assert "litellm.yaml: cannot be read" in warned.stderr
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8", "1.107.0", "1.107.3"])
def test_a_malicious_release_never_starts(environment: Path, version: str) -> None:
    """Not even with `warn`, whatever the lock file says."""
    (packages(environment) / f"litellm-{version}.dist-info").mkdir()
    result = start(environment, "--config", "litellm.yaml", mode="warn")
    assert result.returncode == EXIT_UNSAFE
    assert f"litellm {version} was published with malicious code" in result.stderr


def test_other_releases_are_not_malicious() -> None:
    """Nor other packages with these versions."""
    found = [("litellm", "1.106.2"), ("litellm", "1.108.6"), ("litellm", "1.10.7"), ("openai", "1.107.0")]
    assert [one for one in found if is_malicious(*one)] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_no_lock_file_has_a_malicious_release(lock: Path) -> None:
    """An upgrade to one would fail here."""
    assert read_pins(lock.read_text()), "a lock file without pins is not one"
    assert [pin for pin in read_pins(lock.read_text()) if is_malicious(*pin)] == []


def test_an_unknown_value_of_the_check_is_an_error(environment: Path) -> None:
    """A typing error must not turn the check off."""
    result = start(environment, "--config", "litellm.yaml", mode="off")
    assert result.returncode == EXIT_UNSAFE
    assert "LLM_PROXY_SIDECAR_ENVIRONMENT_CHECK" in result.stderr


def test_the_pinned_litellm_is_the_one_installed() -> None:
    """And it is not malicious."""
    found = dict(installed_versions(site_packages_of(sidecar_python())))
    assert ("litellm", found["litellm"]) in read_pins((CHECKOUT / "locks" / "sidecar.txt").read_text())
    assert find_malicious_releases(site_packages_of(sidecar_python())) == []
