"""Tasks that a coding agent does in a folder, on models of every kind; standard library only.

The scripted provider is the model: it calls the agent's own tools by a plan that stands in the prompt. Looked
at are the files that the tools left, the last words, and what came back to the provider.
"""

import base64
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import calls, expect, forget, left_by_the_caller, play

PATIENCE_S = 60
MODELS = {
    "native": {"codex": "gpt-5.1", "claude": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash"},
    "chat only": {"codex": "own-chat", "claude": "own-chat", "gemini": "own-chat"},
    "Gemini": {"codex": "gemini-2.5-pro", "claude": "gemini-2.5-pro", "gemini": "gemini-2.5-pro"},
    "the other's": {"codex": "claude-sonnet-4-5", "claude": "gpt-5.1", "gemini": "claude-sonnet-4-5"},
}
"""What each agent is run on."""
SECRET = "the word is heliotrope"
Step = Sequence[tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Agent:
    """How one agent is driven.

    Attributes:
        start: Its command for a prompt, a folder and whether it goes on with the last conversation.
        command: The call of its tool that runs a command.
        look: The call of its tool that shows it a picture.
        delegate: The call of its tool that hands a prompt to another agent.
    """

    start: Callable[[str, Path, bool], list[str]]
    env: dict[str, str]
    command: Callable[[str], tuple[str, dict[str, Any]]]
    look: Callable[[Path], tuple[str, dict[str, Any]]]
    delegate: Callable[[str], tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Session:
    """An agent at work in a folder of its own."""

    agent: Agent
    home: Path

    @property
    def folder(self) -> Path:
        """Where its tools run."""
        return self.home / "work"

    def _popen(self, prompt: str, *, again: bool) -> subprocess.Popen[str]:
        self.folder.mkdir(exist_ok=True)
        words = self.agent.start(prompt, self.home, again)
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), **self.agent.env}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            words, env=env, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe,
            text=True, start_new_session=True,
        )  # fmt: skip

    def ask(self, prompt: str, *, again: bool = False) -> str:
        """What it printed; fails unless it ends well."""
        running = self._popen(prompt, again=again)
        try:
            said, complaints = running.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            said, complaints = running.communicate()
            raise AssertionError(f"no end after {PATIENCE_S} s: {said[-200:]}") from None
        expect(running.returncode == 0, f"exit {running.returncode}: {said[-300:]} {complaints[-300:]}")
        return said

    def kill_in_the_middle(self, prompt: str) -> None:
        """Ends it as soon as the provider has begun to answer."""
        running = self._popen(prompt, again=False)
        end = time.monotonic() + PATIENCE_S
        while not any(call["frames"] > 3 for call in calls()):
            expect(time.monotonic() < end and running.poll() is None, "it did not begin")
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()


def _plan(*steps: Step, text: str = "All done.", **more: Any) -> str:
    return play(do="agent", steps=[list(step) for step in steps], text=text, **more)


def _sent() -> str:
    """The last request of a conversation with tools."""
    with_tools = [call["body"] for call in calls() if call["body"].get("tools")]
    expect(with_tools, "nothing was sent with tools")
    return json.dumps(with_tools[-1], ensure_ascii=False)


def task(session: Session) -> None:
    """A file is read, another written; what was read came back to the model."""
    session.folder.mkdir()
    (session.folder / "note.txt").write_text(SECRET)
    shell = session.agent.command
    said = session.ask(_plan([shell("cat note.txt")], [shell("wc -c < note.txt > size.txt")]))
    expect((session.folder / "size.txt").read_text().strip() == str(len(SECRET)), "nothing was written")
    expect(SECRET in _sent(), "what the tool said did not come back")
    expect("All done." in said, f"other words: {said[-200:]}")


def parallel(session: Session) -> None:
    """Three calls at once; all are run, each result comes back once."""
    shell = session.agent.command
    session.ask(_plan([shell(f"echo made-$((40 + {at})) | tee {at}.txt") for at in range(3)]))
    for at in range(3):
        expect((session.folder / f"{at}.txt").exists(), f"call {at} was not run")
        expect(f"made-{40 + at}" in _sent(), f"the result of call {at} did not come back")


def image(session: Session) -> None:
    """A picture that a tool shows reaches the model, byte for byte."""
    session.folder.mkdir()
    picture = session.folder / "dot.png"
    picture.write_bytes(_png())
    session.ask(_plan([session.agent.look(picture)]))
    encoded = base64.b64encode(picture.read_bytes()).decode()
    expect(encoded in _sent(), "the model did not get the picture")


def long(session: Session) -> None:
    """Thirty calls, one after the other, then two more turns of the same conversation."""
    shell = session.agent.command
    session.ask(
        _plan(*[[shell(f"echo line-$((100 + {at})) >> log.txt; tail -1 log.txt")] for at in range(30)])
    )
    for turn in range(2):
        session.ask(_plan([shell(f"echo turn-$((7 + {turn})) >> log.txt; tail -1 log.txt")]), again=True)
    expect(len((session.folder / "log.txt").read_text().split()) == 32, "not every call was run once")
    sent = _sent()
    lost = [word for word in ("line-100", "line-129", "turn-7", "turn-8") if word not in sent]
    expect(not lost, f"lost on the way: {lost}")


def delegated(session: Session) -> None:
    """Another agent is given a task of its own."""
    shell = session.agent.command
    inner = _plan([shell("echo inner > inner.txt")], text="The inner one is done.")
    session.ask(_plan([session.agent.delegate(inner)], [shell("sleep 2")]))
    expect((session.folder / "inner.txt").exists(), "the other agent did nothing")


def killed(session: Session) -> None:
    """The agent is killed in the middle of an answer: the provider is left, the conversation goes on."""
    session.kill_in_the_middle(play(do="slow", frames=300, gap_ms=100))
    expect(left_by_the_caller(), "the provider went on")
    forget()
    session.ask(_plan([session.agent.command("echo back > back.txt")]), again=True)
    expect((session.folder / "back.txt").exists(), "it did not go on")


def cut(session: Session) -> None:
    """The provider breaks off in the middle, once: the agent asks again, and no half answer counts."""
    said = session.ask(play(do="cut-once", key=session.home.name, frames=40, after=20, text="Whole. " * 30))
    expect("Whole. Whole." in said, f"other words: {said[-200:]}")


TASKS: dict[str, Callable[[Session], None]] = {
    "task": task,
    "parallel": parallel,
    "image": image,
    "long": long,
    "delegated": delegated,
    "killed": killed,
    "cut": cut,
}


def _png() -> bytes:
    """A picture of 64 by 64 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">2I5B", 64, 64, 8, 2, 0, 0, 0))
    rows = b"".join(
        b"\0" + bytes((x * 4, y * 4, 90)[at] for x in range(64) for at in range(3)) for y in range(64)
    )
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def run(
    agent: Callable[[str], Agent], name: str, more: dict[str, Callable[[Session], None]]
) -> dict[str, str]:
    """Each task on each kind of model; an empty text where it held."""
    results: dict[str, str] = {}
    chosen = sys.argv[1:]
    for kind, models in MODELS.items():
        for task_name, do in (TASKS | more).items():
            if chosen and not {kind, task_name} & set(chosen):
                continue
            forget()
            with tempfile.TemporaryDirectory(prefix="agent-") as home:
                try:
                    do(Session(agent(models[name]), Path(home)))
                    results[f"{kind}: {task_name}"] = ""
                except AssertionError as wrong:
                    results[f"{kind}: {task_name}"] = str(wrong)[:600]
    return results
