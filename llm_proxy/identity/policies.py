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
    patterns: tuple[str, ...], group: str, resolved: Callable[[str], str] | None = None
) -> bool:
    """Whether one of the names or wildcards covers a group; `resolved` tells what an alias stands for."""
    if "*" in patterns or group in patterns:
        return True
    if any("*" in one and wildcard_matches(one, group) for one in patterns):
        return True
    return resolved is not None and any(resolved(one) == group for one in patterns)


def allowed_models(
    caller: Caller, default: tuple[str, ...], named: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    """What a caller may use, as names and wildcards; None while nobody knows.

    Args:
        caller: Whose own list comes first.
        default: The operator's list for callers without one; empty when nobody chose. A trusted service may
            then use everything, a key every group configured by name.
        named: Those groups, if they are known.
    """
    if caller.models is not None:
        return caller.models
    return default or (ALL_MODELS if caller.kind == "internal" else named)


KillSwitchKind = Literal["key", "agent", "tenant", "model"]


@dataclass(frozen=True, slots=True)
class LimitPolicy:
    """Limits and budgets of one scope, for one subject or (`ANY`) as the scope's default.

    Attributes:
        subject: The key id, agent or user; of no meaning for tenants and their model groups.
        group: The model group, in the scopes that know one.
        mode: Enforce, only watch, or ignore; None follows the setting.
        on_store_failure: What to do while the limits store is away; None follows the setting.
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
    """A kill switch that is thrown: nothing of this key, agent, tenant or model (or wildcard) passes."""

    kind: KillSwitchKind
    subject: str
    tenant: str = ANY


@dataclass(frozen=True, slots=True)
class PolicySnapshot:
    """All rules and thrown kill switches at one moment, and the epochs they were read at."""

    policies: tuple[LimitPolicy, ...] = ()
    kill_switches: frozenset[KillSwitch] = frozenset()
    epochs: Mapping[str, int] = field(default_factory=dict[str, int])

    def epoch_of(self, tenant: str | None) -> int:
        """The epoch this book knows for a tenant."""
        return max(self.epochs.get(tenant or "", 0), self.epochs.get(ANY, 0))

    @property
    def newest_epoch(self) -> int:
        """The newest epoch of any tenant."""
        return max(self.epochs.values(), default=0)


class PolicySource(Protocol):
    """Where rules come from."""

    async def fetch_policies(self, known: int) -> PolicySnapshot | None:
        """The rules, or None when nothing is newer than the epoch known; raises `StoreUnavailable`."""
        ...


def active_kill_switch(kills: frozenset[KillSwitch], caller: Caller, group: str) -> KillSwitch | None:
    """The first thrown switch that stops this caller at this model group."""
    if not kills:
        return None
    subjects: tuple[tuple[KillSwitchKind, str | None], ...] = (
        ("key", caller.key_id),
        ("agent", caller.agent),
        ("tenant", caller.tenant),
        ("model", group),
    )
    for kind, subject in subjects:
        for tenant in (caller.tenant or "", ANY) if subject is not None else ():
            kill = KillSwitch(kind, subject or "", tenant)
            if kill in kills:
                return kill
    whose = {caller.tenant or "", ANY}
    return next(
        (
            one
            for one in _wildcard_switches(kills)
            if one.tenant in whose and is_model_allowed((one.subject,), group)
        ),
        None,
    )


@lru_cache(maxsize=4)
def _wildcard_switches(kills: frozenset[KillSwitch]) -> tuple[KillSwitch, ...]:
    """The switches of all models a wildcard covers."""
    return tuple(one for one in kills if one.kind == "model" and "*" in one.subject)


def policy_applies_to(rule: LimitPolicy, key_id: str, spec: KeySpec) -> bool:
    """Whether a rule may cover calls of a key, whatever they name where the key leaves it open."""
    subject = {"key": key_id, "agent": None if spec.agent == ANY else spec.agent, "user_model": spec.user}
    if rule.scope in {"tenant", "tenant_group"} and spec.tenant is None:
        return False
    bound = subject.get(rule.scope)
    return rule.tenant in {ANY, spec.tenant} and (bound is None or rule.subject in {ANY, bound})
