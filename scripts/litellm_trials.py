"""Runs each patch's own tests with it and without it, on the release of LiteLLM that is installed.

    .venv/bin/python scripts/litellm_trials.py [--only NAMES] [--out FILE]

A patch works when its tests pass with it, and is needed when one fails without it. Prints a line for each,
and writes FILE as JSON. Exit code 1 when a patch does not work.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from llm_proxy.sidecar.patches.patch import LiteLLMPatch  # noqa: E402 -- the project's own, found from here
from llm_proxy.sidecar.patches.registry import DISABLING_SETTING, PATCHES  # noqa: E402 -- the same

PASSED, FAILED = 0, 1
RUN_ALL = {"LLM_PROXY_TESTS_OF_ABSENT_PARTS": "1"}
"""Otherwise the tests skip what needs an absent patch."""
RESULTS = {
    (True, True): "works, and is needed",
    (True, False): "works, and is NOT NEEDED: its tests pass without it",
}


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of a patch's own tests.

    Attributes:
        works: All passed with the patch.
        needed: At least one failed without it.
    """

    name: str
    works: bool
    needed: bool

    def line(self) -> str:
        """One line about it."""
        result = RESULTS.get((self.works, self.needed), "does NOT WORK: its tests fail with it")
        return f"{self.name:20} {result}"


def passes(tests: Sequence[str], without: str = "") -> bool:
    """Whether all these tests pass; raises `RuntimeError` if pytest could not run them."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    env = os.environ | RUN_ALL | {DISABLING_SETTING: without}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode not in {PASSED, FAILED}:
        raise RuntimeError(done.stdout[-1500:] + done.stderr[-500:])
    if done.returncode == FAILED and not without:
        print(done.stdout[-3000:], flush=True)
    return done.returncode == PASSED


def trials(patches: Sequence[LiteLLMPatch]) -> list[Trial]:
    """Run each patch's tests with and without it; print a line for each as soon as it is known."""
    together = passes(sorted(test for patch in patches for test in patch.tests))
    found: list[Trial] = []
    for patch in patches:
        works = together or passes(patch.tests)
        found.append(Trial(patch.name, works, works and not passes(patch.tests, patch.name)))
        print(found[-1].line(), flush=True)
    return found


def main() -> int:
    """Try the patches, print, write; 1 when one does not work."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--only", default="", help="names of patches, comma-separated")
    flags.add_argument("--out", type=Path)
    options = flags.parse_args()
    named = {name for name in options.only.split(",") if name}
    unknown = named - {patch.name for patch in PATCHES}
    if unknown:
        flags.error(f"there is no patch {', '.join(sorted(unknown))}")
    found = trials([one for one in PATCHES if not named or one.name in named])
    if options.out:
        options.out.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", encoding="utf-8")
    return int(not all(one.works for one in found))


if __name__ == "__main__":
    sys.exit(main())
