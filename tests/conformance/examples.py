"""The programs of `examples/clients`, run as they are against a running gateway; `make examples`.

Each runs in the environment of its client, made as for `make conformance`. A program that ends with another
code than 0, prints no answer, or whose calls the provider did not see, makes exit code 1.
"""

import argparse
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable

from conformance.run import HOME, ROOT, environment
from running_stack import KEY, Json
from scripted.script import WORDS
from stack_processes import run_stack

EXAMPLES = ROOT / "examples" / "clients"
PAGES = ROOT / "docs" / "connect"
SCRIPTED = {"model": "openai/*", "api_base": "PROVIDER/v1", "api_key": "sk-examples"}
CONFIG: Json = {"model_list": [{"model_name": "*", "litellm_params": SCRIPTED}]}
SETTINGS = {"LLM_PROXY__CACHE_MODE": "off"}
TIMEOUT_S = 120
ALL_CALLS = [
    ("/v1/chat/completions", "smollm2", False),
    ("/v1/chat/completions", "smollm2", True),
    ("/v1/embeddings", "all-minilm-l6-v2", False),
]
AGENT_CALLS = [("/v1/chat/completions", "smollm2", False)]


def _node() -> str:
    """Node; the programs stand beside its modules, where they look for them."""
    folder = environment("node").parent
    for program in EXAMPLES.glob("*.mjs"):
        shutil.copy(program, folder)
    return "node"


def _newer_python() -> str:
    """A Python that OpenHands runs on."""
    find: Callable[[str], str | None] = runpy.run_path(str(ROOT / "scripts" / "test_pythons.py"))["found"]
    for version in ("3.12", "3.13", "3.14"):
        if python := find(version):
            return python
    raise OSError("needs Python 3.12 or later")


ON_HAND: dict[str, Callable[[], str]] = {
    "curl.sh": lambda: "/bin/sh",
    "openai_python.py": lambda: sys.executable,
    "python_client.py": lambda: sys.executable,
    "litellm_sdk.py": lambda: str(ROOT / ".venv-sidecar" / "bin" / "python"),
}
"""Programs that run in the environments which the tests have anyway."""
INSTALLED: dict[str, Callable[[], str]] = {
    "langchain_chat.py": lambda: str(environment("langchain")),
    "llamaindex_chat.py": lambda: str(environment("llamaindex")),
    "openhands_agent.py": lambda: str(environment("openhands", _newer_python())),
    "openai_node.mjs": _node,
    "ai_sdk.mjs": _node,
}
PROGRAMS = ON_HAND | INSTALLED


def fault(program: str, base_url: str, provider_url: str) -> str:
    """Runs a program of `examples/clients`; returns what was wrong with its run, or an empty text."""
    interpreter = PROGRAMS[program]()
    place = HOME / "node" if program.endswith(".mjs") else EXAMPLES
    _ask(f"{provider_url}/_reset", method="POST")
    with tempfile.TemporaryDirectory(prefix="example-") as home:
        env = {"PATH": os.environ["PATH"], "HOME": home, "BASE_URL": base_url, "KEY": KEY}
        env |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONDONTWRITEBYTECODE": "1"}
        words = [interpreter, str(place / program)]
        done = subprocess.run(
            words, env=env, cwd=home, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    if done.returncode:
        return f"exit code {done.returncode}: {done.stderr[-600:]}"
    expected = AGENT_CALLS if program == "openhands_agent.py" else ALL_CALLS
    if (seen := _calls(provider_url)) != expected:
        return f"other calls at the provider: {seen}"
    return "" if any(word in done.stdout for word in WORDS) else f"printed no answer: {done.stdout[-600:]}"


def _calls(provider_url: str) -> list[tuple[str, str, bool]]:
    """Path, model and whether it streams, of each call that the provider saw."""
    calls = json.loads(_ask(f"{provider_url}/_calls"))["calls"]
    return [(call["path"], call["body"]["model"], call["stream"]) for call in calls]


def _ask(url: str, method: str = "GET") -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as answer:
        found: bytes = answer.read()
    return found


def main() -> int:
    """Run the named programs, all by default."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("only", nargs="*", choices=[[], *PROGRAMS], help="files of examples/clients")
    only = flags.parse_args().only or list(PROGRAMS)
    HOME.mkdir(parents=True, exist_ok=True)
    failed = False
    with run_stack(CONFIG, settings=SETTINGS) as stack:
        for program in only:
            try:
                wrong = fault(program, f"{stack.url('gateway-1')}/v1", stack.url("provider"))
            except (OSError, subprocess.SubprocessError) as problem:
                wrong = str(problem)
            print(f"{program}: {wrong or 'runs'}", flush=True)
            failed |= bool(wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
