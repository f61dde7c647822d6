"""Budgets as text (`5/day`, `1000requests/day`), options of limits, tables of keys and of limit status.

Invariants: `parse_budget` reads what `format_budget` writes; key prefixes and limits are never broken.
"""

import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import get_args

import click

from llm_proxy.cli.printing import Column, print_table, time_text, to_text
from llm_proxy.identity.caller import BudgetUnit, Period
from llm_proxy.json_access import Json

BUDGET_FORM = "AMOUNT/PERIOD"
BUDGET_EXAMPLES = (
    "5/day, 100/month or 1000/total (US dollars), 1000requests/day, 20images/day (also tokens, "
    "audio_seconds, characters, search_units), 5/day@Europe/Berlin; of runs 5/total, 100turns/total"
)
_COUNTED_UNITS = "|".join(unit for unit in get_args(BudgetUnit) if unit != "usd")
_BUDGET_PATTERN = re.compile(
    r"\$?(?P<amount>[0-9]{1,20}(?:\.[0-9]{1,40})?)"
    rf"(?P<unit>{_COUNTED_UNITS})?"
    rf"/(?P<period>{'|'.join(get_args(Period))})(?:@(?P<zone>[A-Za-z0-9_/+-]+))?"
)


def parse_budget(text: str) -> Json | None:
    """Returns a budget's document; None if `text` is no budget."""
    found = _BUDGET_PATTERN.fullmatch(text)
    if found is None:
        return None
    unit, amount = found["unit"], found["amount"]
    if unit and "." in amount:
        return None
    limit: Json = {f"limit_{unit}": int(amount)} if unit else {"limit_usd": amount}
    return limit | {"period": found["period"]} | ({"zone": found["zone"]} if found["zone"] else {})


def format_budget(budget: Json) -> str:
    """Returns a budget's document as text."""
    zone = f"@{budget['zone']}" if budget.get("zone") else ""
    amount = f"${budget['limit_usd']}" if "limit_usd" in budget else ""
    for unit in get_args(BudgetUnit)[1:]:
        if f"limit_{unit}" in budget:
            amount = f"{budget[f'limit_{unit}']}{unit}"
    return f"{amount}/{budget['period']}{zone}"


def parse_guard_options(mode: str | None, options: Iterable[str]) -> Json:
    """Returns the field `loop_guard` of a limit policy, from its mode and options; or nothing."""
    given: Json = {} if mode is None else {"mode": mode}
    for option in options:
        name, found, value = option.partition("=")
        if not found:
            raise click.BadParameter(f"{option!r} is not NAME=VALUE.", param_hint="'--guard-option'")
        known: Json = {"true": True, "false": False}
        given[name] = int(value) if value.isdecimal() else known.get(value, value)
    return {"loop_guard": given} if given else {}


def limit_options(of: Callable[..., None]) -> Callable[..., None]:
    """Adds the options --rpm, --tpm and --parallel."""
    for name, counted in (
        ("parallel", "Requests at once"),
        ("tpm", "Tokens a minute"),
        ("rpm", "Requests a minute"),
    ):
        of = click.option(f"--{name}", type=int, help=f"{counted}; 0 for no limit.")(of)
    return of


_STATUS_COLUMNS = (
    "scope",
    "kind",
    "period",
    Column("limit", number=True),
    Column("used", number=True),
    Column("held", number=True),
    Column("kept", number=True),
    Column("left", number=True),
    "would reject",
    "resets at",
)


def print_limit_status(rows: Iterable[Json]) -> None:
    """Prints one line a limit, from rows of `GET /v1/limits`; `?` for an unknown number."""
    print_table(_STATUS_COLUMNS, [_status_row(one) for one in rows])


def _status_row(one: Json) -> tuple[str, ...]:
    names = ("limit", "used", "held", "kept", "remaining")
    numbers = (one.get(f"{name}_usd", one.get(name)) for name in names)
    cells = ["?" if number is None else str(number) for number in numbers]
    if "held" not in one and "held_usd" not in one:
        cells[2:4] = ["", ""]
    period = one.get("period") or ("minute" if one["kind"] in {"requests", "tokens"} else "")
    return (
        str(one["scope"]),
        f"{one['kind']} {one.get('unit', '')}".strip().replace("_", " "),
        str(period),
        *cells,
        "?" if one["would_refuse"] is None else to_text(one["would_refuse"]),
        datetime.fromisoformat(ends).isoformat(" ", "minutes") if (ends := one.get("resets_at")) else "",
    )


_LIMIT_FIELDS = ("rpm", "tpm", "parallel")
_KEY_COLUMNS = (
    "name",
    Column("prefix", unbroken=True),
    "acts for",
    "models",
    Column("limits", unbroken=True),
    Column("state", unbroken=True),
)


def print_keys(keys: Iterable[Json]) -> None:
    """Prints one line a key, more if it has several models or limits."""
    print_table(_KEY_COLUMNS, [_key_row(one) for one in keys])


def _key_row(one: Json) -> tuple[str, ...]:
    prefix = one["prefixes"][0] if one["prefixes"] else "-"
    models = "\n".join(one["models"]) if one["models"] is not None else "default"
    return one["name"], prefix, _acts_for(one), models or "none", format_limits(one), _key_state(one)


_TIMES_OF_KEY = ("expires_at", "created_at", "changed_at", "revoked_at")


def key_fields(one: Json) -> Json:
    """Returns a key's document with its budgets, times and raise as text, for `print_fields`."""
    raised: Json | None = one.get("raise")
    shown = one | {name: time_text(one[name]) for name in _TIMES_OF_KEY if one.get(name)}
    shown["budgets"] = [format_budget(budget) for budget in one["budgets"]]
    del shown["raise"]
    if raised:
        shown["raised limits"] = format_limits(raised).replace("\n", ", ")
        shown["raise ends"] = f"{time_text(raised['until'])}; then the limits above hold again"
    return shown


def _acts_for(one: Json) -> str:
    bound = [f"{field} {one[field]}" for field in ("tenant", "agent", "user") if one[field]]
    return "\n".join(bound) or "-"


def format_limits(one: Json) -> str:
    """Limits and budgets of a key's or a limit policy's document, a line each."""
    limits = [f"{one[name]} {name}" for name in (*_LIMIT_FIELDS, "duration_s") if one.get(name) is not None]
    shares = [f"{name} {one[name]}" for name in ("weight", "priority") if one.get(name) is not None]
    guard: Json = one.get("loop_guard") or {}
    guarded = [f"loop guard {' '.join(_guard_words(guard))}"] if guard else []
    return "\n".join([*limits, *map(format_budget, one["budgets"]), *shares, *guarded]) or "-"


def _guard_words(guard: Json) -> Iterable[str]:
    for name, value in guard.items():
        yield str(value) if name == "mode" else f"{name}={json.dumps(value)}"


def _key_state(one: Json) -> str:
    if one["revoked_at"]:
        return "revoked"
    ends = one["expires_at"]
    return "expired" if ends and datetime.fromisoformat(ends) <= datetime.now(UTC) else "good"
