"""Rejections by exhausted windows, repeated without the store."""

from dataclasses import replace

from llm_proxy.admission.exhausted_cache import ExhaustedWindows
from llm_proxy.admission.limiter import (
    NO_EPOCH,
    REJECTED,
    LimitCheck,
    LimiterRequest,
    LimiterResult,
    LimitPlan,
)
from llm_proxy.admission.policy_resolver import PolicyDefaults, PolicyResolver
from llm_proxy.errors import APIError, RateLimited
from llm_proxy.identity import Caller, LimitPolicy, Limits, PolicySnapshot

CHECK = LimitCheck("requests", "agent", "agent scout", "lp:{t}:r:agent:scout:*", 10)
OWN = replace(CHECK, scope="key", subject="key k", key="lp:{t}:r:key:k:*")
TOKENS = LimitCheck("tokens", "key", "key k", "lp:{t}:t:key:k:*", 1_000)
MONEY = LimitCheck("budget", "key", "key k", "lp:{t}:m:key:k:*:day:20261126", 0)
CALLER = Caller("k", "virtual", tenant="t")
POLICIES = PolicyResolver.from_snapshot(PolicyDefaults(), PolicySnapshot())


def request(*checks: LimitCheck, want: int = 1) -> LimiterRequest:
    """A request against these limits."""
    return LimiterRequest(LimitPlan("t", "{t}", checks, 0), (want,) * len(checks), NO_EPOCH, "x", 30_000)


def rejection(*used: int, waits: tuple[int, ...] = ()) -> LimiterResult:
    """A rejection: what was used, and the first window's wait."""
    return LimiterResult(REJECTED, 0, 0, used, waits or (60_000, *[0] * (len(used) - 1)))


def test_an_exhausted_window_rejects_from_the_cache_with_the_stores_figures() -> None:
    """Other windows' figures too; another plan, other amounts and a status request go to the store."""
    windows, sent = ExhaustedWindows(), request(OWN, TOKENS)
    windows.add(CALLER, POLICIES, sent, rejection(10, 400))
    cached = windows.find(sent)
    assert cached is not None
    assert (cached.status, cached.used) == (REJECTED, (10, 400))
    assert 59_000 < cached.extra[0] <= 60_000
    assert cached.extra[1] == 0
    assert windows.find(sent._replace(amounts=(1, 2))) is None
    assert windows.find(sent._replace(reserve=False)) is None
    assert windows.find(request(OWN, TOKENS)) is None


def test_a_result_that_time_may_have_changed_is_requested_again() -> None:
    """A window with capacity in a moment, or a token window to wait for."""
    for waits in ((0, 0), (60_000, 0), (0, 60_000)):
        windows, sent = ExhaustedWindows(), request(OWN, TOKENS)
        windows.add(CALLER, POLICIES, sent, rejection(10, 1_000, waits=tuple(one or 1 for one in waits)))
        end = 0
        while windows.find(sent) is not None:
            end += 1
        assert windows.error_for_key(CALLER, POLICIES, "enforced") is None


def test_only_an_exhausted_request_window_is_cached() -> None:
    """Not a budget of 0 beside one, nor a window in shadow mode."""
    for sent, result in (
        (request(TOKENS), rejection(1_000)),
        (request(replace(OWN, enforced=False), TOKENS), rejection(10, 1_000)),
        (request(MONEY, replace(OWN, limit=0)), rejection(0, 0)),
    ):
        windows = ExhaustedWindows()
        windows.add(CALLER, POLICIES, sent, result)
        assert windows.find(sent) is None
    windows, both = ExhaustedWindows(), request(MONEY, OWN)
    windows.add(CALLER, POLICIES, both, rejection(0, 10, waits=(700, 60_000)))
    cached = windows.find(both)
    assert cached is not None
    assert cached.extra[0] == 700  # what running calls hold is no time


def test_a_key_is_rejected_early_only_by_its_own_window_and_until_something_changes() -> None:
    """Other windows say nothing of the key's other requests; new policies or a changed key may allow them."""
    windows, sent = ExhaustedWindows(), request(OWN)
    windows.add(CALLER, POLICIES, request(CHECK), rejection(10))
    assert windows.error_for_key(CALLER, POLICIES, "enforced") is None
    windows.add(CALLER, POLICIES, sent, rejection(10))
    error = windows.error_for_key(CALLER, POLICIES, "enforced")
    assert error is not None
    assert error.reached_limit is not None
    assert (error.status, error.reached_limit.subject, error.reached_limit.used) == (429, "key k", 10)
    assert windows.error_for_key(replace(CALLER, revocation_epoch=1), POLICIES, "enforced") is None
    others = PolicyResolver.from_snapshot(PolicyDefaults(), PolicySnapshot())
    assert windows.error_for_key(CALLER, others, "enforced") is None


def test_each_request_of_a_rejected_key_gets_an_error_of_its_own_with_the_wait_of_its_moment() -> None:
    """As the store would promise it: errors are raised, and carry the traceback of their request."""
    windows, errors = ExhaustedWindows(), list[APIError]()
    windows.add(CALLER, POLICIES, request(OWN), rejection(10, waits=(20,)))
    while (error := windows.error_for_key(CALLER, POLICIES, "enforced")) is not None:
        errors.append(error)
        wait_ms = error.reached_limit.wait_ms if error.reached_limit is not None else None
        assert wait_ms is not None
        assert error.retry_after_s == wait_ms / 1000
        assert ("x-ratelimit-reset-requests", f"{wait_ms}ms") in error.headers
        assert f"Try again in {wait_ms}ms." in str(error) == error.message
    assert len({id(one) for one in errors}) == len(errors)
    assert {type(one) for one in errors} == {RateLimited}
    waits = [one.retry_after_s or 0 for one in errors]
    assert waits == sorted(waits, reverse=True)
    assert len(set(waits)) > 1


def test_a_key_with_token_limits_by_body_is_not_rejected_early() -> None:
    """Its headers would be another agent's."""
    windows = ExhaustedWindows()
    rules = PolicyResolver.from_snapshot(
        PolicyDefaults(), PolicySnapshot((LimitPolicy("agent", limits=Limits(tpm=5)),))
    )
    windows.add(CALLER, rules, request(OWN), rejection(10))
    assert windows.error_for_key(CALLER, rules, "enforced") is None


def test_an_internal_secret_is_not_rejected_early() -> None:
    """It acts for many, and its body says for whom."""
    windows = ExhaustedWindows()
    service = Caller("internal:1", "internal", tenant="t")
    windows.add(service, POLICIES, request(OWN), rejection(10))
    assert windows.error_for_key(service, POLICIES, "enforced") is None
