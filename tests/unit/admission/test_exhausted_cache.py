"""Refusals by full windows that are said again."""

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
from llm_proxy.identity import Caller, LimitPolicy, Limits, PolicySnapshot

CHECK = LimitCheck("requests", "agent", "agent scout", "lp:{t}:r:agent:scout:*", 10)
OWN = replace(CHECK, scope="key", subject="key k", key="lp:{t}:r:key:k:*")
TOKENS = LimitCheck("tokens", "key", "key k", "lp:{t}:t:key:k:*", 1_000)
MONEY = LimitCheck("budget", "key", "key k", "lp:{t}:m:key:k:*:day:20261126", 0)
CALLER = Caller("k", "virtual", tenant="t")
RULES = PolicyResolver.from_snapshot(PolicyDefaults(), PolicySnapshot())


def ask(*checks: LimitCheck, want: int = 1) -> LimiterRequest:
    """One request against these limits."""
    return LimiterRequest(LimitPlan("t", "{t}", checks, 0), (want,) * len(checks), NO_EPOCH, "x", 30_000)


def full_at(*used: int, waits: tuple[int, ...] = ()) -> LimiterResult:
    """A refusal: what was used, and the first window's wait."""
    return LimiterResult(REJECTED, 0, 0, used, waits or (60_000, *[0] * (len(used) - 1)))


def test_a_full_window_is_refused_without_asking_with_the_figures_of_the_store() -> None:
    """Those of the other windows too; another plan or other wants are asked about anew, and so is a look."""
    full, asked = ExhaustedWindows(), ask(OWN, TOKENS)
    full.add(CALLER, RULES, asked, full_at(10, 400))
    known = full.find(asked)
    assert known is not None
    assert (known.status, known.used) == (REJECTED, (10, 400))
    assert 59_000 < known.extra[0] <= 60_000
    assert known.extra[1] == 0
    assert full.find(asked._replace(amounts=(1, 2))) is None
    assert full.find(asked._replace(reserve=False)) is None
    assert full.find(ask(OWN, TOKENS)) is None


def test_what_time_may_have_changed_is_asked_again() -> None:
    """A window that has room in a moment, or another that had tokens to wait for."""
    for waits in ((0, 0), (60_000, 0), (0, 60_000)):
        full, asked = ExhaustedWindows(), ask(OWN, TOKENS)
        full.add(CALLER, RULES, asked, full_at(10, 1_000, waits=tuple(one or 1 for one in waits)))
        end = 0
        while full.find(asked) is not None:
            end += 1
        assert full.find_for_key(CALLER, RULES) is None


def test_only_a_full_window_of_requests_is_remembered() -> None:
    """A budget of 0 beside one, or a window that only watches, is none."""
    for asked, answer in (
        (ask(TOKENS), full_at(1_000)),
        (ask(replace(OWN, enforced=False), TOKENS), full_at(10, 1_000)),
        (ask(MONEY, replace(OWN, limit=0)), full_at(0, 0)),
    ):
        full = ExhaustedWindows()
        full.add(CALLER, RULES, asked, answer)
        assert full.find(asked) is None
    full, both = ExhaustedWindows(), ask(MONEY, OWN)
    full.add(CALLER, RULES, both, full_at(0, 10, waits=(700, 60_000)))
    known = full.find(both)
    assert known is not None
    assert known.extra[0] == 700  # what running calls hold is no time


def test_a_key_is_known_by_its_own_full_window_alone_and_while_nothing_changed() -> None:
    """Another's window says nothing of what else the key may ask for; new rules or a changed key may."""
    full, asked = ExhaustedWindows(), ask(OWN)
    full.add(CALLER, RULES, ask(CHECK), full_at(10))
    assert full.find_for_key(CALLER, RULES) is None
    full.add(CALLER, RULES, asked, full_at(10))
    known = full.find_for_key(CALLER, RULES)
    assert known is not None
    assert (known[0], known[1].status, known[1].used) == (asked, REJECTED, (10,))
    assert full.find_for_key(replace(CALLER, revocation_epoch=1), RULES) is None
    assert full.find_for_key(CALLER, PolicyResolver.from_snapshot(PolicyDefaults(), PolicySnapshot())) is None


def test_a_key_whose_tokens_are_told_by_what_its_body_names_is_read_first() -> None:
    """Another agent's headers would be told."""
    full = ExhaustedWindows()
    rules = PolicyResolver.from_snapshot(
        PolicyDefaults(), PolicySnapshot((LimitPolicy("agent", limits=Limits(tpm=5)),))
    )
    full.add(CALLER, rules, ask(OWN), full_at(10))
    assert full.find_for_key(CALLER, rules) is None


def test_a_trusted_service_is_not_known_by_its_secret() -> None:
    """It acts for many, and whom it acts for stands in the body."""
    full = ExhaustedWindows()
    service = Caller("internal:1", "internal", tenant="t")
    full.add(service, RULES, ask(OWN), full_at(10))
    assert full.find_for_key(service, RULES) is None
