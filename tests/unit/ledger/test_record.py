"""A record that is encoded and decoded is the same record."""

import math
from datetime import UTC
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from usage_records import random_record, record

from llm_proxy.ledger.record import FIELDS, STARTED_FIELDS, decode, encode, lost_row, repair, row_of


@given(st.integers(0, 10**9))
def test_a_decoded_row_equals_the_row(seed: int) -> None:
    """To the microsecond and the nano-dollar, unknown as unknown."""
    row = row_of(random_record(Random(seed)))  # noqa: S311 -- repeatable
    assert decode(encode(row)) == row


@given(st.text(alphabet=st.characters(exclude_categories=())), st.integers())
def test_every_text_and_number_can_be_encoded(text: str, number: int) -> None:
    """What UTF-8 or 64 bits cannot hold is repaired."""
    row = row_of(record(user=text, prompt_tokens=number))
    line = encode(row)
    assert b"\n" not in line
    assert decode(line)[0] == row[0]


def test_repair_changes_only_unacceptable_values() -> None:
    """NUL, lone surrogates and impossible numbers."""
    good = row_of(record(user="ok", streamed=True))
    assert repair(good) == good
    bad = dict(
        zip(FIELDS, repair(row_of(record(user="a\0\udc80", status=10**6, prompt_tokens=-1))), strict=True)
    )
    assert (bad["user"], bad["status"], bad["prompt_tokens"]) == ("a?", None, None)


def test_a_row_of_an_older_version_is_decoded() -> None:
    """Later fields are unknown."""
    row = row_of(record(group_asked="asked", hops="[]", provider_message="why", service_tier="flex"))
    first = FIELDS.index("ttft_ms") + 1
    assert decode(encode(row[:first])) == (*row[:first], *[None] * (len(FIELDS) - first))


def test_a_torn_line_is_no_row() -> None:
    """Whatever a power cut left of it."""
    line = encode(row_of(record()))
    for broken in (line[:-5], b"", b"{}", b"[1]"):
        with pytest.raises(ValueError):  # noqa: PT011 -- any of JSON's own
            decode(broken)


def test_a_started_call_becomes_a_lost_row() -> None:
    """Its owner stays known, its use is unknown; an older version wrote no tags."""
    one = record(run="r-1", tags="a,b")
    opened = {name: getattr(one, name, None) for name in STARTED_FIELDS} | {
        "started_at": one.started_at.timestamp()
    }
    line = encode(tuple(opened[name] for name in STARTED_FIELDS))
    row = dict(zip(FIELDS, lost_row(line), strict=True))
    assert (row["run"], row["tags"]) == ("r-1", "a,b")
    older = encode(tuple(opened[name] for name in STARTED_FIELDS[: STARTED_FIELDS.index("streamed") + 1]))
    assert lost_row(older) == tuple((row | {"run": None, "tags": None}).values())
    assert (row["outcome"], row["usage_source"], row["status"]) == ("lost", "unknown", 0)
    assert (row["key_id"], row["agent"], row["group"]) == (one.key_id, one.agent, one.group)
    assert (row["cost_nano_usd"], row["prompt_tokens"]) == (None, None)
    assert row["started_at"].tzinfo is UTC
    assert math.isclose(row["started_at"].timestamp(), one.started_at.timestamp(), abs_tol=1e-5)


def test_total_tokens_are_the_sum_or_unknown() -> None:
    """Unknown is not 0."""
    assert record().total_tokens == 46
    assert record(completion_tokens=None).total_tokens == 12
    assert record(prompt_tokens=None, completion_tokens=None).total_tokens is None
