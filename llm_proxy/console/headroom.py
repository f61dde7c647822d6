"""The status of limits and budgets, as rows with a bar; the figures are the API's own."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from llm_proxy.json_access import Json

_NEARLY_USED = 0.8
_KINDS = {"requests": "requests a minute", "tokens": "tokens a minute", "parallel": "calls at once"}


@dataclass(frozen=True, slots=True)
class Headroom:
    """One limit or budget.

    Attributes:
        what: What is limited.
        whose: The scope and its subject.
        figures: `None` where they are unknown, or shared and not shown.
        share: Of the limit that is used, from 0 to 1; None while it is unknown or without a limit.
        is_rejecting: Whether the smallest call would be rejected.
    """

    what: str
    whose: str
    unit: str
    limit: str | None
    used: str | None
    held: str | None
    remaining: str | None
    share: float | None
    is_enforced: bool
    is_rejecting: bool
    resets_at: str | None
    exhausted_at: str | None

    @property
    def state(self) -> str:
        """`used up`, `nearly used`, or `ok`; `shadow` for a limit that rejects nothing."""
        if not self.is_enforced:
            return "shadow"
        if self.is_rejecting:
            return "used up"
        return "nearly used" if self.share is not None and self.share >= _NEARLY_USED else "ok"


def headroom_of(rows: Iterable[Json] | None) -> list[Headroom]:
    """Returns rows of `GET /v1/limits` for a table; none while they are unknown."""
    return [_headroom(row) for row in rows or ()]


def _headroom(row: Json) -> Headroom:
    is_budget = row["kind"] == "budget"
    unit = str(row.get("unit") or ("usd" if is_budget else "count"))
    suffix = "_usd" if unit == "usd" else ""
    limit, used, held, remaining = (
        _figure(row.get(f"{name}{suffix}")) for name in ("limit", "used", "held", "remaining")
    )
    return Headroom(
        what=f"budget of a {row.get('period')}" if is_budget else _KINDS.get(row["kind"], str(row["kind"])),
        whose=str(row["subject"] or row["scope"]),
        unit=unit,
        limit=limit,
        used=used,
        held=held,
        remaining=remaining,
        share=_share(limit, used),
        is_enforced=bool(row.get("enforced", True)),
        is_rejecting=bool(row.get("would_refuse")),
        resets_at=row.get("resets_at"),
        exhausted_at=row.get("exhausted_at"),
    )


def _figure(value: object) -> str | None:
    return None if value is None else str(value)


def _share(limit: str | None, used: str | None) -> float | None:
    if limit is None or used is None or not Decimal(limit):
        return None
    return min(float(Decimal(used) / Decimal(limit)), 1.0)
