"""Limits while the limits store is unreachable: each check's own policy decides.

`deny` rejects, `local` counts in this process against this replica's share, `allow` lets the call pass.
Invariants: a share is the limit divided by the replicas alive at the last heartbeat, at least 1, and what
the store admitted here in the last minute counts; a budget's share is of what was left when last known, 0
when never known; money spent meanwhile is settled when the store is back.
"""

from dataclasses import replace

from llm_proxy.admission.lease import Desk, Taken
from llm_proxy.admission.limiter import NO_EPOCH, UNKNOWN, Answer, Ask, Check, Plan, Store
from llm_proxy.admission.memory_limiter import Counter, ProcessStore
from llm_proxy.admission.rate_limit_response import DENIED, State, reached
from llm_proxy.errors import StoreUnavailable

RETRY_S = 1.0
MOST_REMEMBERED = 50_000
MOST_MIRRORED = 600
"""Windows of larger limits are not mirrored: what an outage adds to them is small beside them."""


class Outage:
    """Decides without the store."""

    def __init__(self, patience_s: float) -> None:
        """`patience_s`: how long a settlement is waited for at most."""
        self.replicas = 1
        self._local = ProcessStore()
        self._desk = Desk(self._local, "local", patience_s)
        self._spent: dict[str, int] = {}

    async def start(self) -> None:
        """Begin to settle what is counted here."""
        await self._desk.start()

    async def stop(self) -> None:
        """Stop."""
        await self._desk.stop()

    def admitted(self, plan: Plan) -> None:
        """Remember what the store admitted here, so that an outage opens no new window for it."""
        now_ms = self._local.clock_ms()
        for check in plan.checks:
            if (
                check.kind == "requests"
                and check.limit <= MOST_MIRRORED
                and check.on_store_failure == "local"
            ):
                self._local.model.note(check.key, now_ms)

    def heard(self, plan: Plan, answer: Answer) -> None:
        """Remember what the store said of budgets."""
        if len(self._spent) > MOST_REMEMBERED:
            self._spent.clear()
        for check, used, held in zip(plan.checks, answer.used, answer.extra, strict=True):
            if check.kind == "budget" and used != UNKNOWN:
                self._spent[check.key] = used + held

    def over(self) -> None:
        """The store is back: its counts hold again."""
        self._local.model.counters.clear()

    async def admit(self, ask: Ask) -> tuple[Ask, Answer, State]:
        """The answer of this replica alone; raises `StoreUnavailable` where the policy denies."""
        denying = [one for one in ask.plan.checks if one.enforced and one.on_store_failure == "deny"]
        if denying:
            message = f"The limits of {denying[0].subject} cannot be checked right now."
            away = StoreUnavailable(message, retry_after_s=RETRY_S, headers=DENIED)
            away.reached = reached(denying[0], wait_ms=int(RETRY_S * 1000))
            raise away
        pairs = [
            (share := self._share(check), min(want, share.limit) if check.kind == "tokens" else want)
            for check, want in zip(ask.plan.checks, ask.wants, strict=True)
            if check.on_store_failure == "local"
        ]
        plan = replace(ask.plan, checks=tuple(check for check, _ in pairs))
        local = ask._replace(plan=plan, wants=tuple(want for _, want in pairs), epoch=NO_EPOCH)
        return local, await self._local.admit(local), "local" if pairs else "allow"

    def taken(self, ask: Ask, local: Ask, answer: Answer, store: Store, desk: Desk) -> tuple[Taken, ...]:
        """What was counted here, and the money the store must hear of later."""
        here = Taken(local.plan, local.wants, answer, ask.lease, self._local, self._desk)
        budgets = tuple(check for check in ask.plan.checks if check.kind == "budget")
        if not budgets:
            return (here,)
        unknown = Answer(0, answer.now_ms, 0, (UNKNOWN,) * len(budgets))
        later = replace(ask.plan, checks=budgets)
        return here, Taken(later, (0,) * len(budgets), unknown, ask.lease, store, desk)

    def _share(self, check: Check) -> Check:
        if check.kind != "budget":
            return replace(check, limit=max(1, check.limit // self.replicas))
        spent = self._spent.get(check.key)
        left = 0 if spent is None else max(0, check.limit - spent) // self.replicas
        self._local.model.seed(check.key, Counter(0, check.expires_ms, self._local.clock_ms()))
        return replace(check, limit=left)
