"""`llm-proxy up` as a person starts it, for tests that look at the whole stack from outside."""

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
from running_stack import say

from llm_proxy.stack.probe import free_port

QUESTION = "What is the capital of France? Answer in one sentence."
PATIENCE_S = 120
GIVEN = re.compile(r"_URL$|_KEY$|^LLM_PROXY|_GGUF$")


@dataclass(frozen=True, slots=True)
class UpCommand:
    """A running `llm-proxy up` in a folder of its own."""

    process: "subprocess.Popen[bytes]"
    folder: Path
    port: int

    @property
    def said(self) -> str:
        """What it has printed so far."""
        return (self.folder / "said").read_text()

    def wait_for(self, words: str) -> None:
        """Waits until it has said these words."""
        deadline_s = time.monotonic() + PATIENCE_S
        while words not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline_s, self.said
            time.sleep(0.05)

    def client(self) -> openai.OpenAI:
        """The SDK, with the key made on the first start."""
        key = dotenv_values(self.folder / ".env")["LLM_PROXY__INTERNAL_API_KEY"]
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key)

    def ask(self) -> str:
        """A short answer of the local model."""
        with self.client() as client:
            answer = client.chat.completions.create(model="smollm2", messages=say(QUESTION), temperature=0)
        return answer.choices[0].message.content or ""


def nothing_given() -> dict[str, str]:
    """The environment, without a store, a key or a setting."""
    return {name: value for name, value in os.environ.items() if not GIVEN.search(name)}


@contextmanager
def run_up(folder: Path, *words: str, port: int | None = None) -> Generator[UpCommand]:
    """`llm-proxy up` with an environment that names no store and no provider."""
    port = port or free_port()
    env = nothing_given()
    command = [sys.executable, "-m", "llm_proxy", "up", "--port", str(port), *words]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=said, stderr=said, umask=0)
    try:
        yield UpCommand(process, folder, port)
    finally:
        process.terminate()
        process.wait(30)
