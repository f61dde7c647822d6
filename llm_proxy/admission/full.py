"""Windows known to be full: until its oldest request leaves, nobody needs to ask the store again.

A loop that runs against its limit so costs a look-up here, not a script call there; where the limit is its
key's own, not even its body is read. Invariants: only whole windows of requests are remembered (nothing but
time empties them), with the limit they were full by; a key's, only under the rules it was refused by.
Units: seconds of `time.monotonic`, milliseconds of wait.
"""

import time

from llm_proxy.admission.check import REFUSED, Answer, Ask, Check, Plan
from llm_proxy.admission.policy import Policies
from llm_proxy.identity import Caller

MOST = 10_000


class FullWindows:
    """Which windows are full, and until when."""

    def __init__(self) -> None:
        self._until: dict[str, tuple[int, float]] = {}
        self._keys: dict[tuple[str, int], tuple[Policies, Ask, int]] = {}

    def remember(self, caller: Caller, policies: Policies, ask: Ask, answer: Answer) -> None:
        """Learn from a refusal."""
        if max(len(self._until), len(self._keys)) > MOST:
            self._until.clear()
            self._keys.clear()
        now_s = time.monotonic()
        facts = zip(ask.plan.checks, answer.used, answer.extra, strict=True)
        for at, (check, used, wait_ms) in enumerate(facts):
            if check.kind == "requests" and check.enforced and used >= check.limit:
                self._until[check.key] = check.limit, now_s + wait_ms / 1000
                if check.scope == "key" and caller.kind == "virtual":
                    self._keys[caller.key_id, caller.revocation_epoch] = policies, ask, at

    def of_key(self, caller: Caller, policies: Policies) -> tuple[Ask, Answer] | None:
        """What a key is refused with whatever it asks for now; None when that is to be seen."""
        kept = self._keys.get((caller.key_id, caller.revocation_epoch))
        if kept is None:
            return None
        known_by, ask, at = kept
        wait_ms = self._wait_ms(ask.plan.checks[at]) if known_by is policies else 0
        if wait_ms > 1:
            return ask, _full_at(ask.plan, at, wait_ms)
        del self._keys[caller.key_id, caller.revocation_epoch]
        return None

    def answer(self, ask: Ask) -> Answer | None:
        """The refusal the store would give; None when it must be asked."""
        if not self._until:
            return None
        for at, (check, want) in enumerate(zip(ask.plan.checks, ask.wants, strict=True)):
            if check.kind == "requests" and want and check.enforced and (wait_ms := self._wait_ms(check)) > 1:
                return _full_at(ask.plan, at, wait_ms)
        return None

    def _wait_ms(self, check: Check) -> int:
        """How long the window is still full, with this limit."""
        limit, until_s = self._until.get(check.key, (check.limit, 0.0))
        if limit != check.limit:
            return 0
        wait_ms = int((until_s - time.monotonic()) * 1000) + 1
        if wait_ms <= 1:
            self._until.pop(check.key, None)
        return wait_ms


def _full_at(plan: Plan, at: int, wait_ms: int) -> Answer:
    used, extra = [0] * len(plan.checks), [0] * len(plan.checks)
    used[at], extra[at] = plan.checks[at].limit, wait_ms
    return Answer(REFUSED, 0, 0, tuple(used), tuple(extra))
