"""CPU a call costs the sidecar, user plus system time: LiteLLM as it comes, and each of our parts.

`.venv/bin/python bench/sidecar_cpu.py [--calls 100] [--streams 20] [--only NAME]` writes
`docs/sidecar_cpu.md`. The provider is the scripted one; a stream has 50 words. Each figure is the least of
three runs; compare those of one table with each other only.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from llm_proxy.stack.probe import free_port, is_up  # noqa: E402 -- the project's own, found from here

BIN = ROOT / ".venv-sidecar" / "bin"
KEY = "sk-bench-0123456789abcdef"
TICK = os.sysconf("SC_CLK_TCK")
CONFIG = """
model_list:
  - model_name: m
    litellm_params:
      model: openai/m
      api_base: {provider}/v1
      api_key: k
      input_cost_per_token: 0.000001
      output_cost_per_token: 0.000002
    model_info: {{id: m}}
router_settings: {{num_retries: 0}}
general_settings: {{master_key: {key}, disable_model_info_refresh: true}}
litellm_settings: {{include_cost_in_streaming_usage: true, json_logs: true}}
"""
PARTS = ("hooks", "limits", "frames")
OFFLINE = dict.fromkeys(("LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS"), "True")
ROUNDS = 3
PAGE = """# What a call costs the sidecar

LiteLLM {version} as its own command starts it, and each of our parts switched on alone, without call log and
cache. CPU milliseconds a call, user and system time, the least of {rounds} runs of {calls} calls ({streams}
streams of 50 words), four at a time. Made by `.venv/bin/python bench/sidecar_cpu.py`.

| what runs | a chat call | a stream |
| --- | ---: | ---: |
{rows}

* Without bytecode: Python may not keep what it compiled (`PYTHONDONTWRITEBYTECODE`, as many an image
  sets it), and LiteLLM tries failing imports anew in each call. `make setup` compiles at install.
* Our doors: LiteLLM's application behind an ASGI wrapper, without its routing table of hundreds of paths, and
  an authentication that knows its one key.
* Hooks: ten hooks for features that are not used here do not run.
* Limits: where no deployment states limits, none are looked for on a call.
* Frames: a stream's frames pass as the provider sent them where no hook wants to see them: it needs the
  hooks gone.

`LLM_PROXY_SIDECAR_WITHOUT` names patches to leave out ([all of them](litellm/patches.md)).

All but the bytecode are patches of ours, made at LiteLLM's start (`llm_proxy/sidecar/patches/performance.py`,
`openai_frames.py`): we found no setting of its own for any of them. LiteLLM 1.108.6 has
taken over two that stood here before: prices of a deployment are registered once, and OpenAI's SDK no longer
walks a body that came as JSON.
"""
QUIET = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
UNCOMPILED = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": "/nonexistent"}


def variants() -> dict[str, tuple[list[str], dict[str, str]]]:
    """Name -> command and environment; the configuration and the port are added."""
    stock = [str(BIN / "litellm"), "--host", "127.0.0.1", "--keepalive_timeout", "75"]
    ours = [str(BIN / "python"), "-m", "llm_proxy.sidecar"]
    found = {
        "LiteLLM without bytecode": (stock, OFFLINE | QUIET | UNCOMPILED),
        "LiteLLM as it comes": (stock, OFFLINE | QUIET),
        "our doors alone": (ours, {"LLM_PROXY_SIDECAR_WITHOUT": ",".join(PARTS)}),
    }
    for part in PARTS:  # frames pass only where no hook wants to see them
        named = {part, "hooks"} if part == "frames" else {part}
        rest = ",".join(other for other in PARTS if other not in named)
        found[f"our doors, {', '.join(sorted(named))}"] = (ours, {"LLM_PROXY_SIDECAR_WITHOUT": rest})
    return found | {"all": (ours, {})}


def cpu_s(pid: int) -> float:
    """User and system seconds of a process. Source: proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


@contextmanager
def program(command: list[str], env: dict[str, str], port: int, path: str) -> Iterator[int]:
    """A running program's process id."""
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen(command, env={**os.environ, **env}, stdout=log, stderr=log)
        try:
            while not is_up(port, path):
                if started.poll() is not None:
                    raise SystemExit(f"{command[0]} ended with {started.returncode}")
                time.sleep(0.1)
            yield started.pid
        finally:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(15)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


async def drive(url: str, calls: int, *, stream: bool) -> None:
    """That many calls, four at a time."""
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as session:

        async def one(at: int) -> None:
            said = f"{at} " + json.dumps({"do": "ok", "frames": 50 if stream else 8})
            body: dict[str, object] = {"model": "m", "messages": [{"role": "user", "content": said}]}
            body |= {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
            async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                raw = await reply.read()
                if reply.status != 200 or (stream and b"[DONE]" not in raw):
                    raise SystemExit(f"{reply.status}: {raw[:300]!r}")

        waiting = iter(range(calls))

        async def worker() -> None:
            for at in waiting:
                await one(at)

        await asyncio.gather(*(worker() for _ in range(4)))


def measure(pid: int, url: str, calls: int, *, stream: bool) -> float:
    """CPU milliseconds a call, the least of a few runs."""
    asyncio.run(drive(url, 20, stream=stream))
    found: list[float] = []
    for _ in range(ROUNDS):
        before = cpu_s(pid)
        asyncio.run(drive(url, calls, stream=stream))
        found.append((cpu_s(pid) - before) / calls * 1000)
    return min(found)


def main() -> None:
    """Print the table, and write the page when it is whole."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--calls", type=int, default=100)
    flags.add_argument("--streams", type=int, default=20)
    flags.add_argument("--only", default="")
    asked = flags.parse_args()
    provider, folder = free_port(), Path(tempfile.mkdtemp(prefix="sidecar-cpu-"))
    file = folder / "litellm.yaml"
    file.write_text(CONFIG.format(provider=f"http://127.0.0.1:{provider}", key=KEY))
    scripted = [sys.executable, str(ROOT / "tests" / "scripted_provider.py"), "--port", str(provider)]
    rows: list[str] = []
    print(f"{'':28} {'chat':>9} {'stream':>9}   CPU ms a call")
    with program(scripted, {}, provider, "/_calls"):
        for name, (command, env) in variants().items():
            if asked.only and asked.only != name:
                continue
            port = free_port()
            words = [*command, "--config", str(file), "--port", str(port)]
            with program(words, {"LITELLM_MASTER_KEY": KEY, **env}, port, "/health/liveliness") as pid:
                url = f"http://127.0.0.1:{port}"
                chat = measure(pid, url, asked.calls, stream=False)
                streamed = measure(pid, url, asked.streams, stream=True)
            print(f"{name:28} {chat:9.2f} {streamed:9.2f}", flush=True)
            rows.append(f"| {name} | {chat:.2f} | {streamed:.2f} |")
    if not asked.only:
        said = [
            str(BIN / "python"),
            "-c",
            "from importlib.metadata import version; print(version('litellm'))",
        ]
        version = subprocess.run(said, capture_output=True, text=True, check=True).stdout.strip()
        page = PAGE.format(
            version=version, rounds=ROUNDS, calls=asked.calls, streams=asked.streams, rows="\n".join(rows)
        )
        (ROOT / "docs" / "sidecar_cpu.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
