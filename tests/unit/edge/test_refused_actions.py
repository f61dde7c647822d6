"""How many refusals of one admin key get an entry of their own."""

from llm_proxy.edge.routes.audit import PER_HOUR, PER_MINUTE, EntryAllowance


def test_an_allowance_is_by_the_minute_and_by_the_hour() -> None:
    """And counts what found no room."""
    allowance = EntryAllowance()
    taken = [allowance.try_take(7200.0 + second) for second in range(3600) for _ in range(2)]
    first_minute = taken[:120]
    assert sum(first_minute) == PER_MINUTE
    assert sum(taken) == PER_HOUR
    assert allowance.left_out == len(taken) - PER_HOUR
    assert allowance.try_take(10_800.0)
