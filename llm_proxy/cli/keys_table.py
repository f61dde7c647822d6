"""Virtual keys as a table that is read at 80 columns."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

Json = dict[str, Any]
_LIMITS = ("rpm", "tpm", "parallel")


def table(keys: Iterable[Json]) -> Table:
    """One line a key, more where it needs them; the prefix is never broken."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("name", "prefix", "acts for", "models", "limits", "state"):
        shown.add_column(name, no_wrap=name in {"prefix", "limits", "state"}, overflow="fold")
    for one in keys:
        prefix = one["prefixes"][0] if one["prefixes"] else "-"
        models = "\n".join(one["models"]) if one["models"] is not None else "default"
        shown.add_row(one["name"], prefix, _whom(one), models or "none", _limits(one), _state(one))
    return shown


def _whom(one: Json) -> str:
    bound = [f"{field} {one[field]}" for field in ("tenant", "agent", "user") if one[field]]
    return "\n".join(bound) or "-"


def _limits(one: Json) -> str:
    said = [f"{one[name]} {name}" for name in _LIMITS if one[name] is not None]
    money = [f"${each['limit_usd']}/{each['period']}" for each in one["budgets"]]
    return "\n".join([*said, *money]) or "-"


def _state(one: Json) -> str:
    if one["revoked_at"]:
        return "revoked"
    ends = one["expires_at"]
    return "expired" if ends and datetime.fromisoformat(ends) <= datetime.now(UTC) else "good"
