"""Refusals by full windows that are said again."""

from dataclasses import replace

from llm_proxy.admission.exhausted_cache import FullWindows
from llm_proxy.admission.limiter import NO_EPOCH, REFUSED, Answer, Ask, Check, Plan
from llm_proxy.admission.policy_resolver import Defaults, Policies
from llm_proxy.identity import Caller, Limits, Rule, Rulebook

CHECK = Check("requests", "agent", "agent scout", "lp:{t}:r:agent:scout:*", 10)
OWN = replace(CHECK, scope="key", subject="key k", key="lp:{t}:r:key:k:*")
TOKENS = Check("tokens", "key", "key k", "lp:{t}:t:key:k:*", 1_000)
MONEY = Check("budget", "key", "key k", "lp:{t}:m:key:k:*:day:20261126", 0)
CALLER = Caller("k", "virtual", tenant="t")
RULES = Policies.of(Defaults(), Rulebook())


def ask(*checks: Check, want: int = 1) -> Ask:
    """One request against these limits."""
    return Ask(Plan("t", "{t}", checks, 0), (want,) * len(checks), NO_EPOCH, "x", 30_000)


def full_at(*used: int, waits: tuple[int, ...] = ()) -> Answer:
    """A refusal: what was used, and the first window's wait."""
    return Answer(REFUSED, 0, 0, used, waits or (60_000, *[0] * (len(used) - 1)))


def test_a_full_window_is_refused_without_asking_with_the_figures_of_the_store() -> None:
    """Those of the other windows too; another plan or other wants are asked about anew, and so is a look."""
    full, asked = FullWindows(), ask(OWN, TOKENS)
    full.remember(CALLER, RULES, asked, full_at(10, 400))
    known = full.answer(asked)
    assert known is not None
    assert (known.status, known.used) == (REFUSED, (10, 400))
    assert 59_000 < known.extra[0] <= 60_000
    assert known.extra[1] == 0
    assert full.answer(asked._replace(wants=(1, 2))) is None
    assert full.answer(asked._replace(take=False)) is None
    assert full.answer(ask(OWN, TOKENS)) is None


def test_what_time_may_have_changed_is_asked_again() -> None:
    """A window that has room in a moment, or another that had tokens to wait for."""
    for waits in ((0, 0), (60_000, 0), (0, 60_000)):
        full, asked = FullWindows(), ask(OWN, TOKENS)
        full.remember(CALLER, RULES, asked, full_at(10, 1_000, waits=tuple(one or 1 for one in waits)))
        end = 0
        while full.answer(asked) is not None:
            end += 1
        assert full.of_key(CALLER, RULES) is None


def test_only_a_full_window_of_requests_is_remembered() -> None:
    """A budget of 0 beside one, or a window that only watches, is none."""
    for asked, answer in (
        (ask(TOKENS), full_at(1_000)),
        (ask(replace(OWN, enforced=False), TOKENS), full_at(10, 1_000)),
        (ask(MONEY, replace(OWN, limit=0)), full_at(0, 0)),
    ):
        full = FullWindows()
        full.remember(CALLER, RULES, asked, answer)
        assert full.answer(asked) is None
    full, both = FullWindows(), ask(MONEY, OWN)
    full.remember(CALLER, RULES, both, full_at(0, 10, waits=(700, 60_000)))
    known = full.answer(both)
    assert known is not None
    assert known.extra[0] == 700  # what running calls hold is no time


def test_a_key_is_known_by_its_own_full_window_alone_and_while_nothing_changed() -> None:
    """Another's window says nothing of what else the key may ask for; new rules or a changed key may."""
    full, asked = FullWindows(), ask(OWN)
    full.remember(CALLER, RULES, ask(CHECK), full_at(10))
    assert full.of_key(CALLER, RULES) is None
    full.remember(CALLER, RULES, asked, full_at(10))
    known = full.of_key(CALLER, RULES)
    assert known is not None
    assert (known[0], known[1].status, known[1].used) == (asked, REFUSED, (10,))
    assert full.of_key(replace(CALLER, revocation_epoch=1), RULES) is None
    assert full.of_key(CALLER, Policies.of(Defaults(), Rulebook())) is None


def test_a_key_whose_tokens_are_told_by_what_its_body_names_is_read_first() -> None:
    """Another agent's headers would be told."""
    full = FullWindows()
    rules = Policies.of(Defaults(), Rulebook((Rule("agent", limits=Limits(tpm=5)),)))
    full.remember(CALLER, rules, ask(OWN), full_at(10))
    assert full.of_key(CALLER, rules) is None


def test_a_trusted_service_is_not_known_by_its_secret() -> None:
    """It acts for many, and whom it acts for stands in the body."""
    full = FullWindows()
    service = Caller("internal:1", "internal", tenant="t")
    full.remember(service, RULES, ask(OWN), full_at(10))
    assert full.of_key(service, RULES) is None
