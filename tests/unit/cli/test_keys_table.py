"""Keys as a table."""

from datetime import UTC, datetime

import pytest

from llm_proxy.cli.limit_tables import print_keys
from llm_proxy.identity import Budget, KeyRecord, KeySpec, Limits
from llm_proxy.identity.admin_documents import key_document

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def test_a_table_of_keys_is_read_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No word is broken but a long name; the prefix, by which a key is known, stays whole."""
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
