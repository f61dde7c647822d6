"""`llm`, the command line tool, with a model added to its `extra-openai-models.yaml`."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from report import API_KEY, BASE_URL, CITY, calls, expect, left_by_the_caller, once, play, tell

HOME = Path(tempfile.mkdtemp(prefix="llm-"))
LLM = Path(sys.executable).parent / "llm"
ENV = {**os.environ, "LLM_USER_PATH": str(HOME)}
MODELS = (
    ("ok", "p/ok", "ours"),
    ("tools", "p/tools", "ours"),
    ("none", "nobody-has-this", "ours"),
    ("stranger", "p/ok", "other"),
)
ENTRY = """
- model_id: {}
  model_name: {}
  api_key_name: {}
  api_base: {}
  supports_schema: true
  supports_tools: true
"""
(HOME / "extra-openai-models.yaml").write_text("".join(ENTRY.format(*one, BASE_URL) for one in MODELS))
(HOME / "keys.json").write_text(json.dumps({"ours": API_KEY, "other": "not-ours-0123456789"}))


def ask(*words: str) -> "subprocess.CompletedProcess[str]":
    """Runs the command."""
    return subprocess.run(
        [str(LLM), *words], env=ENV, capture_output=True, text=True, timeout=60, check=False
    )


def chat() -> None:
    """Text, not streamed."""
    answer = ask("-m", "ok", "--no-stream", play())
    expect(len(answer.stdout.split()) == 8, answer.stdout + answer.stderr)


def stream() -> None:
    """Text, streamed, as it does by itself."""
    answer = ask("-m", "ok", play())
    expect(len(answer.stdout.split()) == 8, answer.stdout + answer.stderr)
    expect(calls()[0]["stream"], "not streamed")


def tools() -> None:
    """A Python function run as a tool, its results sent back, then text."""
    code = "def look_up(city: str) -> str:\n    return city"
    answer = ask("-m", "tools", "--functions", code, "--td", play(do="tools"))
    expect("Oslo" in answer.stderr and "Turku" in answer.stderr, answer.stderr)
    expect(answer.returncode == 0, answer.stderr)


def structured() -> None:
    """JSON by a schema."""
    answer = ask(
        "-m",
        "ok",
        "--no-stream",
        "--schema",
        '{"type": "object", "properties": {"city": {"type": "string"}}}',
        play(text=CITY),
    )
    expect("Oslo" in answer.stdout, answer.stdout + answer.stderr)
    expect(json.loads(answer.stdout) == {"city": "Oslo"}, answer.stdout)


def cancel() -> None:
    """The command killed in the middle of its answer."""
    words = [str(LLM), "-m", "ok", play(do="slow", frames=80)]
    with subprocess.Popen(words, env=ENV, stdout=subprocess.PIPE) as going:
        expect(going.stdout and going.stdout.read(3), "no text")
        going.terminate()
    expect(left_by_the_caller(), "the provider went on")


def fails(words: str, *asked: str) -> None:
    """A failed command that shows our message."""
    answer = ask(*asked)
    expect(answer.returncode != 0, "no failure")
    expect(words in answer.stderr, answer.stderr[-300:])


tell(
    "llm",
    "llm",
    {
        "chat": chat,
        "stream": stream,
        "tools": tools,
        "structured": structured,
        "cancel": cancel,
        "400": lambda: fails("400", "-m", "ok", play(do="status-400")),
        "401": lambda: fails("Incorrect API key", "-m", "stranger", "x"),
        "404": lambda: fails("does not exist", "-m", "none", "x"),
        "429": lambda: fails("429", "-m", "ok", play(do="status-429")),
        "5xx": lambda: fails("502", "-m", "ok", play(do="status-500")),
        "once": once(lambda: fails("502", "-m", "ok", play(do="status-500"))),
    },
)
