"""Which limits and budgets cover a call: every matching policy, merged over its scope's defaults.

Pure. Invariants: every scope that matches is checked; a specific value replaces only the default of its own
scope, field by field; enforced and shadow policies are merged and counted apart, so neither changes the
other. Budget periods are calendar days, weeks (from Monday) and months in the budget's time zone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta, timezone
from functools import reduce
from typing import Protocol
from zoneinfo import ZoneInfo

from llm_proxy.admission.limiter import SHARED_TAG, LimitCheck, LimitKind, LimitPlan, quote_name, tenant_tag
from llm_proxy.identity import Budget, Caller, Limits
from llm_proxy.identity.caller import (
    ANY,
    SHARED_SCOPES,
    KeyAbove,
    OnStoreFailure,
    Period,
    PolicyMode,
    ScopeKind,
)
from llm_proxy.identity.policies import OF_AGENT, OF_KEY, LimitPolicy, PolicySnapshot
from llm_proxy.settings import Settings
from llm_proxy.wildcards import wildcard_matches

EPOCH_START = datetime(1970, 1, 1, tzinfo=UTC)
DAY_MS = 86_400_000
UTC_NAME = "UTC"
_LIMITS: tuple[tuple[str, LimitKind], ...] = (
    ("rpm", "requests"),
    ("tpm", "tokens"),
    ("parallel", "parallel"),
)
_KEY_LETTER = {"requests": "r", "tokens": "t", "parallel": "p", "budget": "m", "duration": "d"}
"""Not `b`: a store may still hold budgets that older versions counted under it, reservations included."""
_LAYERS: tuple[PolicyMode, ...] = ("enforce", "shadow")
BY_BODY: frozenset[ScopeKind] = frozenset({"agent", "user_model", "tenant_group", "run"})
"""The scopes that can differ between two calls of one key."""
CATALOG_PLAN_TTL_MS = 5_000
"""How long a plan that depends on the catalog is valid: an alias may move to another group."""


_DAYS_TO_NEXT: Mapping[Period, int] = {"day": 1, "week": 7, "month": 32}
"""Days from a period's begin to a day of the next period."""


def period_start(budget: Budget, now_ms: int) -> datetime:
    """When the period a budget counts in began; a budget without periods began in 1970."""
    if budget.period == "total":
        return EPOCH_START
    now = datetime.fromtimestamp(now_ms / 1000, _zone(budget.zone))
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if budget.period == "week":
        return midnight - timedelta(days=midnight.weekday())
    return midnight if budget.period == "day" else midnight.replace(day=1)


def period_end_ms(budget: Budget, now_ms: int) -> int:
    """When the period ends, in milliseconds since 1970; 0 for one that never does."""
    if budget.period == "total":
        return 0
    start = period_start(budget, now_ms)
    following = start + timedelta(days=_DAYS_TO_NEXT[budget.period])
    if budget.period == "month":
        following = following.replace(day=1)
    return int(following.timestamp() * 1000)


def period_stamp(budget: Budget, now_ms: int) -> str:
    """Returns the part of a counter's key that is unique to a period and its time zone."""
    day = f"{period_start(budget, now_ms):%Y%m%d}"
    return day if budget.period == "total" or budget.zone == UTC_NAME else f"{day}:{budget.zone}"


def _zone(name: str) -> ZoneInfo | timezone:
    return UTC if name == UTC_NAME else ZoneInfo(name)


def next_day_ms(now_ms: int) -> int:
    """When the next day begins in UTC: no period of that zone ends earlier."""
    return (now_ms // DAY_MS + 1) * DAY_MS


class ServedModels(Protocol):
    """What the sidecar serves, as far as policies name it."""

    def resolved(self, name: str) -> str:
        """Returns the group an alias stands for; any other name unchanged."""
        ...

    def providers(self, group: str) -> tuple[str, ...]:
        """Returns the providers of a group's deployments."""
        ...

    def fallback_providers(self, group: str) -> tuple[str, ...]:
        """Returns the providers of the groups a call may fall back to."""
        ...


@dataclass(frozen=True, slots=True)
class PolicyDefaults:
    """The limits where no policy says otherwise."""

    agent_rpm: int = 10
    limits_mode: PolicyMode = "enforce"
    limits_on_store_failure: OnStoreFailure = "local"
    budgets_mode: PolicyMode = "enforce"
    budgets_on_store_failure: OnStoreFailure = "deny"

    @classmethod
    def from_settings(cls, settings: Settings) -> "PolicyDefaults":
        """Returns the defaults of the settings."""
        return cls(
            settings.agent_rpm,
            settings.limits_mode,
            settings.limits_on_store_failure,
            settings.budgets_mode,
            settings.budgets_on_store_failure,
        )


@dataclass(frozen=True, slots=True)
class PolicyResolver:
    """A snapshot of all policies, indexed by scope."""

    defaults: PolicyDefaults = PolicyDefaults()
    snapshot: PolicySnapshot = field(default_factory=PolicySnapshot)
    policies: Mapping[tuple[ScopeKind, str, str], tuple[LimitPolicy, ...]] = field(
        default_factory=dict[tuple[ScopeKind, str, str], tuple[LimitPolicy, ...]]
    )
    """By scope, tenant and subject: the policies for every model or some."""
    depends_on_catalog: bool = False
    """What a policy covers depends on what the sidecar serves."""
    has_shared: bool = False
    """Some policy counts the calls of several tenants."""
    has_runs: bool = False
    """Some policy limits runs."""
    tokens_depend_on_body: bool = False
    """Which limits on tokens cover a call depends on what its body names."""

    @classmethod
    def from_snapshot(cls, defaults: PolicyDefaults, snapshot: PolicySnapshot) -> "PolicyResolver":
        """Indexes a snapshot."""
        by_scope: dict[tuple[ScopeKind, str, str], tuple[LimitPolicy, ...]] = {}
        for policy in snapshot.policies:
            scope_key = policy.scope, policy.tenant, policy.subject
            by_scope[scope_key] = (*by_scope.get(scope_key, ()), policy)
        scopes = {policy.scope for policy in snapshot.policies}
        depends_on_catalog = "provider" in scopes or any(policy.group != ANY for policy in snapshot.policies)
        return cls(
            defaults,
            snapshot,
            by_scope,
            depends_on_catalog,
            has_shared=not scopes.isdisjoint(SHARED_SCOPES),
            has_runs="run" in scopes,
            tokens_depend_on_body=any(
                policy.limits.tpm and policy.scope in BY_BODY for policy in snapshot.policies
            ),
        )

    @property
    def caps_total_spend(self) -> bool:
        """Whether an enforced budget limits what all callers together may spend."""
        mode = self.defaults.budgets_mode
        return any(
            policy.scope == "global" and (policy.mode or mode) == "enforce" and one.unit == "usd"
            for policy in self.snapshot.policies
            for one in policy.budgets
        )

    def resolve(
        self,
        caller: Caller,
        group: str,
        now_ms: int,
        served: ServedModels | None = None,
        *,
        single_slot: bool = False,
    ) -> LimitPlan:
        """Returns every check that covers this caller at this model group.

        Args:
            caller: Who calls.
            group: The model group; empty for none.
            now_ms: The time, since 1970.
            served: What the sidecar serves; None while unknown.
            single_slot: Whether counters of different hash tags cannot be reached together.
        """
        hash_tag = SHARED_TAG if single_slot and self.has_shared else tenant_tag(caller.tenant)
        merge = _PolicyMerge(self, caller, now_ms, served, hash_tag)
        scopes, fallback_checks = [*_scopes(caller, group)], list[LimitCheck]()
        if self.has_shared:
            scopes.append(_Scope("global", ANY))
            own, others = _providers(group, served)
            scopes += [_Scope("provider", name) for name in own]
            fallback_checks = [check for name in others for check in merge.checks(_Scope("provider", name))]
        checks = tuple(check for scope in scopes for check in merge.checks(scope))
        run_checks = tuple(merge.checks(_Scope("run", ""))) if self.has_runs else ()
        ends = [one.period_end_ms for one in (*checks, *fallback_checks) if one.period_end_ms]
        until_ms = min([next_day_ms(now_ms), *ends])
        return LimitPlan(
            caller.tenant or "",
            hash_tag,
            checks,
            min(until_ms, now_ms + CATALOG_PLAN_TTL_MS) if self.depends_on_catalog else until_ms,
            tuple(one for one in fallback_checks if one.kind in {"tokens", "budget"}),
            run_checks,
        )


@dataclass(frozen=True, slots=True)
class _Scope:
    kind: ScopeKind
    subject: str
    group: str = ANY

    @property
    def label(self) -> str:
        if self.kind == "global":
            return "all callers together"
        names = {"user_model": "user", "tenant_group": "tenant"}
        label = f"{names.get(self.kind, self.kind)} {self.subject}"
        return label if self.group == ANY else f"{label} at {self.group}"


@dataclass(frozen=True, slots=True)
class _PolicyMerge:
    """The policies that cover one caller, merged."""

    resolver: PolicyResolver
    caller: Caller
    now_ms: int
    served: ServedModels | None
    hash_tag: str

    def checks(self, at: _Scope) -> Iterator[LimitCheck]:
        """The checks of a scope: the enforced ones, then those in shadow mode."""
        policies, defaults = self._policies_of(at), self.resolver.defaults
        for layer in _LAYERS:
            limits = (one for one in policies if (one.mode or defaults.limits_mode) == layer)
            merged = reduce(_override, limits, LimitPolicy(at.kind))
            yield from self._limits(at, merged, layer)
            if at.kind == "run":
                yield from self._duration(at, merged, layer)
            budgets = [one for one in policies if (one.mode or defaults.budgets_mode) == layer]
            yield from self._budgets(at, budgets, layer)

    def _policies_of(self, at: _Scope) -> list[LimitPolicy]:
        """Returns the policies of a scope, the most specific last."""
        found = [
            policy
            for tenant in (self.caller.tenant or "", ANY)
            for subject in self._subjects(at)
            for policy in self.resolver.policies.get((at.kind, tenant, subject), ())
            if wildcard_matches(policy.group, at.group)
            or (self.served and self.served.resolved(policy.group) == at.group)
        ]
        found.sort(key=lambda policy: (_specificity(policy.group), _narrowness(policy), policy.tenant != ANY))
        if at.kind == "agent":
            found.insert(0, LimitPolicy("agent", limits=Limits(rpm=self.resolver.defaults.agent_rpm)))
        elif at.kind == "key":
            own = self._key_of(at)
            found.append(LimitPolicy("key", limits=own.limits, budgets=own.budgets))
        return found

    def _subjects(self, at: _Scope) -> tuple[str, ...]:
        """Returns the subjects of policies that cover a scope."""
        if at.kind == "run":
            agent = (f"{OF_AGENT}{self.caller.agent}",) if self.caller.agent else ()
            return (f"{OF_KEY}{self.caller.root_key_id}", *agent, ANY)
        return (ANY,) if at.subject == ANY else (at.subject, ANY)

    def _duration(self, at: _Scope, policy: LimitPolicy, layer: PolicyMode) -> Iterator[LimitCheck]:
        """The longest time of a run; as for its budgets, an absent store means what it does for limits."""
        if policy.duration_s:
            yield LimitCheck(
                "duration",
                at.kind,
                self._label(at),
                self._key(at, "duration", layer),
                policy.duration_s * 1000,
                layer == "enforce",
                policy.on_store_failure or self.resolver.defaults.limits_on_store_failure,
            )

    def _limits(self, at: _Scope, policy: LimitPolicy, layer: PolicyMode) -> Iterator[LimitCheck]:
        on_store_failure = policy.on_store_failure or self.resolver.defaults.limits_on_store_failure
        for name, kind in _LIMITS:
            limit: int | None = getattr(policy.limits, name)
            if limit:
                key = self._key(at, kind, layer)
                yield LimitCheck(
                    kind,
                    at.kind,
                    self._label(at),
                    key,
                    limit,
                    layer == "enforce",
                    on_store_failure,
                    at.subject,
                )

    def _budgets(self, at: _Scope, policies: list[LimitPolicy], layer: PolicyMode) -> Iterator[LimitCheck]:
        policy = reduce(_override, policies, LimitPolicy(at.kind))
        if at.kind == "run":
            yield from self._run_budgets(at, policy, layer)
            return
        for one in policy.budgets:
            key = self._key(at, "budget", layer) + ("" if one.unit == "usd" else f":{one.unit}")
            yield LimitCheck(
                "budget",
                at.kind,
                self._label(at),
                f"{key}:{one.period}:{period_stamp(one, self.now_ms)}{_counter_suffix(one, policies)}",
                one.limit,
                layer == "enforce",
                policy.on_store_failure or self.resolver.defaults.budgets_on_store_failure,
                at.subject,
                self._spent_in(at),
                one.period,
                period_start(one, self.now_ms),
                period_end_ms(one, self.now_ms),
                one.zone,
                at.group,
                one.unit,
            )

    def _run_budgets(self, at: _Scope, policy: LimitPolicy, layer: PolicyMode) -> Iterator[LimitCheck]:
        for one in policy.budgets:
            yield LimitCheck(
                "budget",
                at.kind,
                self._label(at),
                f"{self._key(at, 'budget', layer)}{one.unit}:",
                one.limit,
                layer == "enforce",
                policy.on_store_failure or self.resolver.defaults.limits_on_store_failure,
                unit=one.unit,
            )

    def _label(self, at: _Scope) -> str:
        """Whose a scope is, for people; a key by the prefix its owner sees."""
        prefix = self._key_of(at).key_prefix if at.kind == "key" else ""
        return f"key {prefix}" if prefix else at.label

    def _key_of(self, at: _Scope) -> Caller | KeyAbove:
        """Returns the caller's key, or the one above it, whose scope this is."""
        return next((one for one in self.caller.above if one.key_id == at.subject), self.caller)

    def _spent_in(self, at: _Scope) -> str | None:
        """Returns the tenant whose calls count; None for all."""
        # A virtual key has one tenant; moved to another, it keeps what it has spent. The same name of an
        # agent or user in two tenants is two spenders. An internal key spends for each tenant separately.
        if at.kind in SHARED_SCOPES or (at.kind == "key" and self.caller.kind == "virtual"):
            return None
        return self.caller.tenant or ""

    def _key(self, at: _Scope, kind: LimitKind, layer: PolicyMode) -> str:
        letter = _KEY_LETTER[kind] if layer == "enforce" else f"s{_KEY_LETTER[kind]}"
        names = f"{letter}:{at.kind}:{quote_name(at.subject)}:{quote_name(at.group)}"
        if at.kind == "run":  # the run's digest follows
            names = f"{letter}:run:"
        if at.kind in SHARED_SCOPES:
            return f"lp:{SHARED_TAG}:{names}"
        own = tenant_tag(self.caller.tenant)
        return f"lp:{own}:{names}" if self.hash_tag == own else f"lp:{self.hash_tag}:{own[1:-1]}:{names}"


def _scopes(caller: Caller, group: str) -> Iterator[_Scope]:
    yield _Scope("key", caller.key_id)
    for one in caller.above:
        yield _Scope("key", one.key_id)
    if caller.agent:
        yield _Scope("agent", caller.agent)
    if caller.tenant:
        yield _Scope("tenant", caller.tenant)
    if caller.tenant and group:
        yield _Scope("tenant_group", caller.tenant, group)
    if caller.user and group:
        yield _Scope("user_model", caller.user, group)


def _providers(group: str, served: ServedModels | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the providers of a group, and others that may serve its calls as a fallback."""
    own = served.providers(group) if served is not None and group else ()
    others = served.fallback_providers(group) if served is not None and group else ()
    return own, tuple(name for name in others if name not in own)


def _narrowness(policy: LimitPolicy) -> int:
    """Returns the order of subjects in policies: none, a named one; of runs an agent's before a key's."""
    return 0 if policy.subject == ANY else 2 if policy.key_id is not None else 1


def _specificity(group: str) -> tuple[bool, int]:
    """Returns the order of model names in policies: wildcards before names, the shorter first."""
    return "*" not in group, len(group)


def _counter_suffix(budget: Budget, policies: list[LimitPolicy]) -> str:
    """Returns the part of a counter's key that is unique to a budget since it was added or added again.

    Policies that state the same budget share one counter, however they override each other: since the first.
    """
    kind = budget.unit, budget.period, budget.zone
    starts_us = [
        one.counting_since_us
        for policy in policies
        for one in policy.budgets
        if (one.unit, one.period, one.zone) == kind
    ]
    since_us = min(starts_us)
    return f":{since_us}" if since_us else ""


def _override(base: LimitPolicy, override: LimitPolicy) -> LimitPolicy:
    """Returns the values of `override`, and those of `base` where it has none."""
    values = {one.name: getattr(override.limits, one.name) for one in fields(Limits)}
    limits = replace(base.limits, **{name: value for name, value in values.items() if value is not None})
    replaced = {(one.unit, one.period) for one in override.budgets}
    budgets = (*override.budgets, *(one for one in base.budgets if (one.unit, one.period) not in replaced))
    on_store_failure = override.on_store_failure or base.on_store_failure
    duration_s = base.duration_s if override.duration_s is None else override.duration_s
    return replace(
        base, limits=limits, budgets=budgets, on_store_failure=on_store_failure, duration_s=duration_s
    )
