"""What admission would say, without counting anything: the same decision, only looked at.

Invariant: the verdict is the real one's, because it is made by the same code from the same answer of the
same script; only the taking is left out.
"""

import contextlib
from dataclasses import dataclass, replace

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
        decision = await admission.decide(caller, call, "explained", take=False)
        return await _of(admission, caller, call.group, decision)
    except Refused as refused:
        return Explanation(refused)


async def standing_of(admission: Admission, caller: Caller, group: str | None = None) -> Explanation:
    """Where a caller stands, at a model group or apart from any; raises `StoreUnavailable`.

    Whether the smallest call there is would be refused is said with it.
    """
    return await _of(admission, caller, group, await admission.standing(caller, group, 1))


async def _of(admission: Admission, caller: Caller, group: str | None, decision: Decision) -> Explanation:
    found = _standings(decision)
    if decision.refused is not None and any(one.reset_ms is not None for one in found):
        # The store tells of a full window when it has room; a look that wants nothing, when it is empty.
        with contextlib.suppress(Refused):
            empty = {one.check.key: one for one in _standings(await admission.standing(caller, group, 0))}
            found = tuple(_with_reset(one, empty.get(one.check.key)) for one in found)
    return Explanation(decision.refused, found, decision.state)


def _with_reset(one: Standing, empty: Standing | None) -> Standing:
    """The standing with the time until its window is empty, which is never before the call fits."""
    if empty is None or empty.reset_ms is None:
        return one
    return replace(one, reset_ms=max(one.wait_ms, empty.reset_ms))


def _standings(decision: Decision) -> tuple[Standing, ...]:
    ask, answer = decision.ask, decision.answer
    return tuple(standings(ask.plan, ask.wants, answer)) if answer.used else ()
