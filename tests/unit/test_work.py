"""The hot path does no more work than it did: counted bytecodes, not time.

When a change is worth its work, `make work` writes the new counts down, and the commit shows them.
"""

import json

import pytest
from replay import BASELINE, VERSION, Work, count

MOST_GROWTH = 0.03
"""So much more may slip in unnoticed; the rest is decided."""


@pytest.fixture(scope="module")
def now() -> dict[str, Work]:
    return count()


@pytest.mark.skipif(
    VERSION not in json.loads(BASELINE.read_text()), reason="no counts of this Python are kept"
)
@pytest.mark.parametrize("name", next(iter(json.loads(BASELINE.read_text()).values())))
def test_a_request_costs_no_more_work_than_it_did(name: str, now: dict[str, Work]) -> None:
    """Bytecodes of one request through the whole edge, against the counts kept in `tests/work.json`."""
    kept = json.loads(BASELINE.read_text())[VERSION][name]["bytecodes"]
    assert now[name].bytecodes <= kept * (1 + MOST_GROWTH)


def test_the_counts_are_the_same_every_time(now: dict[str, Work]) -> None:
    """Otherwise they would not be worth keeping."""
    assert count() == now
