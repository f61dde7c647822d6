"""Policies that operators set beside the keys: limits of scopes, kill switches, allowed models.

Pure. Invariants: policies are frozen; `ANY` matches every value of a field, an empty text only requests
without a value; an epoch grows with every admin change, per tenant or for all (`ANY`). A limit of 0 means
"unlimited", `None` means "not set". A model that only a wildcard deployment serves is allowed to no virtual
key unless a list names it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, Protocol

from llm_proxy.identity.caller import ANY, Budget, Caller, Limits, OnStoreFailure, PolicyMode, ScopeKind
from llm_proxy.identity.virtual_keys import KeySpec
from llm_proxy.wildcards import wildcard_matches

ALL_MODELS = ("*",)


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


KillSwitchKind = Literal["key", "agent", "tenant", "model"]


@dataclass(frozen=True, slots=True)
class LimitPolicy:
    """Limits and budgets of one scope, for one subject or (`ANY`) as the scope's default.

    Attributes:
        subject: The key id, agent, user or provider; without meaning in the scopes of tenants.
        group: The model group, in scopes that have one.
        mode: `enforce`, `shadow` (count only) or `off`; None follows the setting.
        on_store_failure: The reaction to an unavailable limits store; None follows the setting.
    """

    scope: ScopeKind
    tenant: str = ANY
    subject: str = ANY
    group: str = ANY
    limits: Limits = field(default_factory=Limits)
    budgets: tuple[Budget, ...] = ()
    mode: PolicyMode | None = None
    on_store_failure: OnStoreFailure | None = None


@dataclass(frozen=True, slots=True)
class KillSwitch:
    """An enabled kill switch: rejects every call of a key, agent, tenant or model (or wildcard)."""

    kind: KillSwitchKind
    subject: str
    tenant: str = ANY


@dataclass(frozen=True, slots=True)
class PolicySnapshot:
    """All limit policies and enabled kill switches, and the epochs at which they were read."""

    policies: tuple[LimitPolicy, ...] = ()
    kill_switches: frozenset[KillSwitch] = frozenset()
    epochs: Mapping[str, int] = field(default_factory=dict[str, int])

    def epoch_of(self, tenant: str | None) -> int:
        """The newest epoch of a tenant that this snapshot reflects."""
        return max(self.epochs.get(tenant or "", 0), self.epochs.get(ANY, 0))

    @property
    def newest_epoch(self) -> int:
        """The newest epoch of any tenant."""
        return max(self.epochs.values(), default=0)


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
    subjects = {"key": key_id, "agent": None if spec.agent == ANY else spec.agent, "user_model": spec.user}
    if policy.scope in {"tenant", "tenant_group"} and spec.tenant is None:
        return False
    bound = subjects.get(policy.scope)
    return policy.tenant in {ANY, spec.tenant} and (bound is None or policy.subject in {ANY, bound})
