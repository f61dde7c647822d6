"""Timeouts of a call, by its model group."""

from llm_proxy.call_guard import StatedTimeouts, Timeouts
from llm_proxy.settings import Settings
from llm_proxy.upstream import timeout_policy


def settings(**said: object) -> Settings:
    """Settings with these timeouts."""
    return Settings(**({"database_url": None} | said))  # type: ignore[arg-type]  # pydantic reads them


def test_a_group_without_timeouts_of_its_own_has_the_defaults() -> None:
    """Those of the three settings."""
    found = timeout_policy(settings(first_byte_timeout_s=7, idle_timeout_s=8, total_timeout_s=9))
    assert found.for_group("anything") == Timeouts(7, 8, 9)


def test_the_first_matching_pattern_decides_and_the_rest_is_default() -> None:
    """A slow model may take longer to begin, not to be silent."""
    said = {"slow-1": {"first_byte_s": 300}, "slow-*": {"first_byte_s": 200, "total_s": 900}}
    found = timeout_policy(settings(deadlines=said))
    assert found.for_group("slow-1") == Timeouts(300, 60, 600)
    assert found.for_group("slow-2") == Timeouts(200, 60, 900)
    assert found.for_group("quick") == Timeouts()


def test_the_sidecar_s_file_lengthens_what_no_operator_chose() -> None:
    """Its silence moves the first byte and the total; a setting or a pattern of the gateway's is obeyed."""
    file = StatedTimeouts(605, 95)
    found = timeout_policy(settings(), lambda group: file if group == "slow" else None)
    assert found.for_group("slow") == Timeouts(605, 95, 1085)
    assert found.for_group("quick") == Timeouts()
    assert found.total_s("slow", 10_000) == 1085
    chosen = settings(first_byte_timeout_s=7, deadlines={"slow": {"total_s": 30}})
    assert timeout_policy(chosen, lambda _: file).for_group("slow") == Timeouts(7, 95, 30)
    assert timeout_policy(settings(), lambda _: StatedTimeouts(1, 1)).for_group("any") == Timeouts()


def test_a_caller_may_ask_for_less_never_for_more() -> None:
    """`X-Request-Timeout` is clamped to the group's own total."""
    found = timeout_policy(settings(deadlines={"slow": {"total_s": 900}}))
    assert found.total_s("quick", None) == 600
    assert found.total_s("quick", 5) == 5
    assert found.total_s("quick", 10_000) == 600
    assert found.total_s("slow", 10_000) == 900
