"""The limits store of one process: request windows, token windows, and what is forgotten."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.admission import memory_limiter
from llm_proxy.admission.limiter import NO_EPOCH, LimitCheck, LimiterRequest, LimitPlan
from llm_proxy.admission.memory_limiter import (
    SWEEP_INTERVAL,
    TOKEN_WINDOW_MS,
    BudgetCounter,
    MemoryLimiter,
    TokenWindow,
)

gaps = st.lists(st.integers(0, 30_000), max_size=40)


@given(gaps, st.integers(0, 70_000), st.integers(1, 12))
def test_a_request_fits_after_its_wait_and_not_a_millisecond_earlier(
    between_ms: list[int], later_ms: int, limit: int
) -> None:
    """The wait is exact."""
    times, now_ms = _admitted(between_ms, limit)
    now_ms += later_ms
    memory_limiter.forget_requests(times, now_ms)
    wait_ms = memory_limiter.requests_wait_ms(times, now_ms, limit=limit)
    assert memory_limiter.requests_wait_ms(_at(times, now_ms + wait_ms), now_ms + wait_ms, limit=limit) == 0
    if wait_ms:
        assert (
            memory_limiter.requests_wait_ms(
                _at(times, now_ms + wait_ms - 1), now_ms + wait_ms - 1, limit=limit
            )
            == 1
        )


@given(gaps, st.integers(1, 12))
def test_no_60_seconds_have_more_requests_than_the_limit(between_ms: list[int], limit: int) -> None:
    """Wherever the 60 s begin."""
    now_ms, times, all_times = 0, deque[int](), list[int]()
    for gap_ms in between_ms:
        now_ms += gap_ms
        memory_limiter.forget_requests(times, now_ms)
        if memory_limiter.requests_wait_ms(times, now_ms, limit=limit) == 0:
            times.append(now_ms)
            all_times.append(now_ms)
    for begin_ms in all_times:
        inside = [at for at in all_times if begin_ms <= at < begin_ms + memory_limiter.REQUEST_WINDOW_MS]
        assert len(inside) <= limit


def test_an_empty_window_is_reset_and_a_used_one_resets_with_its_newest_request() -> None:
    """The reset is when nothing counts any more."""
    assert memory_limiter.requests_reset_ms(deque(), 5) == 0
    assert memory_limiter.requests_reset_ms(deque([1_000, 2_000]), 3_000) == 59_000


def _admitted(between_ms: list[int], limit: int) -> tuple[deque[int], int]:
    now_ms, times = 0, deque[int]()
    for gap_ms in between_ms:
        now_ms += gap_ms
        memory_limiter.forget_requests(times, now_ms)
        if len(times) < limit:
            times.append(now_ms)
    return times, now_ms


def _at(times: deque[int], now_ms: int) -> deque[int]:
    left = deque(times)
    memory_limiter.forget_requests(left, now_ms)
    return left


takes = st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 50)), max_size=30)


@given(takes, st.integers(50, 120), st.integers(1, 50))
def test_tokens_fit_after_their_wait_and_not_a_second_earlier(
    history: list[tuple[int, int]], limit: int, want: int
) -> None:
    """The wait is exact to the bucket."""
    buckets, now_ms = _filled(history, limit)
    wait_ms = buckets.wait_ms(now_ms, limit=limit, amount=want)
    for early_ms, fits in ((0, True), (1_000, False)):
        at_ms = now_ms + wait_ms - early_ms
        if wait_ms and at_ms >= now_ms:
            later = TokenWindow(dict(buckets.by_second), buckets.total)
            later.forget(at_ms)
            assert later.fits(limit, want) is fits


@given(takes, st.integers(50, 120))
def test_a_single_call_fits_while_any_tokens_are_left(history: list[tuple[int, int]], limit: int) -> None:
    """Only one call's tokens can exceed the limit."""
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
def test_running_calls_reserve_at_most_the_limit(history: list[tuple[int, int]], limit: int) -> None:
    """In any 60 seconds, in any order."""
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
def test_settlements_in_any_order_leave_exactly_what_was_used(order: list[int], truths: list[int]) -> None:
    """And the window empties."""
    buckets = TokenWindow()
    for call in range(6):
        buckets.add(50, call * 700)
    for turn, call in enumerate(order):
        buckets.correct(call * 700 // 1000, truths[call] - 50, 5_000 + turn * 300)
    assert buckets.total == sum(truths) == sum(buckets.by_second.values())
    buckets.forget(10_000 + TOKEN_WINDOW_MS)
    assert (buckets.total, buckets.by_second) == (0, {})


def test_surplus_is_not_returned_to_an_expired_bucket() -> None:
    """It no longer counts."""
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


def test_unused_subjects_are_forgotten() -> None:
    """However many there were."""
    model = MemoryLimiter()
    for number in range(50):
        checks = (
            LimitCheck("requests", "agent", "a", f"r{number}", 5),
            LimitCheck("tokens", "agent", "a", f"t{number}", 5),
            LimitCheck("parallel", "agent", "a", f"p{number}", 5),
        )
        model.reserve(
            LimiterRequest(LimitPlan("t", "{t}", checks, 0), (1, 1, 1), NO_EPOCH, "lease", 30_000), 1_000
        )
        model.seed(f"b{number}", BudgetCounter(1, 2_000))
    assert (
        len(model.request_windows) == len(model.token_windows) == len(model.slots) == len(model.budgets) == 50
    )
    nothing = LimiterRequest(LimitPlan("t", "{t}", (), 0), (), NO_EPOCH, "lease", 30_000)
    for _ in range(SWEEP_INTERVAL):
        model.reserve(nothing, 100_000)
    assert (model.request_windows, model.token_windows, model.slots, model.budgets) == ({}, {}, {}, {})
