"""The older service's code, word for word, in-process: at providers that answer, fail and limit."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import guide_run
import pytest
import scripted_providers
from terminal import Terminal

from llm_proxy.stack import process_specs

HERE = Path(__file__).parent
RUN = [name for name in guide_run.snippets() if name not in guide_run.ON_A_TERMINAL]
SILENT = {"start", "providers", "strategies", "availability", "cache", "gadugi", "errors"}
LINES = {
    "functions": r"Function: get_weather\nArguments: \{.*\}\n",
    "monitoring": (
        r"Total requests: \d+\nCache hits: \d+\nTotal cost: \$\d\.\d\d\nService status: \w+\n(  \w+: \w+\n)+"
        r"(\w+:\n  Requests: \d+\n  Avg latency: \d+\.\d\ds\n  Error rate: \d+\.\d\d%\n)+"
    ),
    "rate-limits": r"Remaining: 5\d/60\n",
}
Outcomes = dict[str, list[str]]


def environment(address: str) -> dict[str, str]:
    """What a program has that calls OpenAI and Anthropic, both played by one provider."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE), str(HERE.parents[1] / "gadugi")]),
        "OPENAI_API_KEY": "sk-test",
        "OPENAI_BASE_URL": f"{address}/v1",
        "ANTHROPIC_API_KEY": "sk-test",
        "ANTHROPIC_BASE_URL": address,
    }


def run_guide(address: str, *names: str) -> Outcomes:
    """What each snippet printed, and what it raised."""
    done = subprocess.run(
        [process_specs.sidecar_python(), HERE / "guide_run.py", *names],
        env=environment(address),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    outcomes: Outcomes = json.loads(done.stdout)
    return outcomes


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Outcomes]:
    """The guide at a provider whose first call fails, and which calls the functions it is given."""
    with scripted_providers.running(1, {"gpt-3.5-turbo": "flaky", "gpt-4": "helpful"}) as (address,):
        outcomes = run_guide(address)
        assert [call["status"] for call in scripted_providers.seen_by(address)][:2] == [500, 200]
        yield outcomes


@pytest.mark.parametrize("name", RUN)
def test_a_snippet_runs_as_it_stands(name: str, outcomes: Outcomes) -> None:
    """It raises nothing, and prints what it says it prints."""
    printed, failure = outcomes[name]
    assert failure == ""
    if name in SILENT:
        assert printed == ""
    else:
        assert re.fullmatch(LINES.get(name, r"(?s).*\w.*"), printed), printed


def test_code_that_catches_the_error_catches_it() -> None:
    """At a provider that always fails, `except LLMProxyError` prints it; what is not caught is raised."""
    with scripted_providers.running(1, {"gpt-3.5-turbo": "status-500"}) as (address,):
        outcomes = run_guide(address, "start", "completion", "errors")
    assert outcomes["errors"] == ["LLM Proxy error: The server had an error.\n", ""]
    assert "llm_proxy_service.errors.ProviderError" in outcomes["completion"][1]


def test_the_other_registered_provider_takes_over() -> None:
    """One has reached its limit: the chat of the guide is answered by its second provider."""
    with scripted_providers.running(1, {"gpt-4": "status-429"}) as (address,):
        outcomes = run_guide(address, "start", "providers", "chat", "errors")
        seen = [call["model"] for call in scripted_providers.seen_by(address)]
    assert [failure for _, failure in outcomes.values()] == [""] * 4
    assert seen[:2] == ["gpt-4", "claude-3-sonnet"]


async def test_the_chat_application_on_a_terminal(tmp_path: Path) -> None:
    """Turns, the turns before them, the figures after five of them, and the end."""
    program = tmp_path / "chat.py"
    program.write_text(guide_run.snippets()["application"], encoding="utf-8")
    with scripted_providers.running(1, {}) as (address,):
        terminal = Terminal([str(process_specs.sidecar_python()), str(program)], environment(address))
        await terminal.until("Chat Assistant Ready! (type 'quit' to exit)")
        for turn in range(5):
            await terminal.until("You: ")
            terminal.shown = ""
            terminal.type(json.dumps({"do": "ok", "text": f"Answer {turn}."}))
            await terminal.until(f"Assistant: Answer {turn}.")
        await terminal.until("[Stats] Requests: 5, Cost: $0.00")
        await terminal.until("You: ")
        terminal.type("quit")
        await terminal.until("Goodbye!")
        assert await terminal.exit_code() == 0
        seen = scripted_providers.seen_by(address)
        assert [len(call["body"]["messages"]) for call in seen] == [1, 3, 5, 7, 9]
