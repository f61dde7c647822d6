"""Counts of rejected requests: exact, bounded, and idempotent."""

from datetime import datetime
from typing import Any
from uuid import UUID

from llm_proxy.errors import APIError, BadRequest, RateLimited, ReachedLimit, Unauthorized
from llm_proxy.identity import Caller
from llm_proxy.ledger import rejected_requests
from llm_proxy.ledger.rejected_requests import MAX_COUNTERS, OPEN_MINUTES, RejectionCounts

KEY = Caller("key-1", "virtual", "acme", "agent:a")


def at(minute: int, number: int = 0) -> UUID:
    """The id of a request of this minute."""
    return UUID(int=(minute * 60_000 << 80) + number)


def limited(kind: str = "requests") -> APIError:
    """An error by a key's own limit."""
    refused = RateLimited("Full.", retry_after_s=1)
    refused.reached_limit = ReachedLimit(kind, "key", "key key-1", 3, 1, 3)
    return refused


def reported(rows: list[tuple[Any, ...]]) -> dict[tuple[Any, ...], int]:
    """Minute, key, tenant, code and limit, and how often."""
    return {(int(row[0].timestamp()) // 60, *row[1:6]): row[7] for row in rows}


def test_each_minute_key_and_limit_is_counted_separately() -> None:
    """Whatever the key acts for; unknown callers together."""
    counts = RejectionCounts()
    for _ in range(5):
        counts.add(at(10), KEY, limited())
    counts.add(at(10), Caller("key-1", "virtual", "acme", "agent:b"), limited())
    counts.add(at(11), KEY, limited("tokens"))
    counts.add(at(11), KEY, BadRequest("No.", code="bad_thing"))
    counts.add(at(11), None, Unauthorized("Who?"))
    assert reported(counts.pending_rows()) == {
        (10, "key-1", "acme", "rate_limit_exceeded", "key", "requests"): 6,
        (11, "key-1", "acme", "rate_limit_exceeded", "key", "tokens"): 1,
        (11, "key-1", "acme", "bad_thing", "", ""): 1,
        (11, "", "", "invalid_api_key", "", ""): 1,
    }


def test_a_row_is_written_until_its_minute_is_over() -> None:
    """What came during a write is written next; old rows are forgotten, late ones are not lost."""
    counts = RejectionCounts()
    counts.add(at(10), KEY, limited())
    rows = counts.pending_rows()
    counts.add(at(10), KEY, limited())
    counts.mark_written(rows)
    assert [row[7] for row in counts.pending_rows()] == [2]
    counts.mark_written(counts.pending_rows())
    assert counts.pending_rows() == []
    newest = 10 + OPEN_MINUTES + 1
    counts.add(at(newest), KEY, limited())
    counts.mark_written(counts.pending_rows())
    counts.add(at(10), KEY, limited())
    assert reported(counts.pending_rows()) == {
        (newest - OPEN_MINUTES, "key-1", "acme", "rate_limit_exceeded", "key", "requests"): 1
    }


def test_names_chosen_by_callers_add_no_rows() -> None:
    """And memory is bounded, however many keys there are."""
    counts = RejectionCounts()
    for number in range(100):
        counts.add(at(10, number), Caller("internal", "internal", f"t{number}", f"a{number}"), limited())
    assert len(counts.pending_rows()) == 1
    for number in range(MAX_COUNTERS + 50):
        counts.add(at(10), Caller(f"key-{number}", "virtual", "acme"), limited())
    rows = counts.pending_rows()
    assert len(rows) <= MAX_COUNTERS + 1
    assert sum(row[7] for row in rows) == MAX_COUNTERS + 150
    assert isinstance(rows[0][0], datetime)
    assert rejected_requests.minute_of(at(77)) == 77
