"""Windows known to be full."""

from dataclasses import replace

from llm_proxy.admission.check import NO_EPOCH, REFUSED, Answer, Ask, Check, Plan
from llm_proxy.admission.full import FullWindows
from llm_proxy.admission.policy import Defaults, Policies
from llm_proxy.identity import Caller, Rulebook

CHECK = Check("requests", "agent", "agent scout", "lp:{t}:r:agent:scout:*", 10)
OWN = replace(CHECK, scope="key", subject="key k", key="lp:{t}:r:key:k:*")
FULL = Answer(REFUSED, 0, 0, (10,), (60_000,))
CALLER = Caller("k", "virtual", tenant="t")
RULES = Policies.of(Defaults(), Rulebook())


def ask(check: Check) -> Ask:
    """One request against one limit."""
    return Ask(Plan("t", "{t}", (check,), 0), (1,), NO_EPOCH, "x", 30_000)


def test_a_full_window_is_refused_without_asking_until_its_rule_changes() -> None:
    """Another limit, or one that only watches, is asked about anew."""
    full = FullWindows()
    full.remember(CALLER, RULES, ask(CHECK), FULL)
    known = full.answer(ask(CHECK))
    assert known is not None
    assert (known.status, known.used) == (REFUSED, (10,))
    assert full.answer(ask(replace(CHECK, limit=20))) is None
    assert full.answer(ask(replace(CHECK, enforced=False))) is None


def test_a_key_is_known_by_its_own_full_window_alone_and_while_nothing_changed() -> None:
    """Another's window says nothing of what else the key may ask for; new rules or a changed key may."""
    full = FullWindows()
    full.remember(CALLER, RULES, ask(CHECK), FULL)
    assert full.of_key(CALLER, RULES) is None
    full.remember(CALLER, RULES, ask(OWN), FULL)
    known = full.of_key(CALLER, RULES)
    assert known is not None
    assert (known[0], known[1].status, known[1].used) == (ask(OWN), REFUSED, (10,))
    assert full.of_key(replace(CALLER, revocation_epoch=1), RULES) is None
    assert full.of_key(CALLER, Policies.of(Defaults(), Rulebook())) is None


def test_a_trusted_service_is_not_known_by_its_secret() -> None:
    """It acts for many, and whom it acts for stands in the body."""
    full = FullWindows()
    service = Caller("internal:1", "internal", tenant="t")
    full.remember(service, RULES, ask(OWN), FULL)
    assert full.of_key(service, RULES) is None


def test_a_budget_of_nothing_beside_a_full_window_is_no_window() -> None:
    """Its limit is 0, as that of a window nobody knows."""
    full = FullWindows()
    full.remember(CALLER, RULES, ask(CHECK), FULL)
    money = Check("budget", "key", "key k", "lp:{t}:m:key:k:*:day:20261126", 0)
    window = replace(CHECK, key="lp:{t}:r:agent:other:*", limit=0)
    both = Ask(Plan("t", "{t}", (money, window), 0), (1, 1), NO_EPOCH, "x", 30_000)
    assert full.answer(both) is None
