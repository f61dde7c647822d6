"""The test of a LiteLLM release: what it rejects, its page, and which files it moves."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from loaded_script import load_script

from llm_proxy.sidecar.patches.registry import PATCHES

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts" / "litellm_release.py"


RELEASE = load_script("litellm_release")
NAMES = [*(suite.name for suite in RELEASE.SUITES), RELEASE.CPU_NAME]
RESULTS = [RELEASE.Result(name, passed=True, seconds=1.0, tail=f"the end of {name}") for name in NAMES]
TRIALS = [{"name": patch.name, "works": True, "needed": True} for patch in PATCHES]


def run_release(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run the script."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False, timeout=30
    )


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8", "1.107.0", "1.107.3.post1", "v1.107.1rc1", "1.107"])
def test_a_poisoned_release_is_refused_by_name(version: str) -> None:
    """Before any download."""
    done = run_release(version)
    assert done.returncode == 1
    assert f"litellm {version} was published with malicious code" in done.stderr


def test_an_unknown_suite_is_named() -> None:
    """It would be left out silently."""
    done = run_release("1.108.6", "--only", "seams,contrct")
    assert done.returncode == 2
    assert "--only takes some of: seams, names, patches" in done.stderr


def test_what_was_never_built_is_not_taken() -> None:
    """Nor a release whose patches were not tested."""
    done = run_release("0.0.1", "--take")
    assert done.returncode == 1
    assert "was not built" in done.stderr


@pytest.mark.parametrize("failed", NAMES)
def test_whatever_failed_forbids_it(failed: str) -> None:
    """By its name, with its last words."""
    results = [replace(one, passed=one.name != failed) for one in RESULTS]
    page = RELEASE.page("2.0.0", "1.0.0", results, TRIALS, {})
    assert f"LiteLLM 2.0.0 may **not** be taken: {failed} failed." in page
    assert f"## {failed}: how it failed\n\n```\nthe end of {failed}\n```" in page


@pytest.mark.parametrize("missing", NAMES)
def test_whatever_was_not_run_leaves_it_open(missing: str) -> None:
    """The cost of a call too."""
    results = [one for one in RESULTS if one.name != missing]
    assert f"was not tried whole ({missing} not run)" in RELEASE.page("2.0.0", "1.0.0", results, TRIALS, {})


def test_the_page_says_what_came_of_each_patch_and_what_changed() -> None:
    """Those that are off by name; facts by topic, unchanged ones in one line."""
    trials = [
        TRIALS[0] | {"works": False, "needed": False},
        TRIALS[1] | {"needed": False},
        *TRIALS[2:],
    ]
    changes: dict[str, list[str]] = {
        "Routes": RELEASE.difference({"/a": None, "/b": 1}, {"/b": 2, "/c": None}),
        "Headers": [],
    }
    page = RELEASE.page("2.0.0", "1.0.0", RESULTS, trials, changes)
    assert "LiteLLM 2.0.0 may be taken." in page
    assert "the end of cpu" in page
    assert f"{len(PATCHES) - 2} of {len(PATCHES)} patches work and are needed." in page
    assert f"Off, because their own tests fail: `{PATCHES[0].name}`." in page
    assert f"Off, because their own tests pass without them: `{PATCHES[1].name}`." in page
    assert "## Routes\n\n* added: `/c`\n* removed: `/a`\n* `/b`: `1` → `2`\n" in page
    assert page.endswith("Unchanged: Headers.\n")


def test_only_patches_that_work_and_are_needed_are_installed(tmp_path: Path) -> None:
    """On that release alone."""
    trials = [TRIALS[0] | {"works": False}, TRIALS[1] | {"needed": False}, TRIALS[2]]
    (tmp_path / "trials.json").write_text(json.dumps(trials))
    file = tmp_path / RELEASE.TESTED_PATCHES
    file.parent.mkdir(parents=True)
    RELEASE.install_patches(tmp_path, "2.0.0", RELEASE.working_patches(tmp_path))
    assert json.loads(file.read_text()) == {"2.0.0": [PATCHES[2].name]}


def test_a_suite_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    """It counts as failed; its words name no folder of this machine."""
    folder = tmp_path / "1.0.0"
    folder.mkdir()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    program = f"sleep 60 > {pipe} & echo in {folder} of {ROOT}; wait"
    result = RELEASE.run_suite(RELEASE.Suite("hangs", ("sh", "-c", program), 1), folder)
    assert not result.passed
    assert result.tail.splitlines() == ["in . of .", "", "ended after 1 s without a result"]
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""  # nobody has it open any more
    os.close(reader)


@pytest.mark.parametrize("passes", [True, False])
def test_tests_that_failed_are_run_once_more_alone_and_the_page_says_so(tmp_path: Path, passes: bool) -> None:  # noqa: FBT001 -- parametrized
    """Only these; what fails again is a failure."""
    folder = tmp_path / "1.0.0"
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (folder / "test_it.py").write_text(
        f"def test_one():\n    assert {passes}\n\n\ndef test_two():\n    raise AssertionError\n"
    )
    (tmp_path / "1.0.0-few.log").write_text(
        "FAILED test_it.py::test_one - TimeoutError\n1 failed, 1 passed\n"
    )
    before = RELEASE.Result("few", passed=False, seconds=1.0, tail="1 failed, 1 passed")
    result = RELEASE.run_failed_again(RELEASE.pytest_suite("few", "test_it.py"), folder, before)
    assert result.passed == passes
    reported = "passed; when run again, alone: `test_it.py::test_one`" if passes else "**failed**"
    assert RELEASE.outcome(result) == reported
