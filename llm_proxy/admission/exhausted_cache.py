"""Rejections by exhausted request windows, repeated for up to one second without a request to the store.

A client that loops against its limit costs a look-up; where the limit is its key's own, its body is not
read. Invariants: only rejections by a request window are kept (time alone empties it), for the same plan
and amounts; all figures are the store's, at most `MAX_AGE_S` old; waits shrink with time. Units: seconds,
milliseconds of wait.
"""

import time
from dataclasses import dataclass

from llm_proxy.admission.limiter import LimitCheck, LimiterRequest, LimiterResult
from llm_proxy.admission.policy_resolver import BY_BODY, PolicyResolver
from llm_proxy.admission.rate_limit_response import (
    EnforcementState,
    rate_limit_error,
    rejecting_statuses,
)
from llm_proxy.errors import APIError
from llm_proxy.identity import Caller

MAX_CACHED = 10_000
MAX_AGE_S = 1.0
"""The greatest age of a repeated figure: other calls and settlements move the other windows."""


@dataclass(slots=True)
class _CachedRejection:
    """A rejection, since when it is known, and until when it is repeated.

    Attributes:
        made: The error of a millisecond since then, and which one.
    """

    policies: PolicyResolver
    request: LimiterRequest
    result: LimiterResult
    since_s: float
    until_s: float
    made: tuple[int, APIError] | None = None

    def passed_ms(self) -> int | None:
        """Returns the time since it is known; None when the store must be queried."""
        now_s = time.monotonic()
        return None if now_s >= self.until_s else int((now_s - self.since_s) * 1000)

    def result_after(self, passed_ms: int) -> LimiterResult:
        """Returns the result the store would give then."""
        extra = tuple(
            wait_ms - passed_ms if wait_ms and check.kind in {"requests", "tokens"} else wait_ms
            for check, wait_ms in zip(self.request.plan.checks, self.result.extra, strict=True)
        )
        return self.result._replace(extra=extra)

    def error_after(self, passed_ms: int, state: EnforcementState) -> APIError:
        """Returns the error of that result; those of one millisecond say the same."""
        made = self.made
        if made is None or made[0] != passed_ms:
            error = rate_limit_error(self.request, self.result_after(passed_ms), state)
            self.made = made = passed_ms, error
        return made[1].again()


class ExhaustedWindows:
    """The rejections that may be repeated.

    Attributes:
        by_key: Those of a key whatever it requests, by its id and epoch.
    """

    def __init__(self) -> None:
        self._by_plan: dict[int, _CachedRejection] = {}  # by its identity; the entry holds the plan
        self.by_key: dict[tuple[str, int], _CachedRejection] = {}

    def add(
        self, caller: Caller, policies: PolicyResolver, request: LimiterRequest, result: LimiterResult
    ) -> None:
        """Caches a rejection, if a request window of it is exhausted."""
        exhausted, waits = list[LimitCheck](), [MAX_AGE_S * 1000]
        for check, used, extra in zip(request.plan.checks, result.used, result.extra, strict=True):
            if check.kind in {"requests", "tokens"} and extra > 0:
                waits.append(extra)
            if check.kind == "requests" and check.enforced and used >= check.limit > 0:
                exhausted.append(check)
        if not exhausted:
            return
        if max(len(self._by_plan), len(self.by_key)) > MAX_CACHED:
            self._by_plan.clear()
            self.by_key.clear()
        now_s = time.monotonic()
        cached = _CachedRejection(policies, request, result, now_s, now_s + min(waits) / 1000)
        self._by_plan[id(request.plan)] = cached
        own = any(check.scope == "key" for check in exhausted)
        if own and caller.kind == "virtual" and not policies.tokens_depend_on_body:
            if any(one.check.scope in BY_BODY for one in rejecting_statuses(request, result)):
                return  # another call of the key may be of another agent or run
            self.by_key[caller.key_id, caller.revocation_epoch] = cached

    def error_for_key(
        self, caller: Caller, policies: PolicyResolver, state: EnforcementState
    ) -> APIError | None:
        """Returns the error of a key whatever it requests now; None when the store must be queried."""
        key = caller.key_id, caller.revocation_epoch
        cached = self.by_key.get(key)
        if cached is None:
            return None
        passed_ms = cached.passed_ms() if cached.policies is policies else None
        if passed_ms is None:
            del self.by_key[key]
            return None
        return cached.error_after(passed_ms, state)

    def find(self, request: LimiterRequest) -> LimiterResult | None:
        """Returns the rejection the store would give; None when the store must be queried."""
        if not self._by_plan:
            return None
        cached = self._by_plan.get(id(request.plan))
        if cached is None or not request.reserve or request.amounts != cached.request.amounts:
            return None
        passed_ms = cached.passed_ms()
        if passed_ms is None:
            del self._by_plan[id(request.plan)]
            return None
        return cached.result_after(passed_ms)
