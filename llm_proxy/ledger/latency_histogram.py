"""A histogram of milliseconds, as the roll-ups hold it, and its percentiles.

Pure. Invariants: four buckets double the time, so that a percentile is within `MAX_RELATIVE_ERROR` of the
exact one from 1 ms to 58 minutes. Packed, a histogram is one integer, twelve decimal digits a bucket, so that
histograms add and subtract as integers do. Buckets are those of the SQL
function `latency_bucket` (migration 034).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, log2
from typing import Self

_PER_DOUBLING = 4
_BUCKETS = 88
_RADIX = 10**12
_GROWTH: float = 2 ** (1 / _PER_DOUBLING)
MAX_RELATIVE_ERROR = (_GROWTH - 1) / (_GROWTH + 1)
"""Of a percentile against the exact one: 8.7 %."""


@dataclass(frozen=True, slots=True)
class LatencyHistogram:
    """Counts of calls by bucket of their time, the shortest first; trailing zeros may be missing."""

    counts: tuple[int, ...] = ()

    @classmethod
    def unpack(cls, packed: int) -> Self:
        """Returns the histogram of a packed sum.

        A bucket below zero, as in a day of which not every call is counted, counts nothing.
        """
        counts: list[int] = []
        rest = packed
        while rest and len(counts) < _BUCKETS:
            rest, count = divmod(rest, _RADIX)
            if count > _RADIX // 2:  # borrowed from the next bucket
                count, rest = count - _RADIX, rest + 1
            counts.append(max(0, count))
        return cls(tuple(counts))

    @classmethod
    def count(cls, times_ms: Iterable[float]) -> Self:
        """Returns the histogram of these times."""
        counts = [0] * _BUCKETS
        for ms in times_ms:
            counts[min(_BUCKETS - 1, floor(_PER_DOUBLING * log2(max(ms, 1.0))))] += 1
        return cls(tuple(counts))

    @property
    def calls(self) -> int:
        """The number of calls that are counted."""
        return sum(self.counts)

    def percentile_ms(self, percent: int) -> float | None:
        """Returns the percentile by nearest rank, the middle of its bucket; None without calls."""
        wanted, seen = ceil(self.calls * percent / 100), 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                middle = 2 * _GROWTH ** (bucket + 1) / (_GROWTH + 1)
                return round(middle, 3)
        return None


NO_LATENCIES = LatencyHistogram()
