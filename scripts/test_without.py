"""Runs tests of the sidecar with each part left out that only speeds it up, and with all of them left out.

    make test-without ARGS="[--only PARTS] [TESTS ...]"

PARTS are names of patches, comma-separated; `all` stands for all at once. TESTS are as pytest names them.
Prints a table: what passed, what was skipped (it needs the part), what failed and why. Exit code 1 when one
failed.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from llm_proxy.sidecar.patches.registry import (  # noqa: E402 -- the project's own, found from here
    DISABLING_SETTING,
    SPEEDING_UP,
)

ALL = "all"
FLOWS = (
    *("affinity", "cache", "client_disconnects", "fallbacks", "faults", "guardrails", "messages_natively"),
    *("odd_answers", "openai_sdk", "provider_errors", "retries", "running_calls", "token_prices"),
)
TESTS = ("tests/stages/sidecar", *(f"tests/flow/test_{name}.py" for name in FLOWS))
COUNT = re.compile(r"(\d+) (passed|skipped|failed|errors?)\b")
ERROR_LINE = re.compile(r"^E +(\S.*)$", re.MULTILINE)
MAX_REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Run:
    """How the tests ended without some parts."""

    name: str
    counts: dict[str, int]
    failures: list[str]

    def line(self) -> str:
        """A row of the table."""
        counts = "".join(f"{self.counts.get(name, 0):>9}" for name in ("passed", "skipped"))
        return f"{self.name:16}{counts}{len(self.failures):>9}"


def run_without(name: str, parts: Sequence[str], tests: Sequence[str], processes: int) -> Run:
    """Run the tests without these parts; raises `RuntimeError` if pytest could not run them."""
    env = os.environ | {DISABLING_SETTING: ",".join(parts)}
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ("-q", "-p", "no:cacheprovider", "-n", str(processes), f"--junitxml={report}")
        command = [sys.executable, "-m", "pytest", *options, *tests]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        last = done.stdout.rstrip().rpartition("\n")[2]
        counts = {found[1]: int(found[0]) for found in COUNT.findall(last)}
        if not counts:
            raise RuntimeError(done.stdout[-1500:] + done.stderr[-500:])
        return Run(name, counts, list(read_failures(report)))


def read_failures(report: Path) -> Iterator[str]:
    """Yield each test of a JUnit report that did not pass, with its message and its first line of error."""
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 -- pytest wrote it
        for found in (*case.iterfind("failure"), *case.iterfind("error")):
            message, first = found.get("message", ""), ERROR_LINE.search(found.text or "")
            reasons = [message, first[1] if first and first[1] not in message else ""]
            reason = " | ".join(" ".join(one.split())[:MAX_REASON_CHARACTERS] for one in reasons if one)
            yield f"{case.get('classname')}::{case.get('name')} - {reason}"


def main() -> int:
    """Run, print; 1 when a test failed."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--only", default="", metavar="PARTS")
    flags.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    flags.add_argument("tests", nargs="*", default=TESTS)
    options = flags.parse_args()
    names = [name for name in options.only.split(",") if name] or [*SPEEDING_UP, ALL]
    if unknown := set(names) - {*SPEEDING_UP, ALL}:
        flags.error(f"no part is called {', '.join(sorted(unknown))}")
    print(f"{'without':16}{'passed':>9}{'skipped':>9}{'failed':>9}", flush=True)
    runs: list[Run] = []
    for name in names:
        parts = SPEEDING_UP if name == ALL else (name,)
        runs.append(run_without(name, parts, options.tests, options.processes))
        print(runs[-1].line(), *runs[-1].failures, sep="\n  ", flush=True)
    return int(any(run.failures for run in runs))


if __name__ == "__main__":
    sys.exit(main())
