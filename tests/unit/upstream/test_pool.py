"""Sidecars: health, ejection, round robin."""

from llm_proxy.upstream.pool import (
    EJECT_AFTER_FAILURES,
    EJECT_MAX_S,
    EJECT_S,
    SidecarPool,
    expand_urls,
)


def pool(n: int = 2, most: int = 10) -> SidecarPool:
    return SidecarPool([f"http://127.0.0.1:{4101 + i}" for i in range(n)], max_in_flight=most)


def test_a_port_range_is_several_sidecars() -> None:
    """`4101-4103` is three; a trailing slash or `/v1` is not part of an address."""
    urls = expand_urls(["http://h:4101-4103", "http://other:9/v1/"])
    assert urls == ("http://h:4101", "http://h:4102", "http://h:4103", "http://other:9")


def test_the_fewest_calls_are_chosen_round_robin_among_equals() -> None:
    """Calls spread evenly, and a busy sidecar waits."""
    both = pool()
    first, second = both.sidecars
    chosen = {both.pick(0.0) for _ in range(4)}
    assert chosen == {first, second}
    first.begin_call(0.0)
    assert all(both.pick(0.0) is second for _ in range(4))


def test_a_refused_connection_marks_down_until_the_next_good_check() -> None:
    """No call is sent there meanwhile."""
    both = pool()
    bad, good = both.sidecars
    bad.mark_down()
    assert all(both.pick(float(at)) is good for at in range(100))
    bad.mark_healthy()
    assert {both.pick(0.0) for _ in range(4)} == {bad, good}


def test_two_missed_checks_mark_down_and_one_does_not() -> None:
    """A sidecar that is busy for a moment stays."""
    one = pool().sidecars[0]
    one.record_miss(1.0)
    assert one.is_live
    one.record_miss(4.0)
    assert not one.is_live
    assert one.silent_since == 1.0
    one.mark_healthy()
    assert one.is_live
    assert one.silent_since is None


def test_a_sidecar_that_sends_data_is_busy_not_silent() -> None:
    """A late check does not count while other data comes from it."""
    one = pool().sidecars[0]
    one.record_miss(1.0)
    one.mark_busy()
    one.record_miss(8.0)
    assert one.is_live
    assert one.silent_since == 8.0


def test_a_burst_of_broken_calls_ejects_and_one_trial_call_brings_back() -> None:
    """Fewer do not; good checks meanwhile do not; a second call waits for the trial's result."""
    both = pool()
    bad, good = both.sidecars
    for _ in range(EJECT_AFTER_FAILURES - 1):
        bad.record_failure(0.0)
    assert bad.is_live
    bad.record_failure(0.0)
    bad.mark_healthy()
    assert all(both.pick(0.5) is good for _ in range(6))
    good.begin_call(0.0)
    later = EJECT_S + 0.1
    assert both.pick(later) is bad
    bad.begin_call(later)
    assert both.pick(later) is good
    bad.record_success()
    assert bad.is_live


def test_a_failed_trial_ejects_for_twice_as_long() -> None:
    """Up to a bound."""
    one = pool().sidecars[0]
    for _ in range(EJECT_AFTER_FAILURES):
        one.record_failure(0.0)
    waited = [one.ejected_until]
    for _ in range(8):
        now = one.ejected_until
        one.begin_call(now)
        one.record_failure(now)
        one.end_call()
        waited.append(one.ejected_until - now)
    assert waited[:3] == [EJECT_S, EJECT_S * 2, EJECT_S * 4]
    assert max(waited) == EJECT_MAX_S


def test_with_no_live_sidecar_the_others_are_tried() -> None:
    """The ejected before the down ones: a pool never gives up by itself."""
    both = pool()
    first, second = both.sidecars
    first.mark_down()
    for _ in range(EJECT_AFTER_FAILURES):
        second.record_failure(0.0)
    assert all(both.pick(0.1) is second for _ in range(4))
    second.mark_down()
    assert {both.pick(0.1) for _ in range(4)} == {first, second}


def test_a_full_pool_picks_none() -> None:
    """Beyond the bound calls wait."""
    one = pool(1, most=1)
    one.sidecars[0].begin_call(0.0)
    assert one.pick(0.0) is None


def test_a_sidecar_already_tried_is_not_picked_again() -> None:
    """A sidecar that refused a call is not tried a second time for it."""
    both = pool()
    first, second = both.sidecars
    assert all(both.pick(0.0, [first]) is second for _ in range(4))
    assert both.pick(0.0, [first, second]) is None
