"""CPU a call costs the sidecar: LiteLLM as it comes, all of our parts, and all but one.

`.venv/bin/python -m bench.sidecar_cpu [--calls 100] [--streams 20] [--only NAME]` writes docs/sidecar_cpu.md
and .json when it measured everything. Each figure is the least of three runs.
"""

import argparse
import tempfile
from pathlib import Path

from sidecars import KEY, sidecar_spec
from stack_processes import StackProcesses

from bench import ROOT, report
from bench.testbed import Subject, body, litellm_config, litellm_spec, measure, upstream_spec
from llm_proxy.sidecar.patches.registry import DISABLING_SETTING as WITHOUT
from llm_proxy.sidecar.patches.registry import SPEEDING_UP
from llm_proxy.stack.probe import free_port
from llm_proxy.stack.process import ProcessSpec

ROUNDS = 3
PARTS = tuple(name for name in SPEEDING_UP if name != "routes")
"""Routes cost the start, and no call."""
VARIANTS = {
    "LiteLLM without bytecode": "",
    "LiteLLM as it comes": "",
    "none of them": ",".join(PARTS),
    "all": "",
} | {f"all but {part}": part for part in PARTS}
"""The parts that each leaves out; LiteLLM as it comes has none."""
COLUMNS = {
    "a chat call": body(),
    "a stream": body(stream=True),
    "a stream of Anthropic's": body("bench-anthropic", stream=True),
}
"""What is measured: a call, and streams of 102 frames."""


def program(name: str, file: Path, port: int) -> ProcessSpec:
    """What is compared under that name, with the same configuration as all."""
    uncompiled = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": "/nonexistent"}
    litellm = {"LiteLLM without bytecode": uncompiled, "LiteLLM as it comes": {}}
    if name in litellm:
        return litellm_spec(port, file, KEY, litellm[name])
    return sidecar_spec(file, port, {WITHOUT: VARIANTS[name]})


def cpu_ms(subject: Subject, sent: str, calls: int) -> float:
    """CPU a call, four calls at a time; raises `RuntimeError` for an answer that is not good."""
    runs = [
        measure(subject, sent, connections=4, seconds=60, requests=many) for many in (20, *[calls] * ROUNDS)
    ]
    if any(run.spoilt for run in runs):
        raise RuntimeError(f"{subject.name}: not every call was answered")
    return min(run.cpu_us for run in runs[1:]) / 1000


def main() -> None:
    """Prints the table, and writes the page when it is whole."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--calls", type=int, default=100)
    flags.add_argument("--streams", type=int, default=20)
    flags.add_argument("--only", default="")
    flags.add_argument("--out", type=Path, default=ROOT / "docs")
    given = flags.parse_args()
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory(prefix="sidecar-cpu-") as folder:
        stack = StackProcesses(Path(folder))
        try:
            stack.add("upstream", upstream_spec(at := free_port()), at)
            stack.start("upstream")
            file = litellm_config(stack.folder, stack.url("upstream"))
            for name in VARIANTS:
                if given.only in ("", name):
                    port = free_port()  # at the port before, LiteLLM's end may still answer
                    stack.add(name, program(name, file, port), port)
                    stack.start(name)
                    subject, many = Subject(name, port, (stack.pid(name),), KEY), (given.calls, given.streams)
                    spent = [
                        cpu_ms(subject, sent, many['"stream":true' in sent]) for sent in COLUMNS.values()
                    ]
                    rows.append((name, *(f"{one:.2f}" for one in spent)))
                    print(*rows[-1], flush=True)
                    stack.stop(name)
        finally:
            stack.stop()
    if not given.only:
        table = report.table(("what runs", *COLUMNS), rows)
        report.write("sidecar_cpu", {name: cells for name, *cells in rows}, {"cpu": table}, given.out)


if __name__ == "__main__":
    main()
