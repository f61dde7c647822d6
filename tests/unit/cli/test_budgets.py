"""Budgets as the command line writes them."""

from typing import Any

import pytest

from llm_proxy.cli.limit_tables import format_budget, parse_budget

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("5/day", {"limit_usd": "5", "period": "day"}),
        ("$0.25/month", {"limit_usd": "0.25", "period": "month"}),
        ("1000requests/day", {"limit_requests": 1000, "period": "day"}),
        ("7tokens/total", {"limit_tokens": 7, "period": "total"}),
        ("5/day@Europe/Berlin", {"limit_usd": "5", "period": "day", "zone": "Europe/Berlin"}),
    ],
)
def test_a_budget_is_read_and_written_alike(text: str, budget: Json) -> None:
    """In every unit, with its zone."""
    assert parse_budget(text) == budget
    assert parse_budget(format_budget(budget)) == budget


@pytest.mark.parametrize(
    "text", ["", "5", "5/year", "1.5requests/day", "-1/day", "5eur/day", "5/day@", "\u0665/day"]
)
def test_anything_else_is_no_budget(text: str) -> None:
    """Nothing is guessed."""
    assert parse_budget(text) is None
