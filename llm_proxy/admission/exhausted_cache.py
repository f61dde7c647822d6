"""Rejections by exhausted request windows, repeated for up to one second without a request to the store.

A client that loops against its limit costs a look-up; where the limit is its key's own, its body is not
read. Invariants: only rejections by a request window are kept (time alone empties it), for the same plan
and amounts; all figures are the store's, at most `KNOWN_S` old; waits shrink with time. Units: seconds,
milliseconds of wait.
"""

import time
from dataclasses import dataclass

from llm_proxy.admission.limiter import Answer, Ask, Check
from llm_proxy.admission.policy_resolver import Policies
from llm_proxy.identity import Caller

MOST = 10_000
KNOWN_S = 1.0
"""So old a figure may be that is told again: other calls and settlements move the other windows."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A refusal, when it was heard, and until when it is said again."""

    policies: Policies
    ask: Ask
    answer: Answer
    heard_s: float
    until_s: float

    def now(self) -> Answer | None:
        """The answer as the store would give it now; None when it must be asked."""
        now_s = time.monotonic()
        if now_s >= self.until_s:
            return None
        gone_ms = int((now_s - self.heard_s) * 1000)
        extra = tuple(
            each - gone_ms if each and check.kind in {"requests", "tokens"} else each
            for check, each in zip(self.ask.plan.checks, self.answer.extra, strict=True)
        )
        return self.answer._replace(extra=extra)


class FullWindows:
    """The refusals that may be said again."""

    def __init__(self) -> None:
        self._by_plan: dict[int, _Kept] = {}  # by its identity; what is kept holds the plan
        self._by_key: dict[tuple[str, int], _Kept] = {}

    def remember(self, caller: Caller, policies: Policies, ask: Ask, answer: Answer) -> None:
        """Learn from a refusal."""
        full, waits = list[Check](), [KNOWN_S * 1000]
        for check, used, extra in zip(ask.plan.checks, answer.used, answer.extra, strict=True):
            if check.kind in {"requests", "tokens"} and extra > 0:
                waits.append(extra)
            if check.kind == "requests" and check.enforced and used >= check.limit > 0:
                full.append(check)
        if not full:
            return
        if max(len(self._by_plan), len(self._by_key)) > MOST:
            self._by_plan.clear()
            self._by_key.clear()
        now_s = time.monotonic()
        kept = _Kept(policies, ask, answer, now_s, now_s + min(waits) / 1000)
        self._by_plan[id(ask.plan)] = kept
        own = any(check.scope == "key" for check in full)
        if own and caller.kind == "virtual" and not policies.tokens_by_body:
            self._by_key[caller.key_id, caller.revocation_epoch] = kept

    def of_key(self, caller: Caller, policies: Policies) -> tuple[Ask, Answer] | None:
        """What a key is refused with whatever it asks for now; None when that is to be seen."""
        place = caller.key_id, caller.revocation_epoch
        kept = self._by_key.get(place)
        if kept is None:
            return None
        answer = kept.now() if kept.policies is policies else None
        if answer is None:
            del self._by_key[place]
            return None
        return kept.ask, answer

    def answer(self, ask: Ask) -> Answer | None:
        """The refusal the store would give; None when it must be asked."""
        if not self._by_plan:
            return None
        kept = self._by_plan.get(id(ask.plan))
        if kept is None or not ask.take or ask.wants != kept.ask.wants:
            return None
        answer = kept.now()
        if answer is None:
            del self._by_plan[id(ask.plan)]
        return answer
