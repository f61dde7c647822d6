"""What admission would say, without counting anything: the same decision, only looked at.

Invariant: the verdict is the real one's, because it is made by the same code from the same answer of the
same script; only the taking is left out.
"""

from dataclasses import dataclass

from llm_proxy.admission.admit import Admission, Decision
from llm_proxy.admission.standing import Standing, State, standings
from llm_proxy.dialects import Call
from llm_proxy.errors import Refused
from llm_proxy.identity import Caller


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would become of a call.

    Attributes:
        refused: The refusal it would get; None when it would be admitted.
        standings: Where the caller stands at every check that covers it.
        state: How limits hold right now; None when it never came to them.
    """

    refused: Refused | None
    standings: tuple[Standing, ...] = ()
    state: State | None = None


async def explain(admission: Admission, caller: Caller, call: Call) -> Explanation:
    """What would become of a call, were it made now."""
    try:
        return _of(await admission.decide(caller, call, "explained", take=False))
    except Refused as refused:
        return Explanation(refused)


async def standing_of(admission: Admission, caller: Caller, group: str | None = None) -> Explanation:
    """Where a caller stands, at a model group or apart from any; raises `StoreUnavailable`."""
    return _of(await admission.standing(caller, group))


def _of(decision: Decision) -> Explanation:
    ask, answer = decision.ask, decision.answer
    found = tuple(standings(ask.plan, ask.wants, answer)) if answer.used else ()
    return Explanation(decision.refused, found, decision.state)
