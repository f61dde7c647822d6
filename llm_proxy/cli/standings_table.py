"""The table of where a key or a call stands at its limits and budgets."""

import json
from collections.abc import Iterable
from datetime import datetime

from llm_proxy.cli.printing import Column, print_table
from llm_proxy.json_access import Json

_COLUMNS = (
    "scope",
    "kind",
    "period",
    Column("limit", number=True),
    Column("used", number=True),
    Column("held", number=True),
    Column("kept", number=True),
    Column("left", number=True),
    "would refuse",
    "resets at",
)


def print_standings(rows: Iterable[Json]) -> None:
    """One line a limit, as `GET /v1/limits` has them; `?` for what nobody knows."""
    print_table(_COLUMNS, [_row(one) for one in rows])


def _row(one: Json) -> tuple[str, ...]:
    names = ("limit", "used", "held", "kept", "remaining")
    figures = (one.get(f"{name}_usd", one.get(name)) for name in names)
    shown = ["?" if figure is None else str(figure) for figure in figures]
    if "held" not in one and "held_usd" not in one:
        shown[2:4] = ["", ""]
    period = one.get("period") or "minute" if one["kind"] != "parallel" else ""
    return (
        str(one["scope"]),
        str(one["kind"]),
        str(period),
        *shown,
        json.dumps(one["would_refuse"]),
        datetime.fromisoformat(ends).isoformat(" ", "minutes") if (ends := one.get("resets_at")) else "",
    )
