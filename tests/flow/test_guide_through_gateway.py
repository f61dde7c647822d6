"""The older service's code, word for word, through the gateway: the snippets that also run in-process."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import guide_run
from running_stack import RunningStack, script
from terminal import Terminal

CLIENTS = Path(guide_run.__file__).parents[2]
PRINTS = {
    "functions": r"Function: get_weather\nArguments: \{.*\}\n",
    "rate-limits": r"Remaining: (\d+|None)/(\d+|None)\n",
    "monitoring": r"Total requests: \d+\n(.*\n)+  Error rate: \d+\.\d\d%\n",
}


def environment(stack: RunningStack) -> dict[str, str]:
    """What a program has that calls the gateway."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(str(CLIENTS / name) for name in ("python", "gadugi")),
        "LLM_PROXY_URL": stack.url,
        "LLM_PROXY_API_KEY": stack.key,
    }


async def test_every_snippet_runs_as_it_stands(stack: RunningStack) -> None:
    """Each raises nothing and prints what it says it prints; the models are the gateway's."""
    program = [sys.executable, guide_run.__file__]
    done = await asyncio.to_thread(
        subprocess.run, program, env=environment(stack), check=True, stdout=subprocess.PIPE, text=True
    )
    outcomes: dict[str, list[str]] = json.loads(done.stdout)
    assert {name: failure for name, (_, failure) in outcomes.items() if failure} == {}
    for name, pattern in PRINTS.items():
        assert re.fullmatch(pattern, outcomes[name][0]), outcomes[name][0]
    assert all(outcomes[name][0] for name in ("completion", "chat", "streaming"))
    models = [call["model"] for call in await stack.calls()]
    assert models[:4] == ["gpt-3.5-turbo", "gpt-4--helpful", "gpt-3.5-turbo", "gpt-4--helpful"]


async def test_the_chat_application_on_a_terminal(stack: RunningStack, tmp_path: Path) -> None:
    """Turns, the turns before them, the figures after five of them, and the end."""
    program = tmp_path / "chat.py"
    program.write_text(guide_run.snippets()["application"], encoding="utf-8")
    terminal = Terminal([sys.executable, "-W", "error", str(program)], environment(stack))
    await terminal.until("LLM_PROXY_LOAD_BALANCE=COST_OPTIMIZED")
    await terminal.until("Chat Assistant Ready! (type 'quit' to exit)")
    for turn in range(5):
        await terminal.until("You: ")
        terminal.shown = ""
        terminal.type(script(do="ok", text=f"Answer {turn}."))
        await terminal.until(f"Assistant: Answer {turn}.")
    await terminal.until("[Stats] Requests: ")
    terminal.type("quit")
    await terminal.until("Goodbye!")
    assert await terminal.exit_code() == 0
    assert [len(call["body"]["messages"]) for call in await stack.calls()] == [1, 3, 5, 7, 9]
