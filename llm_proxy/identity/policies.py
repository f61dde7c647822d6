"""Policies that operators set beside the keys: limits of scopes, kill switches, allowed models.

`PolicyWatcher` keeps them up to date; `AccessPolicy` decides what needs no counting. Invariants: policies are
frozen; `ANY` matches every value of a field, an empty text only requests without a value; an epoch grows with
every admin change, per tenant or for all (`ANY`). A limit of 0 means "unlimited", `None` means "not set". A
model that only a wildcard deployment serves is allowed to no virtual key unless a list names it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, Protocol

from llm_proxy.background import BackgroundLoop, spawn
from llm_proxy.errors import Forbidden, StoreUnavailable, model_not_found, models_not_read
from llm_proxy.identity.caller import (
    ANY,
    Budget,
    Caller,
    Limits,
    OnStoreFailure,
    PolicyMode,
    Priority,
    ScopeKind,
)
from llm_proxy.identity.guard_rules import GuardRule
from llm_proxy.identity.virtual_keys import KeySpec
from llm_proxy.wildcards import wildcard_matches

log = logging.getLogger(__name__)

ALL_MODELS = ("*",)
CATALOG_RETRY_S = 1.0
POLL_S = 0.5
_CONFIRMED_S = 1.5 * POLL_S
"""For so long after another reader has confirmed them, the policies' epoch is not read."""
FRESH_S = 1.0
"""Policies read within this time need no comparison with the store's epoch."""


def is_model_allowed(
    patterns: tuple[str, ...], group: str, resolve: Callable[[str], str] | None = None
) -> bool:
    """Whether a name or wildcard of `patterns` covers a model group; `resolve` maps an alias to its group."""
    if "*" in patterns or group in patterns:
        return True
    if any("*" in pattern and wildcard_matches(pattern, group) for pattern in patterns):
        return True
    return resolve is not None and any(resolve(pattern) == group for pattern in patterns)


def allowed_models(
    caller: Caller, default: tuple[str, ...], configured: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    """Returns the names and wildcards of the models a caller may use; None while they are unknown.

    Args:
        caller: Its own list comes first.
        default: The operator's list for callers without one. If it is empty, an internal key may use every
            model, a virtual key every group that is configured by name.
        configured: Those groups; None while they are unknown.
    """
    if caller.models is not None:
        return caller.models
    return default or (ALL_MODELS if caller.kind == "internal" else configured)


def may_use_model(
    caller: Caller,
    default: tuple[str, ...],
    configured: tuple[str, ...] | None,
    group: str,
    resolve: Callable[[str], str] | None = None,
) -> bool | None:
    """Whether a caller, and each key above it, may use a model group; None while that is unknown."""
    own = allowed_models(caller, default, configured)
    if not caller.outer_models:
        return None if own is None else is_model_allowed(own, group, resolve)
    lists = [own]
    lists += [one if one is not None else default or configured for one in caller.outer_models]
    known = [one for one in lists if one is not None]
    if not all(is_model_allowed(one, group, resolve) for one in known):
        return False
    return True if len(known) == len(lists) else None


KillSwitchKind = Literal["key", "agent", "tenant", "model"]
OF_KEY, OF_AGENT = "key:", "agent:"
"""The owner whose runs a policy of the scope `run` limits; without either, all runs."""


@dataclass(frozen=True, slots=True)
class LimitPolicy:
    """Limits and budgets of one scope, for one subject or (`ANY`) as the scope's default.

    Attributes:
        subject: The key id, agent, user or provider; of runs `key:ID` or `agent:NAME`; without meaning in the
            scopes of tenants.
        group: The model group, in scopes that have one.
        mode: `enforce`, `shadow` (count only) or `off`; None follows the setting.
        on_store_failure: The reaction to an unavailable limits store; None follows the setting.
        duration_s: The longest time from a run's first call to its last one; 0 means no limit.
        weight: Of a tenant or key: its part of the slots while calls wait for them, relative to 100.
        priority: The highest class of its calls, and the class of those that ask for none.
        loop_guard: What the loop guard does, in the scopes of tenants, agents and keys.
    """

    scope: ScopeKind
    tenant: str = ANY
    subject: str = ANY
    group: str = ANY
    limits: Limits = field(default_factory=Limits)
    budgets: tuple[Budget, ...] = ()
    mode: PolicyMode | None = None
    on_store_failure: OnStoreFailure | None = None
    duration_s: int | None = None
    weight: int | None = None
    priority: Priority | None = None
    loop_guard: GuardRule | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it limits nothing."""
        nothing = self.limits == Limits() and not self.budgets and self.duration_s is None
        others = self.on_store_failure, self.weight, self.priority, self.loop_guard
        return nothing and others == (None, None, None, None)

    @property
    def key_id(self) -> str | None:
        """The key that it names; None for another target, or all keys."""
        if self.scope == "run" and self.subject.startswith(OF_KEY):
            return self.subject.removeprefix(OF_KEY)
        return self.subject if self.scope == "key" and self.subject != ANY else None

    @property
    def family_fields(self) -> tuple[str, ...]:
        """What it limits that the child keys of a key share with it: runs, weight."""
        shares_run = self.scope == "run" or self.loop_guard is not None
        return (*(("runs",) if shares_run else ()), *(("weight",) if self.weight is not None else ()))


@dataclass(frozen=True, slots=True)
class KillSwitch:
    """An enabled kill switch: rejects every call of a key, agent, tenant or model (or wildcard)."""

    kind: KillSwitchKind
    subject: str
    tenant: str = ANY


@dataclass(frozen=True, slots=True)
class PolicySnapshot:
    """All limit policies and enabled kill switches, and the epochs at which they were read.

    Attributes:
        has_imported_keys: Whether a key may be an imported one; True while that is not known.
    """

    policies: tuple[LimitPolicy, ...] = ()
    kill_switches: frozenset[KillSwitch] = frozenset()
    epochs: Mapping[str, int] = field(default_factory=dict[str, int])
    has_imported_keys: bool = True

    def epoch_of(self, tenant: str | None) -> int:
        """Returns the newest epoch of a tenant that this snapshot reflects."""
        return max(self.epochs.get(tenant or "", 0), self.epochs.get(ANY, 0))

    @property
    def newest_epoch(self) -> int:
        """The newest epoch of any tenant."""
        return max(self.epochs.values(), default=0)


MAX_KEPT_EPOCHS = 10_000
EVERY_EPOCH = -1
"""Older than any epoch: with it `fetch_policies` always returns the policies."""


class PolicySource(Protocol):
    """Provides policies."""

    async def fetch_policies(self, known_epoch: int) -> PolicySnapshot | None:
        """Returns the policies; None if no epoch is newer than `known_epoch`; raises `StoreUnavailable`."""
        ...


def active_kill_switch(switches: frozenset[KillSwitch], caller: Caller, group: str) -> KillSwitch | None:
    """Returns the first kill switch that rejects this caller's calls of a model group."""
    if not switches:
        return None
    subjects: tuple[tuple[KillSwitchKind, str | None], ...] = (
        *(("key", one.key_id) for one in caller.above),
        ("key", caller.key_id),
        ("agent", caller.agent),
        ("tenant", caller.tenant),
        ("model", group),
    )
    for kind, subject in subjects:
        for tenant in (caller.tenant or "", ANY) if subject is not None else ():
            switch = KillSwitch(kind, subject or "", tenant)
            if switch in switches:
                return switch
    tenants = {caller.tenant or "", ANY}
    for switch in _wildcard_switches(switches):
        if switch.tenant in tenants and is_model_allowed((switch.subject,), group):
            return switch
    return None


@lru_cache(maxsize=4)
def _wildcard_switches(switches: frozenset[KillSwitch]) -> tuple[KillSwitch, ...]:
    return tuple(switch for switch in switches if switch.kind == "model" and "*" in switch.subject)


def policy_applies_to(policy: LimitPolicy, key_id: str, spec: KeySpec) -> bool:
    """Whether a policy can apply to a call of a key, whatever the call is attributed to."""
    agent = None if spec.agent == ANY else spec.agent
    if policy.scope == "run":
        owners = {ANY, f"{OF_KEY}{key_id}", policy.subject if agent is None else f"{OF_AGENT}{agent}"}
        named = policy.key_id in {None, key_id} and policy.subject in owners
        return named and policy.tenant in {ANY, spec.tenant}
    subjects = {"key": key_id, "agent": agent, "user_model": spec.user}
    if policy.scope in {"tenant", "tenant_group"} and spec.tenant is None:
        return False
    bound = subjects.get(policy.scope)
    return policy.tenant in {ANY, spec.tenant} and (bound is None or policy.subject in {ANY, bound})


class ModelNames(Protocol):
    """The names of the model groups that are served."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """The groups configured by name; None while unknown."""
        ...

    def resolved(self, name: str) -> str:
        """Returns the group of an alias; any other name unchanged."""
        ...


class PolicyWatcher:
    """The policies as this replica knows them: read again when they have changed.

    A change is seen within 0.5 s while Postgres answers, at once when the limits store's epoch shows it, or
    another reader of the database does.
    While Postgres is unreachable the last policies hold.

    Attributes:
        snapshot: The policies; replaced as a whole, never changed.
    """

    def __init__(self, source: PolicySource | None = None) -> None:
        self._source = source
        self._seen: dict[str, int] = {}
        self._epochs: tuple[PolicySnapshot | None, dict[str, int]] = None, {}
        self._read_at = self._confirmed_at = float("-inf")
        self._unavailable = False
        self._lock = asyncio.Lock()
        self._loop = BackgroundLoop("rules", self._step, every_s=POLL_S)
        self.snapshot = PolicySnapshot()

    @property
    def is_enabled(self) -> bool:
        """Whether there is anything that could change."""
        return self._source is not None

    @property
    def is_fresh(self) -> bool:
        """Whether no change can have been missed for longer than `FRESH_S`."""
        return self._source is None or time.monotonic() - self._read_at < FRESH_S

    def epoch_of(self, tenant: str) -> int:
        """Returns the newest epoch of a tenant that `snapshot` reflects."""
        snapshot, known = self._epochs
        if snapshot is self.snapshot and tenant in known:
            return known[tenant]
        return self._find_epoch(tenant)

    def _find_epoch(self, tenant: str) -> int:
        """Returns it for the first call of a tenant since policies changed, and keeps it for the next."""
        snapshot, known = self._epochs
        if snapshot is not self.snapshot or len(known) > MAX_KEPT_EPOCHS:
            known = {}
            self._epochs = self.snapshot, known
        epoch = known[tenant] = max(self.snapshot.epoch_of(tenant), self._seen.get(tenant, 0))
        return epoch

    async def start(self) -> None:
        """Reads the policies, now if Postgres answers, and again when they change."""
        if self._source is not None:
            await self._loop.run_once(self._read_at_start)
            self._loop.start()

    async def stop(self) -> None:
        """Stops reading."""
        await self._loop.stop()

    async def refresh(self, tenant: str = ANY, epoch: int = 0) -> None:
        """Reads the policies as they are now; `epoch` is the tenant's in the limits store.

        Raises:
            StoreUnavailable: Postgres did not answer, or is known to be unreachable; then it is not waited
                for.
        """
        if self._source is None:
            return
        called_at = time.monotonic()
        if self._unavailable:
            raise _not_readable()
        async with self._lock:
            if self._unavailable:
                raise _not_readable()
            if self._read_at < called_at:  # calls that arrive during a read share the next one
                await self._read(self._source)
        if epoch > self.epoch_of(tenant):
            self._seen[tenant] = epoch
            self._epochs = None, {}

    def confirm(self, newest_epoch: int, at_s: float) -> None:
        """Another reader saw the newest epoch; it began at `at_s`, of `time.monotonic`."""
        self._confirmed_at = at_s
        if newest_epoch == self.snapshot.newest_epoch:
            self._read_at, self._unavailable = max(self._read_at, at_s), False
        elif not self._lock.locked():
            spawn("rules", self._read_now())

    async def read_again(self) -> None:
        """Reads the policies whatever their epochs, which in a restored database may be any.

        Raises:
            StoreUnavailable: Postgres did not answer.
        """
        if self._source is not None:
            async with self._lock:
                await self._read(self._source, EVERY_EPOCH)

    async def _read(self, source: PolicySource, known_epoch: int | None = None) -> None:
        started = time.monotonic()
        try:
            snapshot = await source.fetch_policies(
                self.snapshot.newest_epoch if known_epoch is None else known_epoch
            )
        except StoreUnavailable:
            self._unavailable = True
            raise
        self._read_at, self._unavailable = started, False
        if snapshot is not None:
            self.snapshot = snapshot

    async def _read_at_start(self) -> None:
        try:
            await self.refresh()
        except StoreUnavailable:
            log.warning("limit policies cannot be read at the start: defaults apply")

    async def _step(self) -> None:
        if time.monotonic() - self._confirmed_at >= _CONFIRMED_S:
            await self._read_now()

    async def _read_now(self) -> None:
        if self._source is not None:
            with contextlib.suppress(StoreUnavailable):
                async with self._lock:
                    await self._read(self._source)


def _not_readable() -> StoreUnavailable:
    return StoreUnavailable(
        "The database of the limit policies does not answer; please try again.", retry_after_s=FRESH_S
    )


def _switched_off(kill: KillSwitch, caller: Caller, model: str) -> Forbidden:
    name = {"agent": caller.agent, "tenant": caller.tenant, "model": model[:200]}.get(kill.kind)
    subject = "This API key" if kill.kind == "key" else f"The {kill.kind} '{name}'"
    return Forbidden(
        f"{subject} is switched off by an operator of this gateway.", code=f"{kill.kind}_disabled"
    )


class AccessPolicy:
    """Kill switches and allowed models: what a caller may call at all, before anything is counted."""

    def __init__(
        self, watcher: PolicyWatcher, models: ModelNames | None, default_models: tuple[str, ...]
    ) -> None:
        """`default_models` are what a caller without a list of its own may use."""
        self._watcher = watcher
        self._models = models
        self._default_models = default_models

    def check(self, caller: Caller, model: str, group: str) -> None:
        """Checks whether a caller may call the model group that serves `model`.

        Raises:
            ModelNotFound: The caller may not use the model; the same as for one that does not exist.
            Forbidden: A kill switch stops the call.
            StoreUnavailable: The models to judge by are not known.
        """
        kill = active_kill_switch(self._watcher.snapshot.kill_switches, caller, group)
        names = self._models
        configured, resolve = (names.names, names.resolved) if names is not None else ((), None)
        known = may_use_model(caller, self._default_models, configured, group, resolve)
        if kill is not None and (known is not False or kill.kind != "model"):
            raise _switched_off(kill, caller, model)
        if known is None:
            raise models_not_read(CATALOG_RETRY_S)
        if not known:
            raise model_not_found(model)

    def is_disabled(self, caller: Caller, group: str) -> bool:
        """Whether a kill switch stops a caller at a model group."""
        return active_kill_switch(self._watcher.snapshot.kill_switches, caller, group) is not None
