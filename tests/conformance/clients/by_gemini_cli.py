"""Gemini CLI, with `GOOGLE_GEMINI_BASE_URL`."""

import json
import os
import re
import subprocess
from pathlib import Path

from agent_tasks import Agent, run
from report import API_KEY

GEMINI = Path(os.environ["MODULES"]) / "@google/gemini-cli/bundle/gemini.js"
SETTINGS = {
    "security": {"auth": {"selectedType": "gemini-api-key"}},
    "privacy": {"usageStatisticsEnabled": False},
    "general": {"disableAutoUpdate": True},
}

_SUM = re.compile(r"echo (\S+)-\$\(\((.+?)\)\)")


def _shell(command: str) -> tuple[str, dict[str, str]]:
    """The call of a command; Gemini CLI runs none with a substitution, so awk adds up."""
    plain = _SUM.sub(r"""awk 'BEGIN{print "\1-" \2}'""", command)
    return "run_shell_command", {"command": plain, "description": "works"}


def agent(model: str) -> Agent:
    """Gemini CLI on a model."""

    def start(prompt: str, home: Path, again: bool) -> list[str]:  # noqa: FBT001 -- Agent's signature
        settings = home / ".gemini" / "settings.json"
        settings.parent.mkdir(exist_ok=True)
        settings.write_text(json.dumps(SETTINGS))
        words = ["node", str(GEMINI), "--model", model, "--yolo"]
        return [*words, *(["--resume", "latest"] if again else []), "--prompt", prompt]

    return Agent(
        start=start,
        env={
            "GOOGLE_GEMINI_BASE_URL": os.environ["GATEWAY"],
            "GEMINI_API_KEY": API_KEY,
            "GEMINI_CLI_TRUST_WORKSPACE": "true",
            "NO_COLOR": "1",
        },
        command=_shell,
        look=lambda picture: ("read_file", {"file_path": str(picture)}),
        delegate=lambda prompt: ("invoke_agent", {"agent_name": "generalist", "prompt": prompt}),
    )


if __name__ == "__main__":
    shown = subprocess.check_output(["node", GEMINI, "--version"], text=True)  # noqa: S607 -- from the PATH
    results = run(agent, "gemini", {})
    print(json.dumps({"client": "Gemini CLI", "version": shown.split()[-1], "checks": results}))
