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
OWN_WAYS = {
    ("LlamaIndex", "once"): "it retries by itself on top of the SDK and does not read `x-should-retry`",
    (
        "Vercel AI SDK",
        "once",
    ): "it retries every 5xx and does not read `x-should-retry`; `maxRetries: 0` turns it off",
}
"""What a client does whatever a server says; not counted as a failure, shown all the same."""

HEAD = """# Conformance

Made by `make conformance`: real clients, each the newest release on the day its lock file was made, unchanged
but for `base_url` and key, against a running gateway, a real LiteLLM and a scripted provider. Failures are in
the table, not left out.

`✓` holds, `✗` does not, `·` the client has no such thing. *cancel*: a stream left by its reader is left at
the provider too. *400* to *5xx*: the client's own exception class for that status. *once*: a provider's
failure is tried as often as the sidecar's router says (here twice), and no more on top by the client.
"""


def table(reports: list[Report]) -> str:
    """One row a client, one column a check."""
    rows = [["client", "version", *USUAL], ["---"] * (len(USUAL) + 2)]
    for report in reports:
        checks: dict[str, str] = report["checks"]
        if any(name in checks for name in USUAL):
            marks = [_mark(checks.get(name)) for name in USUAL]
            rows.append([report["client"], report["version"], *marks])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *_suites(reports), *_faults(reports)])


def page(reports: list[Report], machine: str) -> str:
    """The whole page; `machine` names what the clients ran on."""
    return f"{HEAD}\nRun on {machine}.\n\n{table(reports)}\n"


def _mark(why: str | None) -> str:
    return "·" if why is None else "✗" if why else "✓"


def _suites(reports: list[Report]) -> list[str]:
    lines: list[str] = []
    for report in reports:
        checks: dict[str, str] = report["checks"]
        if not any(name in checks for name in USUAL):
            held = sum(not why for why in checks.values())
            lines.append(
                f"* {report['client']} {report['version']}: {held} of {len(checks)} ({', '.join(checks)})"
            )
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
