"""Windows known to be full."""

from dataclasses import replace

from llm_proxy.admission.check import NO_EPOCH, REFUSED, Answer, Ask, Check, Plan
from llm_proxy.admission.full import FullWindows

CHECK = Check("requests", "agent", "agent scout", "lp:{t}:r:agent:scout:*", 10)


def ask(check: Check) -> Ask:
    """One request against one limit."""
    return Ask(Plan("t", "{t}", (check,), 0), (1,), NO_EPOCH, "x", 30_000)


def test_a_full_window_is_refused_without_asking_until_its_rule_changes() -> None:
    """Another limit, or one that only watches, is asked about anew."""
    full = FullWindows()
    full.remember(ask(CHECK), Answer(REFUSED, 0, 0, (10,), (60_000,)))
    known = full.answer(ask(CHECK))
    assert known is not None
    assert (known.status, known.used) == (REFUSED, (10,))
    assert full.answer(ask(replace(CHECK, limit=20))) is None
    assert full.answer(ask(replace(CHECK, enforced=False))) is None
