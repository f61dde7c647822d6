"""Which sidecar a call goes to."""

from llm_proxy.upstream.pool import BURST, EJECT_S, Pool, expand


def pool(n: int = 2, most: int = 10) -> Pool:
    return Pool([f"http://127.0.0.1:{4101 + i}" for i in range(n)], max_in_flight=most)


def test_a_port_range_is_several_sidecars() -> None:
    """`4101-4103` means three; a trailing slash or `/v1` is not part of an address."""
    urls = expand(["http://h:4101-4103", "http://other:9/v1/"])
    assert urls == ("http://h:4101", "http://h:4102", "http://h:4103", "http://other:9")


def test_the_fewest_in_flight_is_chosen_and_equals_take_turns() -> None:
    """Calls spread evenly, and a busy sidecar waits."""
    both = pool()
    first, second = both.sidecars
    chosen = {both.pick(0.0) for _ in range(4)}
    assert chosen == {first, second}
    first.take(0.0)
    assert all(both.pick(0.0) is second for _ in range(4))


def test_a_refused_connection_ejects_at_once_and_a_good_answer_brings_back() -> None:
    """Ejected for a while, tried once when it is over, back when it answers."""
    both = pool()
    bad, good = both.sidecars
    bad.failed(0.0, fatal=True)
    assert all(both.pick(0.5) is good for _ in range(6))
    good.take(0.0)
    later = EJECT_S + 0.1
    assert both.pick(later) is bad
    bad.take(later)
    assert both.pick(later) is good
    bad.succeeded()
    assert bad.live


def test_only_a_burst_of_failures_ejects() -> None:
    """One broken answer is not a broken sidecar."""
    both = pool()
    one = both.sidecars[0]
    for _ in range(BURST - 1):
        one.failed(0.0, fatal=False)
    assert one.live
    one.failed(0.0, fatal=False)
    assert not one.live


def test_with_everyone_ejected_the_one_due_first_is_tried() -> None:
    """A pool never gives up by itself."""
    both = pool()
    first, second = both.sidecars
    first.failed(0.0, fatal=True)
    second.failed(0.5, fatal=True)
    assert both.pick(0.6) is first


def test_a_full_pool_gives_nobody() -> None:
    """Beyond the bound the caller waits its turn."""
    one = pool(1, most=1)
    one.sidecars[0].take(0.0)
    assert one.pick(0.0) is None
