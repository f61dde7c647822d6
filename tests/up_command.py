"""`llm-proxy up` as a process, for tests of the whole stack from outside."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
from dotenv import dotenv_values
from processes import descendants
from running_stack import say

from llm_proxy.stack.probe import free_port

QUESTION = "What is the capital of France? Answer in one sentence."
TIMEOUT_S = 120
CONFIGURING = re.compile(r"_URL$|_KEY$|^LLM_PROXY(?!_SIDECAR_WITHOUT$)|_GGUF$")
"""But for what leaves parts of the sidecar out of a whole run."""


@dataclass(frozen=True, slots=True)
class UpCommand:
    """A running `llm-proxy up` in a folder of its own."""

    process: "subprocess.Popen[bytes]"
    folder: Path
    port: int

    @property
    def output(self) -> str:
        """Its output so far."""
        return (self.folder / "output").read_text()

    def wait_for(self, text: str, times: int = 1) -> None:
        """Waits until its output holds `text` so many times."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while self.output.count(text) < times:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline_s, self.output
            time.sleep(0.05)

    def sidecars(self) -> list[int]:
        """The process ids of the sidecars and of their parents; each parent stands before its sidecars."""
        running = descendants(self.process.pid)
        return sorted(pid for pid, args in running.items() if "llm_proxy.sidecar" in args)

    def client(self) -> openai.OpenAI:
        """The SDK, with the key created on the first start."""
        key = dotenv_values(self.folder / ".env")["LLM_PROXY__INTERNAL_API_KEY"]
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key)

    def ask(self) -> str:
        """A short response of the local model."""
        with self.client() as client:
            response = client.chat.completions.create(model="smollm2", messages=say(QUESTION), temperature=0)
        return response.choices[0].message.content or ""


def bare_environment() -> dict[str, str]:
    """This environment without stores' addresses, keys and settings."""
    return {name: value for name, value in os.environ.items() if not CONFIGURING.search(name)}


@contextmanager
def run_up(
    folder: Path,
    *words: str,
    port: int | None = None,
    console_port: int | None = None,
    forces_console: bool = True,
    start: tuple[str, ...] = ("llm_proxy", "up"),
) -> Generator[UpCommand]:
    """Runs `llm-proxy up`, or another module and words that start it, in `bare_environment`.

    The console runs if it is given a port; unless it is forced, only if the port is free.
    """
    port = port or free_port()
    env = bare_environment()
    if forces_console:
        env["LLM_PROXY__CONSOLE_ENABLED"] = "true" if console_port else "false"
    env["LLM_PROXY__CONSOLE_PORT"] = str(console_port or 0)
    command = [sys.executable, "-m", *start, "--port", str(port), *words]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output, umask=0)
    try:
        yield UpCommand(process, folder, port)
    finally:
        process.terminate()
        process.wait(30)
