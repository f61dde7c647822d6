"""How failed sign-ins of one address are slowed."""

from llm_proxy.console.sign_in_attempts import BURST, MAX_ADDRESSES, SECONDS_PER_ATTEMPT, SignInThrottle


class Clock:
    """A clock the test sets."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_burst_is_refused_until_its_oldest_attempt_is_forgotten() -> None:
    clock = Clock()
    throttle = SignInThrottle(clock)
    assert [throttle.begin("192.0.2.1") for _ in range(BURST)] == [0] * BURST
    for _ in range(3):  # one that is refused does not count
        assert throttle.begin("192.0.2.1") == SECONDS_PER_ATTEMPT
    assert throttle.begin("192.0.2.2") == 0
    clock.now_s += SECONDS_PER_ATTEMPT
    assert throttle.begin("192.0.2.1") == 0
    assert throttle.begin("192.0.2.1") > 0
    clock.now_s += 2 * BURST * SECONDS_PER_ATTEMPT
    assert [throttle.begin("192.0.2.1") for _ in range(BURST)] == [0] * BURST


def test_a_success_takes_back_itself_alone() -> None:
    """Whoever has one good key does not clear the count of wrong ones with it."""
    throttle = SignInThrottle(Clock())
    for _ in range(BURST - 1):
        throttle.begin("192.0.2.1")
    for _ in range(3):
        assert throttle.begin("192.0.2.1") == 0
        throttle.forget("192.0.2.1")
    throttle.begin("192.0.2.1")
    assert throttle.begin("192.0.2.1") > 0


def test_an_address_of_ipv6_counts_with_its_network() -> None:
    throttle = SignInThrottle(Clock())
    for number in range(BURST):
        throttle.begin(f"2001:db8::{number:x}")
    assert throttle.begin("2001:db8::ffff") > 0
    assert throttle.begin("2001:db8:0:1::1") == 0
    for _ in range(BURST):
        throttle.begin("::ffff:192.0.2.1")
    assert throttle.begin("::ffff:192.0.2.2") == 0


def test_memory_is_bounded() -> None:
    throttle = SignInThrottle(Clock())
    for number in range(MAX_ADDRESSES + 100):
        throttle.begin(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(throttle) == MAX_ADDRESSES
    throttle.begin(None)
    throttle.forget(None)
    assert len(throttle) == MAX_ADDRESSES - 1
