"""Tests a release of LiteLLM in a copy of this project, and writes a page that says whether it may be taken.

    make litellm VERSION=1.108.6              build the candidate, run all, write docs/litellm/VERSION.md
    make litellm VERSION=1.108.6 ARGS="--only seams,dialects"
    make litellm VERSION=1.108.6 ARGS="--keep --only soak"  the page keeps earlier results of that copy
    make litellm VERSION=1.108.6 ARGS=--again  only the tests that failed, once more, alone
    make litellm VERSION=1.108.6 ARGS=--take  move the pin: locks and generated tables of a candidate

The copy is `.candidate/VERSION`: the last commit of this project with the pin moved; nothing of this project
changes before `--take`. Malicious releases are rejected by name, before any download.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from llm_proxy.sidecar.patches.registry import PATCHES  # noqa: E402 -- the project's own, found from here
from llm_proxy.sidecar.verify_environment import is_malicious, read_pins  # noqa: E402 -- the same

TESTED_PATCHES = "llm_proxy/sidecar/patches/tried_patches.json"
PIN = re.compile(r"^litellm\[proxy\]==(\S+)$", re.MULTILINE)
MOVED_FILES = (
    "locks/sidecar.in",
    "locks/sidecar.txt",
    "llm_proxy/dialects/request/litellm_reserved.py",
    "llm_proxy/sidecar/known_keys.json",
)
TABLES = ("litellm_names.py", "litellm_keys.py")
OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True"}
MAX_LISTED = 40
TAIL_LINES = 25
Facts = Mapping[str, Mapping[str, Any]]


class ReleaseError(Exception):
    """The candidate cannot be built; the message says why."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A command that depends on LiteLLM and is run in the candidate."""

    name: str
    command: tuple[str, ...]
    timeout_s: int


@dataclass(frozen=True, slots=True)
class Result:
    """How a suite ended.

    Attributes:
        again: The tests that failed in it and passed when they were run once more, alone.
    """

    name: str
    passed: bool
    seconds: float
    tail: str
    again: str = ""


PYTEST = (".venv/bin/python", "-m", "pytest")
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+::.*?)(?: - .*)?$", re.MULTILINE)


def pytest_suite(name: str, *targets: str, timeout_s: int = 1800) -> Suite:
    """Tests as a suite."""
    return Suite(name, (*PYTEST, "-q", "-p", "no:cacheprovider", *targets), timeout_s)


TRIALS = Suite("patches", (".venv/bin/python", "scripts/litellm_trials.py", "--out", "trials.json"), 3600)
SUITES = (
    pytest_suite("seams", "tests/stages/sidecar/test_litellm_internals.py", timeout_s=300),
    pytest_suite("names", "tests/stages/sidecar/test_litellm_names.py", timeout_s=300),
    TRIALS,
    pytest_suite("dialects", "tests/stages/dialects"),
    pytest_suite("sidecar", "tests/unit/sidecar", "tests/stages/sidecar"),
    pytest_suite("whole stack", "tests/flow", timeout_s=3600),
    Suite("billing audit", ("make", "billing-audit", "CALLS=1000"), 1800),
    Suite("conformance", ("make", "conformance"), 1800),
    Suite("soak", ("make", "soak", "MINUTES=5"), 900),
)
CPU = (".venv/bin/python", "-m", "bench.sidecar_cpu", "--only", "all")
CPU_NAME = "cpu"


def candidate(version: str) -> Path:
    """The copy's folder."""
    return ROOT / ".candidate" / version


def build(version: str) -> Path:
    """Create the copy of this project with the pin moved, and both environments; raises `ReleaseError`."""
    if is_malicious("litellm", version):
        raise ReleaseError(f"litellm {version} was published with malicious code")
    folder = candidate(version)
    shutil.rmtree(folder, ignore_errors=True)
    results_of(folder).unlink(missing_ok=True)
    folder.parent.mkdir(exist_ok=True)
    run("git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder), cwd=ROOT)
    wanted = folder / "locks" / "sidecar.in"
    wanted.write_text(
        PIN.sub(f"litellm[proxy]=={version}", wanted.read_text(encoding="utf-8")), encoding="utf-8"
    )
    uv = run("sh", "scripts/uv.sh", cwd=folder).strip().splitlines()[-1]
    # The lock is updated in place: its pins are kept wherever the release allows them.
    flags = ("--quiet", "--generate-hashes", "--no-header", "--no-annotate", "--universal")
    lock = ("--python-version", "3.11", "locks/sidecar.in", "--output-file", "locks/sidecar.txt")
    run(uv, "pip", "compile", *flags, *lock, cwd=folder)
    poisoned = [
        pin for pin in read_pins((folder / "locks" / "sidecar.txt").read_text()) if is_malicious(*pin)
    ]
    if poisoned:
        raise ReleaseError(f"it brings {poisoned}")
    install_patches(folder, version, [patch.name for patch in PATCHES])
    run("make", "-s", "setup-dev", cwd=folder)
    for table in TABLES:
        run(".venv-sidecar/bin/python", f"scripts/{table}", cwd=folder, **OFFLINE)
    return folder


def install_patches(project: Path, version: str, names: Sequence[str]) -> None:
    """Make a project install these patches on this release, and none on any other."""
    (project / TESTED_PATCHES).write_text(
        json.dumps({version: list(names)}, indent=1) + "\n", encoding="utf-8"
    )


def read_trials(folder: Path) -> list[dict[str, Any]]:
    """Return the results of the patches' own tests in a copy; empty if they were not run."""
    file = folder / "trials.json"
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return found


def working_patches(folder: Path) -> list[str]:
    """Return the patches that work in a copy and are needed there."""
    return [one["name"] for one in read_trials(folder) if one["works"] and one["needed"]]


def run(*command: str, cwd: Path, **env: str) -> str:
    """Return a command's output; raises `ReleaseError` with the end of its output if it fails."""
    done = subprocess.run(
        command, cwd=cwd, env=environment(**env), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ReleaseError(f"{' '.join(command[:4])}: {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout


def environment(**more: str) -> dict[str, str]:
    """This program's environment without the traces of its own virtual environment."""
    return {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | more


def run_suite(suite: Suite, folder: Path) -> Result:
    """Run a suite in the copy; its output goes to a log beside the copy."""
    log = folder.parent / f"{folder.name}-{suite.name.replace(' ', '-')}.log"
    print(f"  {suite.name:16} … (log: {os.path.relpath(log, ROOT)})", flush=True)
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as out:
        started = subprocess.Popen(
            suite.command, cwd=folder, env=environment(), stdout=out, stderr=out, start_new_session=True
        )
        try:
            code = started.wait(suite.timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            code = started.wait()
            out.write(f"\nended after {suite.timeout_s} s without a result\n")
    text = anonymize(log.read_text(encoding="utf-8", errors="replace").strip(), folder)
    seconds = time.monotonic() - began
    print(f"  {'':16} {'passed' if code == 0 else 'FAILED'} in {seconds:.0f} s", flush=True)
    return Result(suite.name, code == 0, seconds, "\n".join(text.splitlines()[-TAIL_LINES:]))


def run_failed_again(suite: Suite, folder: Path, before: Result) -> Result:
    """Run a suite's failed tests once more, alone; the rest of its result stays."""
    log = folder.parent / f"{folder.name}-{suite.name.replace(' ', '-')}.log"
    failed = FAILED.findall(log.read_text(encoding="utf-8", errors="replace"))
    if suite.command[:3] != PYTEST or not failed:
        return run_suite(suite, folder)
    alone = Suite(f"{suite.name} again", (*PYTEST, "-q", "-p", "no:cacheprovider", *failed), suite.timeout_s)
    result = run_suite(alone, folder)
    seconds = before.seconds + result.seconds
    if not result.passed:
        return replace(before, seconds=seconds, tail=result.tail)
    return replace(before, passed=True, seconds=seconds, again=listed(failed))


def anonymize(text: str, folder: Path) -> str:
    """Return output with short names for the folders of the copy, this project, Python and home."""
    names = {str(folder): ".", str(ROOT): ".", sys.base_prefix: "PYTHON", str(Path.home()): "~"}
    for path in sorted(names, key=len, reverse=True):
        text = text.replace(path, names[path])
    return text


def results_of(folder: Path) -> Path:
    """Return the file with the results of a copy's suites, so that some can be run later or again."""
    return folder.with_name(f"{folder.name}-results.json")


def read_results(folder: Path) -> dict[str, Result]:
    """Return the results of the suites that were run in a copy."""
    file = results_of(folder)
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {name: Result(**result) for name, result in found.items()}


def keep_result(folder: Path, results: dict[str, Result], result: Result) -> None:
    """Add a result to those of this copy, and write them to its file."""
    results[result.name] = result
    kept = {name: asdict(one) for name, one in results.items()}
    results_of(folder).write_text(json.dumps(kept, indent=1), encoding="utf-8")


def compare_cpu(pinned: str, folder: Path) -> Result:
    """Compare the sidecar's CPU per call of the pinned release and of the candidate."""
    began = time.monotonic()
    (chat, stream), (new_chat, new_stream) = cpu_ms(ROOT), cpu_ms(folder)
    text = (
        f"CPU at the sidecar, the least of three runs each: a chat call {new_chat:.2f} ms "
        f"({pinned}: {chat:.2f}), a stream of 102 frames {new_stream:.2f} ms ({stream:.2f})."
    )
    return Result(CPU_NAME, passed=True, seconds=time.monotonic() - began, tail=text)


def cpu_ms(folder: Path) -> tuple[float, float]:
    """CPU milliseconds of a chat call and of a stream at the sidecar of a copy."""
    words = run(*CPU, cwd=folder).strip().splitlines()[-1].split()
    chat, stream, _ = words[-3:]
    return float(chat), float(stream)


def read_facts(folder: Path) -> Facts:
    """What the release installed in a copy offers."""
    found: Facts = json.loads(
        run(".venv-sidecar/bin/python", "scripts/litellm_facts.py", cwd=folder, **OFFLINE)
    )["facts"]
    return found


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return lines with what was added, removed and changed; long lists are shortened."""
    added = [name for name in after if name not in before]
    removed = [name for name in before if name not in after]
    changed = [name for name in before if name in after and before[name] != after[name]]
    lines = [f"* added: {listed(added)}"] if added else []
    lines += [f"* removed: {listed(removed)}"] if removed else []
    lines += [f"* `{name}`: {one_change(before[name], after[name])}" for name in changed[:MAX_LISTED]]
    return lines + ([f"* and {len(changed) - MAX_LISTED} more changes"] if len(changed) > MAX_LISTED else [])


def one_change(before: object, after: object) -> str:
    """Return how a value changed; of a list of words only added and removed words."""
    if isinstance(before, str) and isinstance(after, str) and " " in f"{before}{after}":
        old, new = set(before.split()), set(after.split())
        words = [f"+ `{word}`" for word in sorted(new - old)] + [f"- `{word}`" for word in sorted(old - new)]
        return ", ".join(words)
    return f"`{before}` → `{after}`"


def listed(names: list[str]) -> str:
    """Names as one line."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(f"`{name}`" for name in sorted(names)[:MAX_LISTED]) + more


def verdict(results: Collection[Result]) -> str:
    """Whether a candidate may be taken."""
    failed = [result.name for result in results if not result.passed]
    if failed:
        return f"may **not** be taken: {', '.join(failed)} failed"
    missing = {*(suite.name for suite in SUITES), CPU_NAME} - {result.name for result in results}
    return f"was not tried whole ({', '.join(sorted(missing))} not run)" if missing else "may be taken"


def outcome(result: Result) -> str:
    """How a suite ended, as the page says it."""
    if not result.passed:
        return "**failed**"
    return f"passed; when run again, alone: {result.again}" if result.again else "passed"


def patch_summary(trials: Sequence[Mapping[str, Any]]) -> str:
    """Return the results of the patches' own tests as text; empty if they were not run."""
    if not trials:
        return ""
    broken = [one["name"] for one in trials if not one["works"]]
    spare = [one["name"] for one in trials if one["works"] and not one["needed"]]
    lines = [f"{len(trials) - len(broken) - len(spare)} of {len(trials)} patches work and are needed."]
    lines += [f"Off, because their own tests fail: {listed(broken)}."] if broken else []
    lines += [f"Off, because their own tests pass without them: {listed(spare)}."] if spare else []
    return " ".join(lines)


def page(
    version: str,
    pinned: str,
    results: Sequence[Result],
    trials: Sequence[Mapping[str, Any]],
    changes: Mapping[str, list[str]],
) -> str:
    """The page about a candidate."""
    failed = [result for result in results if not result.passed]
    rows = [f"| {one.name} | {outcome(one)} | {one.seconds:.0f} |" for one in results]
    parts = [
        f"# LiteLLM {version}, compared with {pinned}",
        f"LiteLLM {version} {verdict(results)}. Made by `make litellm VERSION={version}`.",
        "\n".join(["| suite | result | seconds |", "|---|---|---:|", *rows]),
        *(one.tail for one in results if one.name == CPU_NAME and one.passed),
        patch_summary(trials),
    ]
    parts += [f"## {one.name}: how it failed\n\n```\n{one.tail}\n```" for one in failed]
    parts += [f"## {topic}\n\n" + "\n".join(lines) for topic, lines in changes.items() if lines]
    same = [topic for topic, lines in changes.items() if not lines]
    parts += [f"Unchanged: {', '.join(same)}."] if same else []
    return "\n\n".join(part for part in parts if part) + "\n"


def take(version: str) -> None:
    """Move the pin of this project to a tested candidate; raises `ReleaseError` if there is none."""
    folder = candidate(version)
    if not (folder / MOVED_FILES[0]).is_file():
        raise ReleaseError(f"{version} was not built: run `make litellm VERSION={version}` first")
    if not read_trials(folder):
        raise ReleaseError(
            f"the patches were not tried on it: `make litellm VERSION={version} ARGS='--keep --only patches'`"
        )
    for name in MOVED_FILES:
        shutil.copy(folder / name, ROOT / name)
    install_patches(ROOT, version, working_patches(folder))
    changed = ", ".join((*MOVED_FILES, TESTED_PATCHES))
    print(f"The pin is {version} now: `make check`, then commit {changed} and the page.")


def main() -> int:
    """Build, run, compare, write the page; return 0 if nothing failed."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("version")
    names = [*(suite.name for suite in SUITES), CPU_NAME]
    flags.add_argument("--only", default="", help=f"some of: {', '.join(names)}")
    flags.add_argument("--keep", action="store_true", help="use the candidate that was built before")
    flags.add_argument("--again", action="store_true", help="run the tests that failed, once more, alone")
    flags.add_argument("--take", action="store_true", help="move the pin to the candidate")
    options = flags.parse_args()
    only = [name for name in options.only.split(",") if name]
    if not set(only) <= set(names):
        flags.error(f"--only takes some of: {', '.join(names)}")
    try:
        if options.take:
            take(options.version)
            return 0
        if options.again:
            results = read_results(candidate(options.version)).values()
            failed = [one.name for one in results if not one.passed and one.name in (only or names)]
            return run_candidate(options.version, failed, keep=True, once_more=True)
        return run_candidate(options.version, only or names, keep=options.keep)
    except ReleaseError as error:
        print(f"make litellm: {options.version}: {error}", file=sys.stderr)
        return 1


def run_candidate(version: str, wanted: Collection[str], *, keep: bool, once_more: bool = False) -> int:
    """Do everything but move the pin; return the exit code."""
    [pinned] = PIN.findall((ROOT / "locks" / "sidecar.in").read_text(encoding="utf-8"))
    print(f"→ LiteLLM {version} beside {pinned}", flush=True)
    folder = candidate(version) if keep and candidate(version).is_dir() else build(version)
    before, after = read_facts(ROOT), read_facts(folder)
    changes = {topic: difference(before.get(topic, {}), after[topic]) for topic in after}
    results = read_results(folder)
    for suite in SUITES:
        if suite.name in wanted:
            known = results.get(suite.name)
            one = run_failed_again(suite, folder, known) if once_more and known else run_suite(suite, folder)
            keep_result(folder, results, one)
        if suite is TRIALS and suite.name in wanted and read_trials(folder):
            install_patches(folder, version, working_patches(folder))
    if CPU_NAME in wanted:
        keep_result(folder, results, compare_cpu(pinned, folder))
    written = ROOT / "docs" / "litellm" / f"{version}.md"
    written.parent.mkdir(exist_ok=True)
    shown = sorted(
        results.values(), key=lambda one: [*(suite.name for suite in SUITES), CPU_NAME].index(one.name)
    )
    written.write_text(page(version, pinned, shown, read_trials(folder), changes), encoding="utf-8")
    print(f"→ {written.relative_to(ROOT)}")
    return int(not all(result.passed for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
