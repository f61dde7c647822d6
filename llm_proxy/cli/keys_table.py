"""Virtual keys as rows of a table that is read at 80 columns."""

from collections.abc import Iterable
from datetime import UTC, datetime

from llm_proxy.cli.budgets import words
from llm_proxy.cli.printing import Column, print_table
from llm_proxy.json_access import Json

_LIMITS = ("rpm", "tpm", "parallel")
_COLUMNS = (
    "name",
    Column("prefix", whole=True),
    "acts for",
    "models",
    Column("limits", whole=True),
    Column("state", whole=True),
)


def print_keys(keys: Iterable[Json]) -> None:
    """One line a key, more where it needs them; prefixes and limits are never broken."""
    print_table(_COLUMNS, [_row(one) for one in keys])


def _row(one: Json) -> tuple[str, ...]:
    prefix = one["prefixes"][0] if one["prefixes"] else "-"
    models = "\n".join(one["models"]) if one["models"] is not None else "default"
    return one["name"], prefix, _whom(one), models or "none", limits_text(one), _state(one)


def _whom(one: Json) -> str:
    bound = [f"{field} {one[field]}" for field in ("tenant", "agent", "user") if one[field]]
    return "\n".join(bound) or "-"


def limits_text(one: Json) -> str:
    """Limits and budgets of a key's or a rule's document, a line each."""
    said = [f"{one[name]} {name}" for name in _LIMITS if one[name] is not None]
    return "\n".join([*said, *map(words, one["budgets"])]) or "-"


def _state(one: Json) -> str:
    if one["revoked_at"]:
        return "revoked"
    ends = one["expires_at"]
    return "expired" if ends and datetime.fromisoformat(ends) <= datetime.now(UTC) else "good"
