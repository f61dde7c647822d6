"""Builds a release of this commit into dist/VERSION/ and tags it; docs/release.md says what is in it.

Invariants: built from `git archive` of the commit, so that nothing else gets in; the same commit gives the
same bytes of everything but images; the tag comes last. Nothing leaves this machine without `--registry`.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
RELEASABLE = re.compile(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?")
CHART = Path("deploy/helm/llm-proxy")
IMAGES = {"gateway": "LLM_PROXY_IMAGE", "sidecar": "LLM_PROXY_SIDECAR_IMAGE"}
"""Targets of the Dockerfile, and the variable of docker-compose.yml that names the image of each."""
KEY = "a-key-for-the-first-call-only"
START_S = 60


@dataclass(frozen=True, slots=True)
class Release:
    """What is built.

    Attributes:
        root: The checkout.
        commit_s: The commit's time, in seconds since 1970: the time of every file.
        folder: What is built lies here.
    """

    root: Path
    version: str
    commit_s: int
    folder: Path

    @property
    def tag(self) -> str:
        """The tag in git."""
        return f"v{self.version}"


def fail(*lines: str) -> NoReturn:
    """Ends the program with these lines."""
    for line in lines:
        print(f"release: {line}", file=sys.stderr)
    raise SystemExit(1)


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Runs a program; returns its output without blanks around it, or ends this one with its last errors."""
    ran = subprocess.run(
        [str(word) for word in command], cwd=cwd, env={**os.environ, **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ran.returncode:
        fail(f"{' '.join(map(str, command))}: exit code {ran.returncode}", *ran.stderr.splitlines()[-20:])
    return ran.stdout.strip()


def read_version(root: Path) -> str:
    """Returns the version in the package."""
    found = VERSION.search((root / "llm_proxy" / "__init__.py").read_text(encoding="utf-8"))
    return found[1] if found else fail("llm_proxy/__init__.py states no version")


def release_notes(root: Path, version: str) -> str | None:
    """Returns the changelog's section of a version; None without one."""
    parts = re.split(r"^(?=## )", (root / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    heading = re.compile(rf"## \[?{re.escape(version)}\]?(?: .*)?\n")
    return next((part for part in parts if heading.match(part)), None)


def find_faults(root: Path, version: str) -> list[str]:
    """Returns why this commit is no release."""
    faults: list[str] = []
    if not RELEASABLE.fullmatch(version):
        faults.append(f"{version} is no version of a release: llm_proxy/__init__.py")
    if changed := run("git", "status", "--porcelain", cwd=root).splitlines():
        faults.append(f"the tree is not clean, {changed[0].strip()} for one: commit it first")
    if run("git", "tag", "--list", f"v{version}", cwd=root):
        faults.append(f"v{version} is tagged already: raise the version in llm_proxy/__init__.py")
    if release_notes(root, version) is None:
        faults.append(f"CHANGELOG.md has no section `## {version}`: give `## Unreleased` this name")
    chart = (root / CHART / "Chart.yaml").read_text(encoding="utf-8")
    faults += [
        f"{CHART}/Chart.yaml has another `{name}` than {version}"
        for name in ("version", "appVersion")
        if not re.search(rf'^{name}: "?{re.escape(version)}"?$', chart, re.MULTILINE)
    ]
    return faults + _release_before_fault(root)


def _release_before_fault(root: Path) -> list[str]:
    tags = run("git", "tag", "--list", "v*", "--merged", "HEAD", "--sort=-creatordate", cwd=root).split()
    if not tags:
        return []
    last = run("git", "rev-parse", f"{tags[0]}^{{commit}}", cwd=root)
    named = re.search(
        r'^COMMIT = "(\w+)"$', (root / "tests/release_before.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    if named is not None and named[1] == last:
        return []
    return [f"tests/release_before.py names another commit than {tags[0]}, the release before: {last}"]


def export(release: Release, folder: Path) -> Path:
    """Returns the commit's tree, unpacked into `folder`."""
    archive = folder / "source.tar"
    run("git", "archive", "--output", archive, "HEAD", cwd=release.root)
    tree = folder / "source"
    with tarfile.open(archive) as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # no argument before 3.11.4
        packed.extractall(tree)  # noqa: S202 -- with the filter set above
    return tree


def build_distributions(release: Release, tree: Path) -> Path:
    """Builds the wheel and the sdist; returns the wheel."""
    build = (sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", release.folder)
    run(*build, cwd=tree, SOURCE_DATE_EPOCH=str(release.commit_s))
    return next(release.folder.glob("*.whl"))


def pack_chart(release: Release, tree: Path) -> None:
    """Packs the Helm chart, if Helm can be had here."""
    run("sh", "scripts/chart_tools.sh", cwd=release.root)
    helm = release.root / ".helm" / "helm"
    if not helm.exists():
        print("release: no Helm (scripts/chart_tools.sh): the chart is not packed", file=sys.stderr)
        return
    versions = ("--version", release.version, "--app-version", release.version)
    run(helm, "package", tree / CHART, *versions, "--destination", release.folder, cwd=tree)
    make_reproducible(release.folder / f"{CHART.name}-{release.version}.tgz", release.commit_s)


def make_reproducible(archive: Path, time_s: int) -> None:
    """Writes a tar.gz anew: its files in order, of one time, owner and mode."""
    packed = io.BytesIO()
    with (
        tarfile.open(archive) as given,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as made,
    ):
        for member in sorted(given.getmembers(), key=lambda one: one.name):
            plain = tarfile.TarInfo(member.name)
            plain.size, plain.mtime, plain.mode = member.size, time_s, 0o644
            made.addfile(plain, given.extractfile(member))
    with archive.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, time_s) as compressed:
        compressed.write(packed.getvalue())


def write_sboms(release: Release) -> None:
    """Writes both environments' bills of materials."""
    print(run("sh", "scripts/sbom.sh", cwd=release.root))
    for bom in sorted((release.root / "dist" / "sbom").glob("*.cdx.json")):
        shutil.copyfile(bom, release.folder / f"sbom-{bom.name}")


def find_engine(root: Path) -> str | None:
    """Returns `docker` or `podman`, whichever runs here."""
    for name in ("docker", "podman"):
        if (
            shutil.which(name)
            and not subprocess.run([name, "info"], cwd=root, capture_output=True, check=False).returncode
        ):
            return name
    return None


def build_images(release: Release, tree: Path, registry: str | None) -> None:
    """Builds the images, and pushes them to a registry if one is given; writes `images.env`."""
    engine = find_engine(release.root)
    if engine is None:
        if registry:
            fail("neither docker nor podman runs here: no images to push")
        print("release: neither docker nor podman runs here: no images", file=sys.stderr)
        return
    base = ("--build-arg", f"BASE={os.environ['PYTHON_IMAGE']}") if "PYTHON_IMAGE" in os.environ else ()
    # Podman's own format has no health check, for which compose and deploy/upgrade.sh wait.
    podman_only = ("--format", "docker", "--timestamp", str(release.commit_s)) if engine == "podman" else ()
    lines: list[str] = []
    for target, variable in IMAGES.items():
        name = f"{registry}/llm-proxy-{target}" if registry else f"llm-proxy-{target}"
        tagged = f"{name}:{release.version}"
        print(f"release: the image {tagged}")
        build = (engine, "build", "--target", target, "--tag", tagged, *base, *podman_only, ".")
        run(*build, cwd=tree, SOURCE_DATE_EPOCH=str(release.commit_s))
        if registry:
            lines.append(f"{variable}={push_image(engine, tagged, tree)}")
        else:
            [image] = json.loads(run(engine, "image", "inspect", tagged, cwd=tree))
            lines.append(f"# {tagged}: {image['Id']}, not pushed")
    (release.folder / "images.env").write_text("\n".join(lines) + "\n", encoding="utf-8")


def push_image(engine: str, tagged: str, folder: Path) -> str:
    """Pushes an image; returns its name with the digest by which the registry gives it out again."""
    name = tagged.rpartition(":")[0]
    if engine == "podman":  # of an image that it built itself it knows another digest, too
        written = folder.parent / "pushed-digest"
        run(engine, "push", "--digestfile", written, tagged, cwd=folder)
        pinned = f"{name}@{written.read_text(encoding='utf-8').strip()}"
    else:
        run(engine, "push", tagged, cwd=folder)
        [image] = json.loads(run(engine, "image", "inspect", tagged, cwd=folder))
        pinned = next(one for one in image["RepoDigests"] if one.startswith(f"{name}@"))
    run(engine, "pull", "--quiet", pinned, cwd=folder)
    return pinned


def write_notes(release: Release, tree: Path) -> None:
    """Writes the notes: the changelog's section, and what the schema means for an upgrade."""
    newest = max(file.name[:3] for file in (tree / "llm_proxy" / "schema").glob("*.sql"))
    steps = (tree / "llm_proxy" / "schema" / "steps.py").read_text(encoding="utf-8")
    oldest = re.search(r"^OLDEST_SCHEMA = (\d+)$", steps, re.MULTILINE)
    beside = f" Gateways with schema {int(oldest[1]):03} or newer run beside it." if oldest else ""
    notes = release_notes(tree, release.version) or ""
    (release.folder / "notes.md").write_text(
        f"{notes.strip()}\n\n### Upgrade\n\nSchema {newest}.{beside} See docs/upgrade.md.\n", encoding="utf-8"
    )


def write_checksums(release: Release) -> None:
    """Writes SHA256SUMS of every file, as `sha256sum --check` reads it."""
    files = sorted(file for file in release.folder.iterdir() if file.name != "SHA256SUMS")
    sums = (f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    (release.folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


def try_wheel(release: Release, tree: Path, wheel: Path, folder: Path) -> None:
    """Installs the wheel into an empty environment and makes a call there; ends the program if that fails."""
    uv, python = run("sh", "scripts/uv.sh", cwd=release.root), folder / "environment" / "bin" / "python"
    run(uv, "venv", "--quiet", "--python", sys.executable, python.parents[1], cwd=folder)
    install = (uv, "pip", "install", "--quiet", "--python", python, "--no-deps")
    run(*install, "--require-hashes", "--requirement", tree / "locks" / "gateway.txt", cwd=folder)
    run(*install, wheel, cwd=folder)
    program = python.with_name("llm-proxy")
    stated = run(program, "--version", cwd=folder)
    if stated.split()[-1] != release.version:
        fail(f"the wheel says that it is {stated}")
    answer_once(program, folder)


def answer_once(program: Path, folder: Path) -> None:
    """Starts a gateway in mock mode, makes one call and stops it; ends the program if any of that fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    given |= {
        "LLM_PROXY__LLM_MODE": "mock",
        "LLM_PROXY__INTERNAL_API_KEY": KEY,
        "LLM_PROXY__DRAIN_DELAY_S": "0",
    }
    log = folder / "gateway.log"
    with log.open("wb") as output:
        command = [str(program), "serve", "--port", str(port)]
        gateway = subprocess.Popen(command, cwd=folder, env=given, stdout=output, stderr=output)
    try:
        answer = _first_answer(port, gateway)
        if answer is None or "choices" not in answer:
            fail("the installed gateway does not answer", *log.read_text().splitlines()[-20:])
        gateway.send_signal(signal.SIGTERM)
        if gateway.wait(START_S):
            fail(f"the installed gateway ended with exit code {gateway.returncode}")
    finally:
        gateway.kill()
        gateway.wait()


def _first_answer(port: int, gateway: "subprocess.Popen[bytes]") -> str | None:
    body = {"model": "any", "messages": [{"role": "user", "content": "hello"}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"authorization": f"Bearer {KEY}", "content-type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s and gateway.poll() is None:
        try:
            with opener.open(request, timeout=10) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            time.sleep(0.1)
    return None


def build(release: Release, given: argparse.Namespace) -> None:
    """Builds everything into the release's folder, and tries what can be tried."""
    shutil.rmtree(release.folder, ignore_errors=True)
    release.folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="llm-proxy-release-") as name:
        folder = Path(name)
        tree = export(release, folder)
        wheel = build_distributions(release, tree)
        try_wheel(release, tree, wheel, folder)
        if not given.no_chart:
            pack_chart(release, tree)
        if not given.no_sbom:
            write_sboms(release)
        if not given.no_images:
            build_images(release, tree, given.registry)
        write_notes(release, tree)
    write_checksums(release)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Build a release of this commit into dist/VERSION/ and tag it."
    )
    parser.add_argument("--registry", help="push the images there: registry.example/team")
    parser.add_argument("--no-tag", action="store_true", help="only build")
    for part in ("images", "sbom", "chart"):
        parser.add_argument(f"--no-{part}", action="store_true", help=f"leave out: {part}")
    given = parser.parse_args()
    root = Path(__file__).parents[1]
    version = read_version(root)
    if faults := find_faults(root, version):
        fail(*faults)
    commit_s = int(run("git", "log", "-1", "--format=%ct", cwd=root))
    release = Release(root, version, commit_s, root / "dist" / version)
    build(release, given)
    if not given.no_tag:
        run("git", "tag", "--annotate", release.tag, "--message", f"llm-proxy {version}", cwd=root)
        print(f"release: tagged {release.tag}, not pushed: git push origin {release.tag}")
    print((release.folder / "SHA256SUMS").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
