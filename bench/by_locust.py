"""LiteLLM as it comes, and gateway with sidecar, under locust, a load tool of other people's.

`make load-locust` prints a table. Locust stands in .bench (locks/bench.txt). Invariants: both subjects have
the same upstream, the same number of users and one worker; one stands still while the other is measured.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import ROOT
from bench.report import table
from bench.testbed import BOTH, LITELLM, OTHERS, Subject, body, run_testbed, still

LOCUST = OTHERS / "venv" / "bin" / "locust"
ROUNDS = ("warm-up", "measured")
HEAD = ("subject", "calls/s", "p50 ms", "p95 ms", "failed", "CPU ms a call")


def ask(subject: Subject, sent: str, users: int, seconds: int, *, stream: bool) -> tuple[str, ...]:
    """One line of the table; raises `RuntimeError` if locust does not run."""
    with tempfile.TemporaryDirectory(prefix="llm-proxy-locust-") as folder, still(subject.others):
        words = [str(LOCUST), "--headless", "--only-summary"]
        words += ["--users", str(users), "--spawn-rate", str(users)]
        words += ["--run-time", f"{seconds}s", "--host", f"http://127.0.0.1:{subject.port}"]
        words += ["--locustfile", str(ROOT / "bench" / "locustfile.py"), "--json-file", f"{folder}/seen"]
        env = os.environ | {"BODY": sent, "KEY": subject.key, "STREAM": "1" if stream else ""}
        before_s = subject.cpu_s()
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
        used_s = subject.cpu_s() - before_s
        found = Path(f"{folder}/seen.json")
        seen = json.loads(found.read_text(encoding="utf-8"))[:1] if found.exists() else []
    if not seen:
        raise RuntimeError(f"{subject.name}: no call ended within {seconds} s\n{done.stderr[-2000:]}")
    [calls] = seen
    count = calls["num_requests"]
    times = sorted((float(ms), many) for ms, many in calls["response_times"].items())
    return (
        subject.name,
        f"{count / (calls['last_request_timestamp'] - calls['start_time']):.1f}",
        f"{percentile(times, 0.5):.0f}",
        f"{percentile(times, 0.95):.0f}",
        str(calls["num_failures"]),
        f"{used_s / count * 1000:.2f}",
    )


def percentile(times: list[tuple[float, int]], share: float) -> float:
    """The time in milliseconds within which this share of calls ended."""
    left = share * sum(many for _, many in times)
    for ms, many in times:
        left -= many
        if left <= 0:
            return ms
    return 0.0


def lines(users: int, seconds: int, *, stream: bool) -> Iterator[tuple[str, ...]]:
    """Each subject's line."""
    with run_testbed((LITELLM, BOTH)) as bed:
        for name in (LITELLM, BOTH):
            for run in ROUNDS:
                print(f"{name}: {run}", flush=True)
                line = ask(bed.subjects[name], body(stream=stream), users, seconds, stream=stream)
            yield line


def main() -> None:
    """Prints the tables."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--users", type=int, default=8)
    flags.add_argument("--seconds", type=int, default=10)
    given = flags.parse_args()
    for stream in (False, True):
        found = list(lines(given.users, given.seconds, stream=stream))
        print(
            f"\n{'streams' if stream else 'calls'}, {given.users} users\n\n{table(HEAD, found)}", flush=True
        )


if __name__ == "__main__":
    main()
