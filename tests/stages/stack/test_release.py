"""`make release`: what it rejects; a release that is built, installed into an empty environment and run."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from anyio import run_process
from loaded_script import load_script
from release_before import PROJECT_ROOT, git, run

import llm_proxy
from llm_proxy.schema import all_migrations

VERSION = llm_proxy.__version__
IDENTITY = {
    "GIT_AUTHOR_NAME": "T", "GIT_AUTHOR_EMAIL": "t@example.org", "GIT_COMMITTER_NAME": "T",
    "GIT_COMMITTER_EMAIL": "t@example.org", "GIT_CONFIG_GLOBAL": os.devnull,
}  # fmt: skip
ONLY_PYTHON = ("--no-images", "--no-sbom", "--no-chart")


@dataclass(frozen=True, slots=True)
class Checkout:
    """A clone of its own of this tree as it is, with a changelog that has a section of this version."""

    folder: Path
    environment: dict[str, str]

    @property
    def built(self) -> Path:
        """Where a release is built."""
        return self.folder / "dist" / VERSION

    def git(self, *words: str) -> str:
        """Runs git there."""
        command = ["git", "-C", str(self.folder), *words]
        return subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True
        ).stdout

    def release(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Runs the command behind `make release`."""
        command = [sys.executable, "scripts/release.py", *words]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )

    def sums(self) -> dict[str, str]:
        """The checksums by file."""
        lines = (self.built / "SHA256SUMS").read_text().splitlines()
        return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """It."""
    folder = tmp_path_factory.mktemp("release") / "llm-proxy"
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed.returncode:
        pytest.skip("this tree is no git clone")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (source := PROJECT_ROOT / name).exists() or source.is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name, follow_symlinks=False)
    uv = run("sh", "scripts/uv.sh").strip()
    path = f"{Path(uv).parent}:{os.environ['PATH']}"
    made = Checkout(folder, {**os.environ, **IDENTITY, "PATH": path, "UV_LINK_MODE": "symlink"})
    made.git("init", "--quiet")
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "as it is")
    return made


@pytest.fixture(scope="module")
def released(checkout: Checkout) -> Checkout:
    """The same, after a release of the Python parts."""
    refused = checkout.release(*ONLY_PYTHON)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"release: CHANGELOG.md has no section `## {VERSION}`" in refused.stderr
    changelog = checkout.folder / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("## Unreleased\n", f"## {VERSION} - 2026-11-27\n", 1))
    refused = checkout.release(*ONLY_PYTHON)
    assert refused.stderr == "release: the tree is not clean, M CHANGELOG.md for one: commit it first\n"
    checkout.git("commit", "--quiet", "--all", "--message", "a release")
    done = checkout.release(*ONLY_PYTHON)
    assert done.returncode == 0, done.stderr
    return checkout


def test_a_release_is_built_tried_tagged_and_not_made_twice(released: Checkout) -> None:
    """The wheel answered a call in an empty environment before the tag was made."""
    assert released.git("rev-list", "-1", f"v{VERSION}") == released.git("rev-parse", "HEAD")
    assert set(released.sums()) == {
        f"llm_proxy-{VERSION}-py3-none-any.whl", f"llm_proxy-{VERSION}.tar.gz", "notes.md",
    }  # fmt: skip
    run("sh", "-c", f"cd '{released.built}' && sha256sum --check SHA256SUMS")
    notes = (released.built / "notes.md").read_text()
    assert notes.startswith(f"## {VERSION} - 2026-11-27\n")
    assert (
        f"Schema {all_migrations()[-1].number:03}. Gateways with schema 041 or newer run beside it." in notes
    )
    again = released.release(*ONLY_PYTHON)
    refusal = f"release: v{VERSION} is tagged already: raise the version in llm_proxy/__init__.py"
    assert (again.returncode, refusal in again.stderr.splitlines()) == (1, True)


def test_a_later_release_names_the_one_before(released: Checkout) -> None:
    """The tests of an upgrade would else run a release from which no installation comes."""
    package = released.folder / "llm_proxy" / "__init__.py"
    text = package.read_text()
    try:
        package.write_text(text.replace(VERSION, "7.0.0"))
        refused = released.release(*ONLY_PYTHON).stderr
        assert f"names another commit than v{VERSION}, the release before: " in refused
        assert "CHANGELOG.md has no section `## 7.0.0`" in refused
        assert "Chart.yaml has another `appVersion` than 7.0.0" in refused
        package.write_text(text.replace(VERSION, "7.0.0.dev1"))
        assert "7.0.0.dev1 is no version of a release" in released.release(*ONLY_PYTHON).stderr
    finally:
        package.write_text(text)


def test_the_same_commit_gives_the_same_bytes(released: Checkout, tmp_path: Path) -> None:
    """At another time, in another folder, with another umask; and of the sdist the same wheel is made."""
    script = load_script("release")
    commit_s = int(released.git("log", "-1", "--format=%ct"))
    again = script.Release(released.folder, VERSION, commit_s, tmp_path / "built")
    former = os.umask(0o077)
    try:
        script.build_distributions(again, script.export(again, tmp_path))
    finally:
        os.umask(former)
    sums = {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in again.folder.iterdir()}
    assert sums == {name: digest for name, digest in released.sums().items() if name != "notes.md"}
    with tarfile.open(again.folder / f"llm_proxy-{VERSION}.tar.gz") as sdist:
        sdist.extraction_filter = getattr(tarfile, "data_filter", None)  # no argument before 3.11.4
        sdist.extractall(tmp_path)  # noqa: S202 -- with the filter set above
    of_sdist = script.Release(released.folder, VERSION, commit_s, tmp_path / "of-sdist")
    wheel = script.build_distributions(of_sdist, tmp_path / f"llm_proxy-{VERSION}")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == sums[wheel.name]


def test_a_chart_s_archive_has_no_time_of_its_own(tmp_path: Path) -> None:
    """Helm writes the time at which it packs."""
    made: list[bytes] = []
    for number in range(2):
        source, archive = tmp_path / "Chart.yaml", tmp_path / f"{number}.tgz"
        source.write_text("version: 1\n")
        os.utime(source, (time.time() + number, time.time() + number))
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(source, "llm-proxy/Chart.yaml")
        load_script("release").make_reproducible(archive, 1_700_000_000)
        made.append(archive.read_bytes())
        with tarfile.open(archive) as packed:
            assert [(one.name, one.mtime) for one in packed] == [("llm-proxy/Chart.yaml", 1_700_000_000)]
    assert made[0] == made[1]


async def test_an_installed_wheel_migrates_a_database(released: Checkout, empty_database_url: str) -> None:
    """In an environment that has nothing but what the gateway's lock names."""
    environment = released.folder.parent / "installed"
    python = environment / "bin" / "python"
    install = ("uv", "pip", "install", "--quiet", "--python", str(python), "--no-deps")
    for command in (
        ("uv", "venv", "--quiet", "--python", sys.executable, str(environment)),
        (*install, "--require-hashes", "--requirement", str(released.folder / "locks" / "gateway.txt")),
        (*install, str(next(released.built.glob("*.whl")))),
    ):
        await run_process(command, env=released.environment, cwd=environment.parent)
    migrated = await run_process(
        [str(environment / "bin" / "llm-proxy"), "migrate"],
        env={"PATH": os.environ["PATH"], "DATABASE_URL": empty_database_url},
        cwd=environment.parent,
    )
    applied = re.findall(r"^applied (\S+)$", migrated.stdout.decode(), re.MULTILINE)
    assert applied == [step.name for step in all_migrations()]
