"""Counts of refusals: exact, bounded, and the same however often they are written."""

from datetime import datetime
from typing import Any
from uuid import UUID

from llm_proxy.errors import BadRequest, RateLimited, ReachedLimit, Refused, Unauthorized
from llm_proxy.identity import Caller
from llm_proxy.ledger import rejected_requests
from llm_proxy.ledger.rejected_requests import KEPT_MINUTES, MOST, RefusalCounts

KEY = Caller("key-1", "virtual", "acme", "agent:a")


def at(minute: int, number: int = 0) -> UUID:
    """The id of a request of this minute."""
    return UUID(int=(minute * 60_000 << 80) + number)


def limited(kind: str = "requests") -> Refused:
    """A refusal by a key's own limit."""
    refused = RateLimited("Full.", retry_after_s=1)
    refused.reached = ReachedLimit(kind, "key", "key key-1", 3, 1, 3)
    return refused


def told(rows: list[tuple[Any, ...]]) -> dict[tuple[Any, ...], int]:
    """Minute, key, tenant, code and limit, and how often."""
    return {(int(row[0].timestamp()) // 60, *row[1:6]): row[7] for row in rows}


def test_each_minute_key_and_limit_is_counted_apart() -> None:
    """Whoever a key says it acts for; strangers together."""
    counts = RefusalCounts()
    for _ in range(5):
        counts.add(at(10), KEY, limited())
    counts.add(at(10), Caller("key-1", "virtual", "acme", "agent:b"), limited())
    counts.add(at(11), KEY, limited("tokens"))
    counts.add(at(11), KEY, BadRequest("No.", code="bad_thing"))
    counts.add(at(11), None, Unauthorized("Who?"))
    assert told(counts.changed()) == {
        (10, "key-1", "acme", "rate_limit_exceeded", "key", "requests"): 6,
        (11, "key-1", "acme", "rate_limit_exceeded", "key", "tokens"): 1,
        (11, "key-1", "acme", "bad_thing", "", ""): 1,
        (11, "", "", "invalid_api_key", "", ""): 1,
    }


def test_a_row_holds_all_of_its_minute_and_is_written_until_it_grows_no_more() -> None:
    """What came while it was written is written next; old rows are forgotten, late ones never lost."""
    counts = RefusalCounts()
    counts.add(at(10), KEY, limited())
    rows = counts.changed()
    counts.add(at(10), KEY, limited())
    counts.written(rows)
    assert [row[7] for row in counts.changed()] == [2]
    counts.written(counts.changed())
    assert counts.changed() == []
    newest = 10 + KEPT_MINUTES + 1
    counts.add(at(newest), KEY, limited())
    counts.written(counts.changed())
    counts.add(at(10), KEY, limited())
    assert told(counts.changed()) == {
        (newest - KEPT_MINUTES, "key-1", "acme", "rate_limit_exceeded", "key", "requests"): 1
    }


def test_names_that_callers_choose_add_no_rows_and_memory_is_bounded() -> None:
    """A secret that may name any tenant; and more keys than are kept apart."""
    counts = RefusalCounts()
    for number in range(100):
        counts.add(at(10, number), Caller("internal", "internal", f"t{number}", f"a{number}"), limited())
    assert len(counts.changed()) == 1
    for number in range(MOST + 50):
        counts.add(at(10), Caller(f"key-{number}", "virtual", "acme"), limited())
    rows = counts.changed()
    assert len(rows) <= MOST + 1
    assert sum(row[7] for row in rows) == MOST + 150
    assert isinstance(rows[0][0], datetime)
    assert rejected_requests.minute_of(at(77)) == 77
