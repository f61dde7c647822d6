"""Tokens in a sliding window of one-second buckets."""

from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.admission.memory_limiter import TOKEN_WINDOW_MS, TokenWindow

takes = st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 50)), max_size=30)


@given(takes, st.integers(50, 120), st.integers(1, 50))
def test_the_promised_wait_suffices_and_a_second_less_does_not(
    history: list[tuple[int, int]], limit: int, want: int
) -> None:
    """After the wait the tokens fit; a whole second earlier they did not."""
    buckets, now_ms = _filled(history, limit)
    wait_ms = buckets.wait_ms(now_ms, limit=limit, amount=want)
    for early_ms, fits in ((0, True), (1_000, False)):
        at_ms = now_ms + wait_ms - early_ms
        if wait_ms and at_ms >= now_ms:
            later = TokenWindow(dict(buckets.by_second), buckets.total)
            later.forget(at_ms)
            assert later.fits(limit, want) is fits


@given(takes, st.integers(50, 120))
def test_a_call_alone_goes_only_while_some_of_the_window_is_left(
    history: list[tuple[int, int]], limit: int
) -> None:
    """Buckets round the window up, never down; what one call uses beyond the limit is all that can be."""
    now_ms, buckets, taken = 0, TokenWindow(), list[tuple[int, int]]()
    for gap_ms, tokens in history:
        now_ms += gap_ms
        buckets.forget(now_ms)
        if buckets.wait_ms(now_ms, limit=limit, amount=tokens) == 0:
            buckets.add(tokens, now_ms)
            taken.append((now_ms, tokens))
    for number, (at_ms, _) in enumerate(taken):
        assert sum(n for earlier_ms, n in taken[:number] if earlier_ms > at_ms - 60_000) < limit


@given(takes, st.integers(50, 120))
def test_calls_that_run_together_reserve_no_more_than_the_limit(
    history: list[tuple[int, int]], limit: int
) -> None:
    """In any 60 seconds, whoever came first."""
    now_ms, buckets, taken = 0, TokenWindow(), list[tuple[int, int]]()
    for number, (gap_ms, tokens) in enumerate(history):
        now_ms += gap_ms
        buckets.forget(now_ms)
        if buckets.wait_ms(now_ms, limit=limit, amount=tokens) == 0:
            buckets.add(tokens, now_ms)
            buckets.reservations[str(number)] = tokens, now_ms + TOKEN_WINDOW_MS
            taken.append((now_ms, tokens))
    for begin_ms, _ in taken:
        assert sum(n for at, n in taken if begin_ms <= at < begin_ms + 60_000) <= limit


@given(st.permutations(range(6)), st.lists(st.integers(0, 100), min_size=6, max_size=6))
def test_reserved_and_settled_never_drift_whatever_the_order_of_ends(
    order: list[int], truths: list[int]
) -> None:
    """When all have ended the sum is that of the truth, and it empties."""
    buckets = TokenWindow()
    for call in range(6):
        buckets.add(50, call * 700)
    for turn, call in enumerate(order):
        buckets.correct(call * 700 // 1000, truths[call] - 50, 5_000 + turn * 300)
    assert buckets.total == sum(truths) == sum(buckets.by_second.values())
    buckets.forget(10_000 + TOKEN_WINDOW_MS)
    assert (buckets.total, buckets.by_second) == (0, {})


def test_what_was_too_much_is_not_returned_to_a_bucket_that_counts_no_more() -> None:
    """A refund comes too late for a bucket that is gone."""
    buckets = TokenWindow()
    buckets.add(10, 0)
    buckets.forget(TOKEN_WINDOW_MS)
    buckets.correct(0, -10, TOKEN_WINDOW_MS)
    assert buckets.total == 0
    assert buckets.reset_ms(TOKEN_WINDOW_MS) == 0


def _filled(history: list[tuple[int, int]], limit: int) -> tuple[TokenWindow, int]:
    now_ms, buckets = 0, TokenWindow()
    for gap_ms, tokens in history:
        now_ms += gap_ms
        buckets.forget(now_ms)
        if buckets.total + tokens <= limit:
            buckets.add(tokens, now_ms)
    return buckets, now_ms
