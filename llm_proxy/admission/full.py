"""Windows known to be full: until its oldest request leaves, nobody needs to ask the store again.

A loop that runs against its limit so costs a look-up here, not a script call there. Invariants: only whole
windows of requests are remembered (nothing but time empties them), with the limit they were full by.
Units: seconds of `time.monotonic`, milliseconds of wait.
"""

import time

from llm_proxy.admission.check import REFUSED, Answer, Ask, Plan

MOST = 10_000


class FullWindows:
    """Which windows are full, and until when."""

    def __init__(self) -> None:
        self._until: dict[str, tuple[int, float]] = {}

    def remember(self, ask: Ask, answer: Answer) -> None:
        """Learn from a refusal."""
        if len(self._until) > MOST:
            self._until.clear()
        now_s = time.monotonic()
        for check, used, wait_ms in zip(ask.plan.checks, answer.used, answer.extra, strict=True):
            if check.kind == "requests" and check.enforced and used >= check.limit:
                self._until[check.key] = check.limit, now_s + wait_ms / 1000

    def answer(self, ask: Ask) -> Answer | None:
        """The refusal the store would give; None when it must be asked."""
        if not self._until:
            return None
        now_s = time.monotonic()
        plan = ask.plan
        for at, (check, want) in enumerate(zip(plan.checks, ask.wants, strict=True)):
            limit, until_s = self._until.get(check.key, (0, 0.0))
            if limit != check.limit or not want or not check.enforced:
                continue
            wait_ms = int((until_s - now_s) * 1000) + 1
            if wait_ms > 1:
                return _full_at(plan, at, wait_ms)
            del self._until[check.key]
        return None


def _full_at(plan: Plan, at: int, wait_ms: int) -> Answer:
    used, extra = [0] * len(plan.checks), [0] * len(plan.checks)
    used[at], extra[at] = plan.checks[at].limit, wait_ms
    return Answer(REFUSED, 0, 0, tuple(used), tuple(extra))
