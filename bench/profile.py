"""A flame graph of the gateway, or of the sidecar, under load: `make profile`, `make profile ARGS=sidecar`.

py-spy watches from outside; it must be allowed to (root, or `kernel.yama.ptrace_scope=0`).
"""

import argparse
import subprocess
import sys
from pathlib import Path

from bench.testbed import GATEWAY, SIDECAR, body, measure, run_testbed

SECONDS, RATE_HZ = 8, 400


def main() -> int:
    """Starts, loads, watches, and writes the graph."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("what", nargs="?", choices=("gateway", "sidecar"), default="gateway")
    flags.add_argument("--stream", action="store_true")
    flags.add_argument("--out", type=Path)
    given = flags.parse_args()
    out: Path = given.out or Path(f"profile-{given.what}.svg")
    name, sent = {"gateway": GATEWAY, "sidecar": SIDECAR}[given.what], body(stream=given.stream)
    with run_testbed((name,)) as bed:
        subject = bed.subjects[name]
        measure(subject, sent, seconds=1)
        words = ["record", "--rate", str(RATE_HZ), "--duration", str(SECONDS), "--pid", str(subject.pids[0])]
        py_spy = str(Path(sys.executable).with_name("py-spy"))
        watcher = subprocess.Popen([py_spy, *words, "--output", str(out)])
        run = measure(subject, sent, seconds=SECONDS + 1)
        code = watcher.wait()
    print(f"{out}: {run.cpu_us:.0f} us of CPU a call, {run.served} calls")
    return code


if __name__ == "__main__":
    sys.exit(main())
