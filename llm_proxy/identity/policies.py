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

from llm_proxy.identity.caller import ANY, Budget, Caller, Limits, Mode, OnStoreFailure, ScopeKind
from llm_proxy.identity.virtual_keys import KeySpec
from llm_proxy.wildcards import covers

EVERYTHING = ("*",)


def allowed(patterns: tuple[str, ...], group: str, resolved: Callable[[str], str] | None = None) -> bool:
    """Whether one of the names or wildcards covers a group; `resolved` tells what an alias stands for."""
    if "*" in patterns or group in patterns:
        return True
    if any("*" in one and covers(one, group) for one in patterns):
        return True
    return resolved is not None and any(resolved(one) == group for one in patterns)


def usable(caller: Caller, default: tuple[str, ...], named: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """What a caller may use, as names and wildcards; None while nobody knows.

    Args:
        caller: Whose own list comes first.
        default: The operator's list for callers without one; empty when nobody chose. A trusted service may
            then use everything, a key every group configured by name.
        named: Those groups, if they are known.
    """
    if caller.models is not None:
        return caller.models
    return default or (EVERYTHING if caller.kind == "internal" else named)


KillKind = Literal["key", "agent", "tenant", "model"]


@dataclass(frozen=True, slots=True)
class Rule:
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
    mode: Mode | None = None
    on_store_failure: OnStoreFailure | None = None


@dataclass(frozen=True, slots=True)
class Kill:
    """A kill switch that is thrown: nothing of this key, agent, tenant or model (or wildcard) passes."""

    kind: KillKind
    subject: str
    tenant: str = ANY


@dataclass(frozen=True, slots=True)
class Rulebook:
    """All rules and thrown kill switches at one moment, and the epochs they were read at."""

    rules: tuple[Rule, ...] = ()
    kills: frozenset[Kill] = frozenset()
    epochs: Mapping[str, int] = field(default_factory=dict[str, int])

    def epoch_of(self, tenant: str | None) -> int:
        """The epoch this book knows for a tenant."""
        return max(self.epochs.get(tenant or "", 0), self.epochs.get(ANY, 0))

    @property
    def newest(self) -> int:
        """The newest epoch of any tenant."""
        return max(self.epochs.values(), default=0)


class RuleSource(Protocol):
    """Where rules come from."""

    async def rulebook(self, known: int) -> Rulebook | None:
        """The rules, or None when nothing is newer than the epoch known; raises `StoreUnavailable`."""
        ...


def killed_by(kills: frozenset[Kill], caller: Caller, group: str) -> Kill | None:
    """The first thrown switch that stops this caller at this model group."""
    if not kills:
        return None
    subjects: tuple[tuple[KillKind, str | None], ...] = (
        ("key", caller.key_id),
        ("agent", caller.agent),
        ("tenant", caller.tenant),
        ("model", group),
    )
    for kind, subject in subjects:
        for tenant in (caller.tenant or "", ANY) if subject is not None else ():
            kill = Kill(kind, subject or "", tenant)
            if kill in kills:
                return kill
    whose = {caller.tenant or "", ANY}
    return next((one for one in _wide(kills) if one.tenant in whose and allowed((one.subject,), group)), None)


@lru_cache(maxsize=4)
def _wide(kills: frozenset[Kill]) -> tuple[Kill, ...]:
    """The switches of all models a wildcard covers."""
    return tuple(one for one in kills if one.kind == "model" and "*" in one.subject)


def lies_on(rule: Rule, key_id: str, spec: KeySpec) -> bool:
    """Whether a rule may cover calls of a key, whatever they name where the key leaves it open."""
    subject = {"key": key_id, "agent": None if spec.agent == ANY else spec.agent, "user_model": spec.user}
    if rule.scope in {"tenant", "tenant_group"} and spec.tenant is None:
        return False
    bound = subject.get(rule.scope)
    return rule.tenant in {ANY, spec.tenant} and (bound is None or rule.subject in {ANY, bound})
