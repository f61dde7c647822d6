"""Tokens in a sliding window of one-second buckets: at most so many in any 60 s.

Pure; `admit.lua` does the same inside the store. Invariants: a bucket counts until its last moment is 60 s
old, so the window is never shorter than promised and at most 1 s longer; the sum is that of the buckets.
Units: integer milliseconds and tokens.
"""

from dataclasses import dataclass, field

SPAN_MS = 61_000
"""From a bucket's first moment until it counts no more: its own second and the window."""
POLITE_MS = 2_000


@dataclass(slots=True)
class Buckets:
    """The tokens of one scope, by the second they were counted in.

    Attributes:
        holds: What running calls have reserved of them, and until when that counts, by lease.
    """

    by_second: dict[int, int] = field(default_factory=dict[int, int])
    total: int = 0
    holds: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])

    def forget(self, now_ms: int) -> None:
        """Drop the buckets, and the reservations, that no longer count."""
        for lease in [lease for lease, (_, until_ms) in self.holds.items() if until_ms <= now_ms]:
            del self.holds[lease]
        for second in [at for at in self.by_second if not counts(at, now_ms)]:
            self.total -= self.by_second.pop(second)

    def take(self, tokens: int, now_ms: int) -> None:
        """Count tokens now."""
        second = now_ms // 1000
        self.by_second[second] = self.by_second.get(second, 0) + tokens
        self.total += tokens

    def correct(self, second: int, tokens: int, now_ms: int) -> None:
        """Settle: what was too much leaves the bucket it was reserved in, what was too little counts now."""
        if tokens > 0:
            self.take(tokens, now_ms)
        elif counts(second, now_ms) and second in self.by_second:
            self.by_second[second] += tokens
            self.total += tokens

    def fits(self, limit: int, want: int) -> bool:
        """Whether `want` more may be taken: they are left, or some are and no running call holds any."""
        return self.total + want <= limit or (not self.holds and self.total < limit)

    def wait_ms(self, now_ms: int, *, limit: int, want: int) -> int:
        """How long until `want` more fit, 0 when they fit now; `want` is at most `limit`.

        What running calls hold may come free at any time, so where only that is missing the wait is a guess.
        """
        if self.fits(limit, want):
            return 0
        need = self.total + (want if self.holds else 1) - limit
        if need <= sum(amount for amount, _ in self.holds.values()):
            return POLITE_MS
        for second in sorted(self.by_second):
            need -= self.by_second[second]
            if need <= 0:
                return second * 1000 + SPAN_MS - now_ms
        return SPAN_MS

    def reset_ms(self, now_ms: int) -> int:
        """How long until nothing counts any more."""
        return max(self.by_second) * 1000 + SPAN_MS - now_ms if self.by_second else 0


def counts(second: int, now_ms: int) -> bool:
    """Whether a bucket still counts."""
    return second * 1000 + SPAN_MS > now_ms
