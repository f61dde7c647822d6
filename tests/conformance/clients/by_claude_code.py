"""Claude Code, with `ANTHROPIC_BASE_URL`."""

import json
import os
import subprocess
from pathlib import Path

from agent_tasks import Agent, Session, run
from report import API_KEY, calls, expect, play

CLAUDE = Path(os.environ["MODULES"]) / "@anthropic-ai/claude-code-linux-x64/claude"


def agent(model: str) -> Agent:
    """Claude Code on a model."""

    def start(prompt: str, home: Path, again: bool) -> list[str]:  # noqa: ARG001, FBT001 -- Agent's signature
        words = [str(CLAUDE), "-p", "--dangerously-skip-permissions", "--output-format", "json"]
        return [*words, *(["--continue"] if again else []), prompt]

    return Agent(
        start=start,
        env={
            "ANTHROPIC_BASE_URL": os.environ["GATEWAY"],
            "ANTHROPIC_AUTH_TOKEN": API_KEY,
            "ANTHROPIC_MODEL": model,
            "ANTHROPIC_SMALL_FAST_MODEL": model,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "IS_SANDBOX": "1",
        },
        command=lambda command: ("Bash", {"command": command, "description": "works"}),
        look=lambda picture: ("Read", {"file_path": str(picture)}),
        delegate=lambda prompt: (
            "Agent",
            {"description": "delegates", "prompt": prompt, "subagent_type": "general-purpose"},
        ),
    )


def compaction(session: Session) -> None:
    """`/compact` asks for a summary, and the conversation goes on from it."""
    session.ask(play(text="It was long."))
    session.ask("/compact " + play(text="<summary>It was about birches.</summary>"), again=True)
    session.ask(play(text="Still here."), again=True)
    expect("It was about birches." in json.dumps(calls()[-1]["body"]), "it does not go on from the summary")


if __name__ == "__main__":
    said = subprocess.check_output([CLAUDE, "--version"], text=True)
    results = run(agent, "claude", {"compaction": compaction})
    print(json.dumps({"client": "Claude Code", "version": said.split()[0], "checks": results}))
