"""Puts calls of a run under the loop guard: which rule covers them, what is found, and what follows.

Invariants: a call without a run, without a conversation, or whose rule is `off` asks no store; every other
call asks it once, in the same round trip as its admission, and ends its turn however it ends itself; while
the store is unreachable nothing is found, and the response says so; what was found holds the name of a tool
and no other text. Raises AgentLoopDetected.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from secrets import token_hex
from typing import Final

import orjson

from llm_proxy.admission.fingerprints import Turn, fingerprint
from llm_proxy.admission.lease import RawHeaders, Reservation
from llm_proxy.admission.limiter import LimiterBackend, LimiterUnavailable, SettlementEntry, tenant_tag
from llm_proxy.admission.loop_guard import (
    ANSWERED,
    DEFAULT_RULE,
    FAILED,
    Finding,
    GuardVerdict,
    describe,
    encode_turn,
    find_loop,
)
from llm_proxy.admission.memory_backend import MemoryBackend
from llm_proxy.admission.policy_resolver import PolicyResolver
from llm_proxy.admission.redis.backend import RedisBackend
from llm_proxy.admission.redis.turns import RedisTurns
from llm_proxy.admission.settlements import SettledFuture, SettlementQueue
from llm_proxy.admission.turns import RunName, RunTurns, TurnStore
from llm_proxy.background import spawn
from llm_proxy.dialects import Call
from llm_proxy.errors import AgentLoopDetected
from llm_proxy.identity import Caller
from llm_proxy.identity.caller import ANY, CallerKind, ScopeKind
from llm_proxy.identity.guard_rules import GuardMode, GuardRule
from llm_proxy.json_access import Json, read_object
from llm_proxy.settings import Settings, several

log = logging.getLogger(__name__)

HEADER: Final = b"x-llm-proxy-loop"
_UNAVAILABLE: Final = ((HEADER, b"unavailable"),)
_MAX_RULES = 10_000
_SCOPES: tuple[ScopeKind, ...] = ("tenant", "agent", "key")
"""The scopes whose rules may set the guard, the later over the earlier."""

ReportQuarantine = Callable[[Json], None]
"""Called with what was found of a run that goes into quarantine; never waits or raises."""


def digest_key(secret: str) -> bytes:
    """Returns the key of fingerprints that a secret of the deployment yields, the same in every replica."""
    return blake2b(secret.encode(), person=b"llmp loop guard ", digest_size=32).digest()


def guard_rule(resolver: PolicyResolver, caller: Caller, default: GuardMode) -> GuardRule:
    """Returns the rule that covers a caller, every value set: by key over by agent over by tenant."""
    rule = GuardRule(mode=default).over(DEFAULT_RULE)
    subjects = (caller.tenant, caller.agent, caller.root_key_id)
    for scope, subject in zip(_SCOPES, subjects, strict=True):
        names = (ANY,) if subject is None else (ANY, subject)
        for one in names if subject is not None or scope != "agent" else ():
            for tenant in (ANY, caller.tenant or ""):
                for policy in resolver.policies.get((scope, tenant, one), ()):
                    if policy.loop_guard is None or policy.mode == "off":
                        continue
                    rule = policy.loop_guard.over(rule)
                    if policy.mode == "shadow" and rule.mode != "off":
                        rule = GuardRule(mode="observe").over(rule)
    return rule


class GuardedCall:
    """A call of a run, from its admission to its end.

    Attributes:
        verdict: What was found; None for nothing, and before `judge`.
        headers: The header that reports the verdict to the caller.
    """

    __slots__ = ("_adding", "_guard", "_number", "_rule", "_run", "_turn", "headers", "verdict")

    def __init__(self, guard: "RunGuard", run: RunName, rule: GuardRule, turn: Turn) -> None:
        self.verdict: GuardVerdict | None = None
        self.headers: RawHeaders = ()
        self._guard, self._run, self._rule, self._turn = guard, run, rule, turn
        self._number = 0
        self._adding = guard.store.add(run.key, encode_turn(turn), self._end_late)

    async def judge_admitted(self, reservations: Iterable[Reservation]) -> RawHeaders:
        """Returns the headers of an admitted call; one that is stopped or cancelled keeps nothing."""
        try:
            await self.judge()
        except BaseException:
            for one in reservations:
                one.enqueue(one.undo_entries())
            self.end(answered=False, cost_nano_usd=0)
            raise
        return self.headers

    async def judge(self) -> None:
        """Judges the run; raises `AgentLoopDetected` for one that is stopped."""
        try:
            past = await self._adding
        except LimiterUnavailable:
            self.headers = _UNAVAILABLE
            return
        if not past.number:
            raise _stopped(read_object(past.evidence), past.until_ms)
        self._number = past.number
        finding = find_loop(self._turn, past.kept, past.spent_nano_usd, past.now_ms, self._rule)
        if finding is None:
            return
        mode = self._rule.mode or "off"
        if mode == "stop":
            await self._stop(finding, past)
        self.headers = ((HEADER, _header(mode, finding._asdict())),)
        self.verdict = GuardVerdict(mode, finding, mode == "warn" and bool(self._rule.notice))

    async def _stop(self, finding: Finding, past: RunTurns) -> None:
        """Puts the run into quarantine and raises; the call is stopped even where that fails."""
        evidence: Json = {
            "tenant": self._run.tenant,
            "key": self._run.key_id,
            "run": self._run.name,
            **finding._asdict(),
            "reason": describe(finding),
            "since": _time_text(past.now_ms),
        }
        duration_ms = (self._rule.quarantine_s or 1) * 1000
        until_ms = past.now_ms + duration_ms
        with contextlib.suppress(LimiterUnavailable):
            until_ms = await self._guard.store.quarantine(self._run, orjson.dumps(evidence), duration_ms)
        evidence |= {"until": _time_text(until_ms)}
        log.warning("a run is stopped: it repeats itself", extra={"run": evidence})
        self._guard.report(evidence)
        raise _stopped(evidence, until_ms)

    def end(
        self, *, answered: bool, cost_nano_usd: int | None
    ) -> tuple[SettlementQueue, SettledFuture] | None:
        """Notes how the call ended: what failed is no turn; returns the future of the store's write."""
        if not self._number:
            return None
        outcome = (ANSWERED if answered else FAILED).decode()
        number, self._number = self._number, 0
        entry = SettlementEntry("turn", self._run.key, number, cost_nano_usd or 0, outcome)
        queue = self._guard.settlements
        return queue, queue.enqueue(tenant_tag(self._run.tenant), (entry,))

    def forget(self) -> None:
        """Takes back the turn of a call that was not admitted, once the store has answered."""
        spawn("loop-guard", self._take_back())

    def _end_late(self, number: int) -> None:
        """Ends a turn that the store added after its caller had stopped waiting."""
        self._number = number
        self.end(answered=False, cost_nano_usd=0)

    async def _take_back(self) -> None:
        with contextlib.suppress(LimiterUnavailable):
            self._number = (await self._adding).number
            self.end(answered=False, cost_nano_usd=0)


class RunGuard:
    """The loop guard of one gateway process."""

    def __init__(
        self,
        store: TurnStore,
        settlements: SettlementQueue,
        key: bytes,
        defaults: Mapping[CallerKind, GuardMode],
        policies: Callable[[], PolicyResolver],
    ) -> None:
        """`key` keys the fingerprints; `defaults` are the modes where no rule sets one."""
        self.store = store
        self.settlements = settlements
        self.report: ReportQuarantine = lambda _evidence: None
        self._key = key
        self._defaults = defaults
        self._policies = policies
        self._rules: dict[tuple[str, str, str | None, str | None], GuardRule] = {}
        self._resolved_with: PolicyResolver | None = None

    def begin(self, caller: Caller, call: Call) -> GuardedCall | None:
        """Returns the guarded call; None where the guard is off, or it is no conversation of a run."""
        if caller.run_id is None:
            return None
        rule = self._rule_of(caller)
        if rule.mode == "off":
            return None
        turn = fingerprint(call, self._key)
        if turn is None:
            return None
        return GuardedCall(self, RunName(caller.tenant, caller.root_key_id, caller.run_id), rule, turn)

    async def release(self, run: RunName) -> bool:
        """Ends a run's quarantine; returns False if it was in none; raises `LimiterUnavailable`."""
        return await self.store.release(run)

    async def foresee(self, caller: Caller, call: Call) -> AgentLoopDetected | None:
        """Returns the error of a call whose run is in quarantine now; None for other calls."""
        if caller.run_id is None or self._rule_of(caller).mode == "off" or not fingerprint(call, self._key):
            return None
        name = {"tenant": caller.tenant, "key": caller.root_key_id, "run": caller.run_id}
        with contextlib.suppress(LimiterUnavailable):
            for evidence, until_ms in await self.store.quarantined():
                if name.items() <= (found := read_object(evidence)).items():
                    return _stopped(found, until_ms)
        return None

    async def quarantined(self) -> list[Json]:
        """Returns the runs in quarantine, the latest first, as documents; raises `LimiterUnavailable`."""
        found = [
            read_object(evidence) | {"until": _time_text(until_ms)}
            for evidence, until_ms in await self.store.quarantined()
        ]
        return sorted(found, key=lambda one: str(one.get("since")), reverse=True)

    def _rule_of(self, caller: Caller) -> GuardRule:
        policies = self._policies()
        if policies is not self._resolved_with or len(self._rules) > _MAX_RULES:
            self._rules.clear()
            self._resolved_with = policies
        key = caller.root_key_id, caller.kind, caller.tenant, caller.agent
        rule = self._rules.get(key)
        if rule is None:
            rule = self._rules[key] = guard_rule(policies, caller, self._defaults[caller.kind])
        return rule


def create_guard(
    settings: Settings,
    backend: LimiterBackend,
    settlements: SettlementQueue,
    policies: Callable[[], PolicyResolver],
) -> RunGuard:
    """Returns the guard of the settings; its key comes from the secret that all replicas share."""
    shared = (*several(settings.sealing_keys), *settings.sidecar_keys, *several(settings.internal_api_key))
    secret = shared[0] if shared else token_hex(32)
    defaults: dict[CallerKind, GuardMode] = {
        "internal": settings.loop_guard_internal,
        "virtual": settings.loop_guard,
    }
    store: TurnStore
    if isinstance(backend, RedisBackend):
        store = RedisTurns(backend)
    else:
        assert isinstance(backend, MemoryBackend)  # noqa: S101 -- there are two
        store = backend.turns
    return RunGuard(store, settlements, digest_key(secret), defaults, policies)


def _stopped(evidence: Json, until_ms: int) -> AgentLoopDetected:
    until = _time_text(until_ms)
    reason = evidence.get("reason") or "it repeats itself"
    return AgentLoopDetected(
        f"This run is stopped: {reason}. It may go on after {until}, or once an operator releases it.",
        headers=(
            (HEADER.decode(), _header("stop", evidence).decode("latin-1")),
            ("x-llm-proxy-loop-until", until),
        ),
    )


def _header(action: str, evidence: Mapping[str, object]) -> bytes:
    """The finding as the header's value: `observe; signal=repeat; times=5; tool=search`."""
    tool = str(evidence.get("tool") or "").encode("ascii", "replace").decode()
    shown = "".join(sign if sign.isalnum() or sign in "_-./:" else "?" for sign in tool)
    text = f"{action}; signal={evidence.get('signal')}; times={evidence.get('times')}"
    return (f"{text}; tool={shown}" if shown else text).encode()


def _time_text(moment_ms: int) -> str:
    return datetime.fromtimestamp(moment_ms / 1000, UTC).isoformat(timespec="seconds")
