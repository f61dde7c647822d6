"""A histogram's percentiles are within its stated error, packed and added or not."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.ledger.latency_histogram import MAX_RELATIVE_ERROR, LatencyHistogram

TIMES = st.lists(st.floats(1.0, 3_400_000.0), min_size=1, max_size=60)


def packed(histogram: LatencyHistogram, sign: int = 1) -> int:
    """The number that Postgres would hold."""
    return sum(sign * count * 10 ** (12 * at) for at, count in enumerate(histogram.counts))


def exact(times: list[float], percent: int) -> float:
    """The nearest-rank percentile."""
    return sorted(times)[ceil(len(times) * percent / 100) - 1]


@given(TIMES, st.sampled_from([1, 50, 90, 95, 99, 100]))
def test_a_percentile_is_within_the_stated_error(times: list[float], percent: int) -> None:
    """Of any times from a millisecond to 58 minutes."""
    assert LatencyHistogram.count(times).percentile_ms(percent) == pytest.approx(
        exact(times, percent), rel=MAX_RELATIVE_ERROR + 0.001
    )


@given(TIMES, TIMES)
def test_packed_histograms_add_and_subtract_as_numbers(some: list[float], others: list[float]) -> None:
    """A sum over rows is the histogram of all their calls."""
    together = packed(LatencyHistogram.count(some)) + packed(LatencyHistogram.count(others))
    assert LatencyHistogram.unpack(together).calls == len(some) + len(others)
    assert packed(LatencyHistogram.unpack(together)) == together
    without = LatencyHistogram.unpack(together - packed(LatencyHistogram.count(others)))
    assert packed(without) == packed(LatencyHistogram.count(some))


def test_a_bucket_below_zero_counts_nothing() -> None:
    """A row of a day whose older calls are in no histogram can lose a call that it never had."""
    [lost, kept] = (LatencyHistogram.count([ms]) for ms in (40.0, 900.0))
    assert LatencyHistogram.unpack(packed(lost, -1) + packed(kept)).calls == 1
    assert LatencyHistogram.unpack(packed(kept) + packed(lost, -1)).percentile_ms(50) == pytest.approx(
        900, rel=MAX_RELATIVE_ERROR
    )
    assert LatencyHistogram.unpack(packed(kept, -1)).calls == 0


def test_times_beyond_the_buckets_are_in_the_outermost() -> None:
    """Nothing is lost, and no calls have no percentile."""
    outside = LatencyHistogram.count([0.0, 0.2, 10.0**12])
    assert (outside.calls, outside.counts[0], outside.counts[-1]) == (3, 2, 1)
    assert LatencyHistogram().percentile_ms(95) is None
