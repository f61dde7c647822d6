"""Which limits and budgets cover a call: the rules, laid over each other.

Pure. Invariants: all scopes that match are checked; a specific value replaces only the default of its own
scope, field by field; nothing more general ever loosens or tightens another scope.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import product

from llm_proxy.admission import budget as money
from llm_proxy.admission.check import Check, Kind, Plan, quoted, tag
from llm_proxy.identity import Caller, Limits
from llm_proxy.identity.caller import Mode, OnStoreFailure, ScopeKind
from llm_proxy.identity.rules import ANY, Rule, Rulebook
from llm_proxy.settings import Settings

_LIMITS: tuple[tuple[str, Kind], ...] = (("rpm", "requests"), ("tpm", "tokens"), ("parallel", "parallel"))
_KEY_LETTER = {"requests": "r", "tokens": "t", "parallel": "p", "budget": "m"}
"""Budgets were counted under `b` by versions that kept reservations in what was spent."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds where no rule says otherwise."""

    agent_rpm: int = 10
    limits_mode: Mode = "enforce"
    limits_on_store_failure: OnStoreFailure = "local"
    budgets_mode: Mode = "enforce"
    budgets_on_store_failure: OnStoreFailure = "deny"

    @classmethod
    def of(cls, settings: Settings) -> "Defaults":
        """What the settings say."""
        return cls(
            settings.agent_rpm,
            settings.limits_mode,
            settings.limits_on_store_failure,
            settings.budgets_mode,
            settings.budgets_on_store_failure,
        )


@dataclass(frozen=True, slots=True)
class Policies:
    """A rulebook, ready to be asked."""

    defaults: Defaults = Defaults()
    book: Rulebook = field(default_factory=Rulebook)
    rules: Mapping[tuple[str, str, str, str], Rule] = field(
        default_factory=dict[tuple[str, str, str, str], Rule]
    )

    @classmethod
    def of(cls, defaults: Defaults, book: Rulebook) -> "Policies":
        """The policies of a rulebook."""
        rules: dict[tuple[str, str, str, str], Rule] = {
            (rule.scope, rule.tenant, rule.subject, rule.group): rule for rule in book.rules
        }
        return cls(defaults, book, rules)

    def plan(self, caller: Caller, group: str, now_ms: int) -> Plan:
        """Every check that covers this caller at this model group."""
        checks = [check for scope in _scopes(caller, group) for check in self._checks(scope, caller, now_ms)]
        ends = [one.expires_ms for one in checks if one.expires_ms]
        until_ms = min([money.next_day_ms(now_ms), *ends])
        return Plan(caller.tenant or "", tag(caller.tenant), tuple(checks), until_ms)

    def rule(self, scope: ScopeKind, tenant: str, subject: str, group: str) -> Rule:
        """The rules that match, laid over each other, the most specific first."""
        merged = Rule(scope)
        if scope == "agent":
            merged = replace(merged, limits=Limits(rpm=self.defaults.agent_rpm))
        places = product(_or_any(group), _or_any(subject), _or_any(tenant))
        for at_group, at_subject, at_tenant in reversed(list(places)):
            found = self.rules.get((scope, at_tenant, at_subject, at_group))
            merged = _over(found, merged) if found else merged
        return merged

    def _checks(self, at: "_Scope", caller: Caller, now_ms: int) -> Iterator[Check]:
        rule = self.rule(at.kind, caller.tenant or "", at.subject, at.group)
        if at.kind == "key":
            rule = _over(Rule("key", limits=caller.limits, budgets=caller.budgets), rule)
        yield from self._limits(at, rule, caller)
        mode = rule.mode or self.defaults.budgets_mode
        # A virtual key has one tenant, and takes what it spent along to another; other names mean
        # somebody else in another tenant, and an internal secret spends for each apart.
        spent_in = None if at.kind == "key" and caller.kind == "virtual" else caller.tenant or ""
        for one in rule.budgets if mode != "off" else ():
            key = f"{at.key(caller, 'budget')}:{one.period}:{money.stamp(one, now_ms)}"
            began, ends_ms = money.began(one, now_ms), money.ends_ms(one, now_ms)
            yield Check(
                "budget", at.kind, at.label, key,
                one.limit_nano_usd, mode == "enforce",
                rule.on_store_failure or self.defaults.budgets_on_store_failure,
                at.subject, spent_in, one.period, began, ends_ms, one.zone,
            )  # fmt: skip

    def _limits(self, at: "_Scope", rule: Rule, caller: Caller) -> Iterator[Check]:
        mode = rule.mode or self.defaults.limits_mode
        failing = rule.on_store_failure or self.defaults.limits_on_store_failure
        for name, kind in _LIMITS if mode != "off" else ():
            limit: int | None = getattr(rule.limits, name)
            if limit:
                key = at.key(caller, kind)
                yield Check(kind, at.kind, at.label, key, limit, mode == "enforce", failing)


@dataclass(frozen=True, slots=True)
class _Scope:
    kind: ScopeKind
    subject: str
    group: str = ANY

    @property
    def label(self) -> str:
        names = {"user_model": "user", "tenant_group": "tenant"}
        label = f"{names.get(self.kind, self.kind)} {self.subject}"
        return label if self.group == ANY else f"{label} at {self.group}"

    def key(self, caller: Caller, kind: Kind) -> str:
        names = f"{self.kind}:{quoted(self.subject)}:{quoted(self.group)}"
        return f"lp:{tag(caller.tenant)}:{_KEY_LETTER[kind]}:{names}"


def _scopes(caller: Caller, group: str) -> Iterator[_Scope]:
    yield _Scope("key", caller.key_id)
    if caller.agent:
        yield _Scope("agent", caller.agent)
    if caller.tenant:
        yield _Scope("tenant", caller.tenant)
    if caller.tenant and group:
        yield _Scope("tenant_group", caller.tenant, group)
    if caller.user and group:
        yield _Scope("user_model", caller.user, group)


def _or_any(name: str) -> tuple[str, ...]:
    return (ANY,) if name == ANY else (name, ANY)


def _over(upper: Rule, lower: Rule) -> Rule:
    """What the upper rule says, and the lower one where it is silent."""
    said = {one.name: getattr(upper.limits, one.name) for one in fields(Limits)}
    limits = replace(lower.limits, **{name: value for name, value in said.items() if value is not None})
    periods = {one.period for one in upper.budgets}
    budgets = (*upper.budgets, *(one for one in lower.budgets if one.period not in periods))
    return replace(
        lower,
        limits=limits,
        budgets=budgets,
        mode=upper.mode or lower.mode,
        on_store_failure=upper.on_store_failure or lower.on_store_failure,
    )
