"""What clients reported, as a table and as a page; pure."""

from typing import Any

Report = dict[str, Any]

USUAL = (
    "chat",
    "stream",
    "tools",
    "structured",
    "embeddings",
    "models",
    "cancel",
    "400",
    "401",
    "404",
    "429",
    "5xx",
    "once",
)
TASKS = ("task", "parallel", "image", "long", "delegated", "killed", "cut", "compaction")
"""What a coding agent is given on each kind of model; a check is `KIND: TASK`."""

OWN_WAYS = {
    ("LlamaIndex", "once"): "it retries by itself on top of the SDK and does not read `x-should-retry`",
    (
        "Vercel AI SDK",
        "once",
    ): "it retries every 5xx and does not read `x-should-retry`; `maxRetries: 0` turns it off",
}
"""What a client does whatever a server says; not counted as a failure, shown all the same."""

AGENTS = """
Coding agents, not interactively, in a folder of their own; the scripted provider calls their tools.
*native*: a model whose server speaks the agent's own API. *chat only*: one that has chat completions alone.
*the other's*: Codex and Gemini CLI on Claude, Claude Code on GPT. *task*: a file read and another written,
the results back at the model. *parallel*: three calls at once. *image*: a picture that a tool shows arrives
whole. *long*: thirty calls in a row, and two more turns. *delegated*: a task for an agent that it starts.
*killed*: in the middle of an answer; the provider is left, the conversation goes on. *cut*: a provider that
breaks off; the agent asks again. *compaction*: a summary, and on from it.
"""

HEAD = """# Conformance

Made by `make conformance`: real clients, each the newest release on the day its lock file was made, unchanged
but for `base_url` and key, against a running gateway, a real LiteLLM and a scripted provider. Failures are in
the table, not left out.

`✓` holds, `✗` does not, `·` the client has no such thing. *cancel*: a stream left by its reader is left at
the provider too. *400* to *5xx*: the client's own exception class for that status. *once*: a provider's
failure is tried as often as the sidecar's router says (here twice), and no more on top by the client.

*media* and what is listed without a table (`make conformance ARGS=media`): images, audio, moderations,
reranking, and Azure's, Cohere's and Google's spellings.
"""


def table(reports: list[Report]) -> str:
    """One row a client, one column a check."""
    rows = [["client", "version", *USUAL], ["---"] * (len(USUAL) + 2)]
    for report in reports:
        checks: dict[str, str] = report["checks"]
        if any(name in checks for name in USUAL):
            marks = [_mark(checks.get(name)) for name in USUAL]
            rows.append([report["client"], report["version"], *marks])
    return "\n".join([*_lines(rows), *_agents(reports), "", *_suites(reports), *_faults(reports)])


def _lines(rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in rows]


def _agents(reports: list[Report]) -> list[str]:
    """One row an agent and kind of model, one column a task."""
    rows = [["agent", "version", "model", *TASKS], ["---"] * (len(TASKS) + 3)]
    for report in reports:
        checks: dict[str, str] = report["checks"]
        for kind in dict.fromkeys(name.partition(": ")[0] for name in checks if ": " in name):
            marks = [_mark(checks.get(f"{kind}: {task}")) for task in TASKS]
            rows.append([report["client"], report["version"], kind, *marks])
    return [AGENTS, *_lines(rows)] if len(rows) > 2 else []


def page(reports: list[Report], machine: str) -> str:
    """The whole page; `machine` names what the clients ran on."""
    return f"{HEAD}\nRun on {machine}.\n\n{table(reports)}\n"


def _mark(why: str | None) -> str:
    return "·" if why is None else "✗" if why else "✓"


def _suites(reports: list[Report]) -> list[str]:
    lines: list[str] = []
    for report in reports:
        checks = {name: why for name, why in report["checks"].items() if ": " not in name}
        if checks and not any(name in checks for name in USUAL):
            held = sum(not why for why in checks.values())
            name = " ".join(filter(None, (report["client"], report["version"])))
            lines.append(f"* {name}: {held} of {len(checks)} ({', '.join(checks)})")
    return lines


def ours(reports: list[Report]) -> bool:
    """Whether anything failed that is not a client's own way."""
    return any(
        why and (report["client"], name) not in OWN_WAYS
        for report in reports
        for name, why in report["checks"].items()
    )


def _faults(reports: list[Report]) -> list[str]:
    faults: list[str] = []
    for report in reports:
        for name, why in report["checks"].items():
            if why:
                way = OWN_WAYS.get((report["client"], name))
                said = f"{' '.join(why.split())}: {way}" if way else " ".join(why.split())
                faults.append(f"* {report['client']} {report['version']}, {name}: {said}.")
    return ["", "## What does not hold", "", *faults] if faults else []
