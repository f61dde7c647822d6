"""A flame graph of the gateway, or of the sidecar, under load: `make profile`, `make profile ARGS=sidecar`.

    python -m bench.profile [gateway|sidecar] [--stream] [--out FILE.svg]

py-spy watches from outside; it must be allowed to (root, or `kernel.yama.ptrace_scope=0`).
"""

import argparse
import subprocess
import sys
from pathlib import Path

from bench import subjects
from bench.house import RPM
from bench.stand import Stand, Subject, await_model, body, measure, standing, virtual_key
from llm_proxy.stack import probe

SECONDS = 8
RATE_HZ = 400


def gateway(stand: Stand) -> Subject:
    """The gateway with everything on."""
    port = probe.free_port()
    stand.start(subjects.gateway("gateway", port, stand.upstream_port, stand.folder, stand.stores))
    await_model(port)
    key = virtual_key(port, name="profile", tenant="acme", agent="scout", rpm=RPM)
    return stand.subject("gateway", port, key)


def sidecar(stand: Stand) -> Subject:
    """The sidecar, asked directly."""
    port = probe.free_port()
    stand.start(subjects.sidecar("sidecar", port, subjects.litellm_config(stand.folder, stand.upstream_port)))
    return stand.subject("sidecar", port)


def main() -> int:
    """Start, load, watch, and write the graph."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("what", nargs="?", choices=("gateway", "sidecar"), default="gateway")
    arguments.add_argument("--stream", action="store_true")
    arguments.add_argument("--out", type=Path)
    given = arguments.parse_args()
    out: Path = given.out or Path(f"profile-{given.what}.svg")
    with standing() as stand:
        subject = gateway(stand) if given.what == "gateway" else sidecar(stand)
        sent = body(stream=given.stream)
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
