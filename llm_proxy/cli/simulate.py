"""`llm-proxy simulate`: recorded calls against changed limits, budgets, model lists or prices.

Invariants: asks the running gateway; nothing is changed and no model is called; `--json` prints nothing else.
"""

import sys
from pathlib import Path
from typing import cast

import click
import yaml

from llm_proxy.cli import nearby
from llm_proxy.cli.printing import WRONG, Column, as_json_option, fail, print_fields, print_json, print_table
from llm_proxy.json_access import Json

PATIENCE_S = 120


@click.command(context_settings={"show_default": True})
@click.option("--since", default="24h", help="2026-11-01, 2026-11-01T12:00Z, 24h, 7d.")
@click.option("--until", default="now", help="The same.")
@as_json_option
@click.option("--url", help="The gateway, such as http://127.0.0.1:7007 [default: the one of the settings].")
@click.argument("rules", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
def simulate(*, since: str, until: str, as_json: bool, url: str | None, rules: Path) -> None:
    """Replay recorded calls against the changes in RULES: how many would be refused, and what they cost.

    RULES is YAML (- for standard input): rules, keys, default_models, prices, as POST /admin/simulate takes
    them. Reads LLM_PROXY__ADMIN_KEY or LLM_PROXY__ADMIN_READ_KEY from the environment, .env or .keys/.
    """
    asked = _read(rules) | {"since": since, "until": until}
    settings = nearby.settings()
    key = settings.admin_read_key or settings.admin_key
    if key is None:
        fail("LLM_PROXY__ADMIN_KEY is not set", WRONG)
    with nearby.gateway(settings, key, url, timeout_s=PATIENCE_S) as client:
        found = nearby.ask(client, "POST", "/admin/simulate", asked)
    if as_json:
        print_json(found)
    else:
        _show(found)


def _read(file: Path) -> Json:
    text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    try:
        document: object = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        fail(f"{file}: not YAML: {' '.join(str(problem).split())[:200]}", WRONG)
    if not isinstance(document, dict):
        fail(f"{file}: expected rules, keys, default_models or prices", WRONG)
    return cast("Json", document)


def _show(found: Json) -> None:
    refusals, whose = found.pop("refused_by"), found.pop("refused_callers")
    told = found.pop("not_replayed")
    print_fields(found)
    for rows, names in (
        (refusals, ("code", "scope", "subject", "kind")),
        (whose, ("key", "tenant", "agent", "user")),
    ):
        if rows:
            click.echo()
            columns: list[Column | str] = [*names, Column("calls", number=True), Column("first", whole=True)]
            print_table(columns, [_row(one, names) for one in rows])
    click.echo(f"\n{told['note']} In it: {told['refused_then_in_sample']}.")


def _row(one: Json, names: tuple[str, ...]) -> list[str]:
    return [*(one[name] or "-" for name in names), str(one["calls"]), one["first_at"][:19]]
