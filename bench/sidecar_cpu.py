"""CPU a call costs the sidecar: LiteLLM as it comes, and each of our patches switched on alone.

`.venv/bin/python -m bench.sidecar_cpu [--calls 100] [--streams 20] [--only NAME]` writes docs/sidecar_cpu.md
and .json when it measured everything. Each figure is the least of three runs.
"""

import argparse
import json
import tempfile
from pathlib import Path

from sidecars import KEY, Provider, deployment, provider_spec, sidecar_spec
from stack_processes import StackProcesses

from bench import ROOT, report
from bench.report import Json
from bench.testbed import Subject, litellm_spec, measure
from llm_proxy.stack.probe import free_port
from llm_proxy.stack.process import ProcessSpec

PATCHES = ("hooks", "limits", "frames")
WITHOUT = "LLM_PROXY_SIDECAR_WITHOUT"
ROUNDS = 3
STREAM: Json = {"stream": True, "stream_options": {"include_usage": True}}


def variants(file: Path, port: int) -> dict[str, ProcessSpec]:
    """What is compared, each with the same configuration."""
    uncompiled = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": "/nonexistent"}
    found = {
        "LiteLLM without bytecode": litellm_spec(port, file, KEY, uncompiled),
        "LiteLLM as it comes": litellm_spec(port, file, KEY),
        "our routes alone": sidecar_spec(file, port, {WITHOUT: ",".join(PATCHES)}),
    }
    for patch in PATCHES:  # frames pass untouched only where no hook wants to see them
        named = {patch, "hooks"} if patch == "frames" else {patch}
        rest = ",".join(other for other in PATCHES if other not in named)
        found[f"our routes, {', '.join(sorted(named))}"] = sidecar_spec(file, port, {WITHOUT: rest})
    return found | {"all": sidecar_spec(file, port, {WITHOUT: ""})}


def body(frames: int, **more: object) -> str:
    """A chat call, and how many words its answer has."""
    script = json.dumps({"do": "ok", "frames": frames})
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": f"hello {script}"}]} | more)


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
    rows: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory(prefix="sidecar-cpu-") as folder:
        stack, file = StackProcesses(Path(folder)), Path(folder) / "litellm.yaml"
        try:
            stack.add("provider", provider_spec(at := free_port()), at)
            stack.start("provider")
            config = {"model_list": [deployment("m", "openai/m", Provider(stack.url("provider")))]}
            file.write_text(json.dumps(config | {"general_settings": {"master_key": KEY}}))
            port = free_port()
            for name, program in variants(file, port).items():
                if given.only in ("", name):
                    stack.add(name, program, port)
                    stack.start(name)
                    subject = Subject(name, port, (stack.pid(name),), KEY)
                    chat, stream = cpu_ms(subject, body(8), given.calls), body(50, **STREAM)
                    rows.append((name, f"{chat:.2f}", f"{cpu_ms(subject, stream, given.streams):.2f}"))
                    print(*rows[-1], flush=True)
                    stack.stop(name)
        finally:
            stack.stop()
    if not given.only:
        table = report.table(("what runs", "a chat call", "a stream"), rows)
        report.write("sidecar_cpu", {name: cells for name, *cells in rows}, {"cpu": table}, given.out)


if __name__ == "__main__":
    main()
