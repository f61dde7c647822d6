"""Rejections by exhausted request windows, repeated for up to one second without a request to the store.

A client that loops against its limit costs a look-up; where the limit is its key's own, its body is not
read. Invariants: only rejections by a request window are kept (time alone empties it), for the same plan
and amounts; all figures are the store's, at most `MAX_AGE_S` old; waits shrink with time. Units: seconds,
milliseconds of wait.
"""

import time
from dataclasses import dataclass

from llm_proxy.admission.limiter import LimitCheck, LimiterRequest, LimiterResult
from llm_proxy.admission.policy_resolver import PolicyResolver
from llm_proxy.identity import Caller

MAX_CACHED = 10_000
MAX_AGE_S = 1.0
"""So old a figure may be that is told again: other calls and settlements move the other windows."""


@dataclass(frozen=True, slots=True)
class _CachedRejection:
    """A refusal, when it was heard, and until when it is said again."""

    policies: PolicyResolver
    ask: LimiterRequest
    answer: LimiterResult
    heard_s: float
    until_s: float

    def now(self) -> LimiterResult | None:
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


class ExhaustedWindows:
    """The refusals that may be said again."""

    def __init__(self) -> None:
        self._by_plan: dict[int, _CachedRejection] = {}  # by its identity; what is kept holds the plan
        self._by_key: dict[tuple[str, int], _CachedRejection] = {}

    def add(
        self, caller: Caller, policies: PolicyResolver, ask: LimiterRequest, answer: LimiterResult
    ) -> None:
        """Learn from a refusal."""
        full, waits = list[LimitCheck](), [MAX_AGE_S * 1000]
        for check, used, extra in zip(ask.plan.checks, answer.used, answer.extra, strict=True):
            if check.kind in {"requests", "tokens"} and extra > 0:
                waits.append(extra)
            if check.kind == "requests" and check.enforced and used >= check.limit > 0:
                full.append(check)
        if not full:
            return
        if max(len(self._by_plan), len(self._by_key)) > MAX_CACHED:
            self._by_plan.clear()
            self._by_key.clear()
        now_s = time.monotonic()
        kept = _CachedRejection(policies, ask, answer, now_s, now_s + min(waits) / 1000)
        self._by_plan[id(ask.plan)] = kept
        own = any(check.scope == "key" for check in full)
        if own and caller.kind == "virtual" and not policies.tokens_depend_on_body:
            self._by_key[caller.key_id, caller.revocation_epoch] = kept

    def find_for_key(
        self, caller: Caller, policies: PolicyResolver
    ) -> tuple[LimiterRequest, LimiterResult] | None:
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

    def find(self, ask: LimiterRequest) -> LimiterResult | None:
        """The refusal the store would give; None when it must be asked."""
        if not self._by_plan:
            return None
        kept = self._by_plan.get(id(ask.plan))
        if kept is None or not ask.reserve or ask.amounts != kept.ask.amounts:
            return None
        answer = kept.now()
        if answer is None:
            del self._by_plan[id(ask.plan)]
        return answer
