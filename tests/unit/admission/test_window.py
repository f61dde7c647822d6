"""Requests in a sliding window."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.admission import memory_limiter

gaps = st.lists(st.integers(0, 30_000), max_size=40)


@given(gaps, st.integers(0, 70_000), st.integers(1, 12))
def test_the_promised_wait_suffices_and_a_millisecond_less_does_not(
    between_ms: list[int], later_ms: int, limit: int
) -> None:
    """After the wait a request fits; 1 ms earlier it did not."""
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
def test_no_window_of_sixty_seconds_holds_more_than_the_limit(between_ms: list[int], limit: int) -> None:
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
