"""Every token and every nano-dollar of some thousand calls, compared with what the provider stated.

    make billing-audit CALLS=5000       writes docs/billing_audit.md and .json; exits with 1 if a rule broke

What is compared, and the rules, are in `tests/billing`; the test suite runs a small audit.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from billing.audit import SETTINGS, Size, audit
from billing.plan import MODELS, config
from stack_processes import run_stack

from bench import ROOT, report
from bench.report import Json

EXACT_TEXT = """{exact} records are exact; {inexact} cannot be. {records} records in all, the last of them \
and of the log {caught_up_s} s after the last call ended; {strangers} of calls nobody made."""


def parts(facts: Json) -> dict[str, str]:
    """The measured parts of the page."""
    broken = [f"{count}: {rule}" for rule, count in facts["rules_broken"].items()]
    budgets, found = facts["budgets"], facts["reconcile"]
    (billed, truth), (spent, limit) = budgets["leaving"], budgets["poor"]
    head = ("kind", "source", "calls", "prompt", "completion", "cost")
    groups = ((name, MODELS[name].provider, count) for name, count in facts["groups"].items())
    notes = (f"{count}: {note}" for note, count in facts["notes"].items())
    differences = (f"{count}: {kind}" for kind, count in found["by_kind"].items())
    return {
        "run": "{calls} calls ({streams} of them streams), Postgres killed {kills} times, {seconds} s on "
        "{cores} cores shared with other work (load {load}); seed {seed}.".format_map(facts),
        "rules": report.bullets(broken),
        "budgets": report.bullets(
            [
                *(f"{scope}: {count} budgets" for scope, count in budgets["checked"].items()),
                f"callers who left: {billed} nano-dollars billed for {truth} used",
                f"the budget that is too small: {spent} nano-dollars spent of {limit}",
            ]
        ),
        "exact": EXACT_TEXT.format_map(facts),
        "kinds": report.table(("kind", "calls", "exact"), ((name, *n) for name, n in facts["kinds"].items())),
        "groups": report.table(("group", "LiteLLM's provider", "exact"), groups),
        "notes": report.bullets(notes),
        "errors": report.table(head, map(_error, facts["errors"])),
        "errors after": report.table(head, map(_error, facts["errors_after"])),
        "reconcile": "`llm-proxy reconcile` lists {differences} differences and exits with {exit_code}; "
        "{count} of them are not explained by an estimate. `--apply` made {applied} records exact; "
        "{left} differences were left.\n\n".format_map(found | {"count": len(found["unexplained"])})
        + report.bullets(differences),
        "role": f"The log has {facts['log_rows']} rows, written as `{facts['role']['name']}`, who may "
        f"{', '.join(facts['role']['may'])} and nothing else on the tables that matter.",
    }


def _error(line: Json) -> tuple[object, ...]:
    cells = list[str]()
    for name in ("prompt", "completion", "nano_usd"):
        recorded, truth = line[name]["recorded"], line[name]["truth"]
        off = f" ({(recorded - truth) / truth:+.0%})" if truth and recorded is not None else ""
        cells.append(f"unknown ({truth})" if recorded is None else f"{recorded} for {truth}{off}")
    return line["kind"], line["source"], line["calls"], *cells


def main() -> int:
    """Runs an audit and writes it down."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    flags.add_argument("--calls", type=int, default=5000)
    flags.add_argument("--seed", type=int, default=7)
    flags.add_argument("--sidecars", type=int, default=1)
    flags.add_argument("--at-once", type=int, default=24)
    flags.add_argument("--out", type=Path, default=ROOT / "docs")
    given = flags.parse_args()
    with run_stack(config(), gateways=2, sidecars=given.sidecars, settings=SETTINGS) as stack:
        facts = asyncio.run(audit(stack, Size(given.calls, given.seed, given.at_once)))
    report.write("billing_audit", facts, parts(facts), given.out)
    print("\n".join(parts(facts).values()))
    return 1 if facts["rules_broken"] or facts["reconcile"]["unexplained"] else 0


if __name__ == "__main__":
    sys.exit(main())
