"""The Codex CLI, at a provider of its own that speaks Responses."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from agent_tasks import Agent, Session, run
from report import API_KEY, BASE_URL, calls, expect, play

VENDOR = Path(os.environ["MODULES"]) / "@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl"
CODEX = VENDOR / "bin/codex"
CONFIG = f"""
model_provider = "gateway"
[model_providers.gateway]
name = "gateway"
base_url = "{BASE_URL}"
env_key = "GATEWAY_KEY"
wire_api = "responses"
"""


def agent(model: str, *more: str) -> Agent:
    """Codex on a model."""

    def start(prompt: str, home: Path, again: bool) -> list[str]:  # noqa: FBT001 -- Agent's signature
        (home / ".codex").mkdir(exist_ok=True)
        (home / ".codex/config.toml").write_text(CONFIG)
        words = [str(CODEX), "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
        words += ["--json", "-m", model, *more]
        return [*words, *(["resume", "--last"] if again else []), prompt]

    return Agent(
        start=start,
        env={"GATEWAY_KEY": API_KEY},
        command=lambda command: ("exec_command", {"cmd": command}),
        look=lambda picture: ("view_image", {"path": str(picture)}),
        delegate=lambda prompt: ("spawn_agent", {"message": prompt}),
    )


def compaction(session: Session) -> None:
    """Past its token limit Codex asks for a summary, without tools, and goes on from it."""
    limited = agent(_model(session), "-c", "model_auto_compact_token_limit=20000")
    full: dict[str, Any] = {"do": "ok", "text": "It was long.", "prompt_tokens": 30000}
    small = Session(limited, session.home)
    small.ask(play(**full))
    small.ask(play(text="Still here."), again=True)
    bodies = [call["body"] for call in calls()]
    expect(any(not body.get("tools") for body in bodies), "no summary was asked for")
    expect("It was long." in json.dumps(bodies[-1]), "the summary is not what it goes on from")


def _model(session: Session) -> str:
    words = session.agent.start("", session.home, False)  # noqa: FBT003 -- Agent's signature
    return words[words.index("-m") + 1]


if __name__ == "__main__":
    said = subprocess.check_output([CODEX, "--version"], text=True)
    results = run(agent, "codex", {"compaction": compaction})
    print(json.dumps({"client": "Codex CLI", "version": said.split()[-1], "checks": results}))
