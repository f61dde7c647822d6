"""How many rejected actions of one admin key get an audit entry each."""

from llm_proxy.edge.routes.audit import PER_HOUR, PER_MINUTE, EntryAllowance


def test_entries_are_bounded_by_the_minute_and_by_the_hour() -> None:
    """Actions beyond the bounds are counted as left out."""
    allowance = EntryAllowance()
    accepted = [allowance.try_take(7200.0 + second) for second in range(3600) for _ in range(2)]
    first_minute = accepted[:120]
    assert sum(first_minute) == PER_MINUTE
    assert sum(accepted) == PER_HOUR
    assert allowance.left_out == len(accepted) - PER_HOUR
    assert allowance.try_take(10_800.0)
