"""Budgets as text, and the table of keys."""

from datetime import UTC, datetime

import pytest

from llm_proxy.cli.limit_tables import format_budget, key_fields, parse_budget, print_keys
from llm_proxy.cli.printing import print_fields
from llm_proxy.identity import Budget, KeyRecord, KeySpec, Limits
from llm_proxy.identity.admin_documents import key_document
from llm_proxy.identity.virtual_keys import KeyRaise
from llm_proxy.json_access import Json

NOW = datetime(2026, 11, 1, tzinfo=UTC)
DAILY = Budget(5 * 10**9, "day")


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("5/day", {"limit_usd": "5", "period": "day"}),
        ("$0.25/month", {"limit_usd": "0.25", "period": "month"}),
        ("1000requests/day", {"limit_requests": 1000, "period": "day"}),
        ("7tokens/total", {"limit_tokens": 7, "period": "total"}),
        ("20images/day", {"limit_images": 20, "period": "day"}),
        ("3600audio_seconds/month", {"limit_audio_seconds": 3600, "period": "month"}),
        ("9characters/week", {"limit_characters": 9, "period": "week"}),
        ("1search_units/total", {"limit_search_units": 1, "period": "total"}),
        ("5/day@Europe/Berlin", {"limit_usd": "5", "period": "day", "zone": "Europe/Berlin"}),
    ],
)
def test_a_budget_is_parsed_and_formatted_alike(text: str, budget: Json) -> None:
    """In every unit, with its zone."""
    assert parse_budget(text) == budget
    assert parse_budget(format_budget(budget)) == budget


@pytest.mark.parametrize(
    "text", ["", "5", "5/year", "1.5requests/day", "-1/day", "5eur/day", "5/day@", "\u0665/day"]
)
def test_anything_else_is_no_budget(text: str) -> None:
    """Nothing is guessed."""
    assert parse_budget(text) is None


def test_a_table_of_keys_is_read_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a long name is broken, never the prefix that identifies the key."""
    spec = KeySpec(
        "nightly-summaries-of-all", "acme-europe", "agent:summaries", "ann", ("gpt-4o-mini", "claude-*"),
        Limits(60, 100_000, 4), (Budget(5 * 10**9, "day"), Budget(100 * 10**9, "month")),
    )  # fmt: skip
    plain = KeySpec("n")
    records = [
        KeyRecord("key_1", spec, NOW, NOW, None, ("sk-llmp-abcdefghijkl",)),
        KeyRecord("key_2", plain, NOW, NOW, NOW, ("sk-llmp-mnopqrstuvwx",)),
    ]
    monkeypatch.setenv("COLUMNS", "80")
    print_keys(key_document(one) for one in records)
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 80
    words = text.split()
    for word in ("sk-llmp-abcdefghijkl", "sk-llmp-mnopqrstuvwx", "claude-*", "$5/day", "revoked"):
        assert word in words
    for pair in ("60 rpm", "100000 tpm", "4 parallel"):
        assert pair in text


def test_a_key_is_shown_with_its_budgets_times_and_raise_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    """No JSON, no fractions of a second; a raise says when it ends."""
    spec = KeySpec("ben", "acme", models=("smollm2", "gpt-*"), limits=Limits(60), budgets=(DAILY,))
    until = datetime(2026, 11, 3, 12, 30, 1, 500, UTC)
    raised = KeyRaise(Limits(None, 9000), (Budget(100 * 10**9, "day"),), until)
    record = KeyRecord("key_1", spec, NOW, NOW, None, ("sk-llmp-one",), raised)
    print_fields(key_fields(key_document(record)))
    assert [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()] == [
        ["id", "key_1"],
        ["name", "ben"],
        ["tenant", "acme"],
        ["models", "smollm2, gpt-*"],
        ["rpm", "60"],
        ["budgets", "$5/day"],
        ["cache", "yes"],
        ["prefixes", "sk-llmp-one"],
        ["created_at", "2026-11-01 00:00:00 UTC"],
        ["changed_at", "2026-11-01 00:00:00 UTC"],
        ["raised", "limits  9000 tpm, $100/day"],
        ["raise", "ends     2026-11-03 12:30:01 UTC; then the limits above hold again"],
    ]
