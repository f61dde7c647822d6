"""Keys, limit policies, kill switches, raises and admin keys as JSON documents, parsed and written.

Pure. One vocabulary for the admin API, the command line and `keys.yaml`. Invariants: an unknown or invalid
field is rejected by its name; dollar amounts are exact decimals; `parse_key_spec` reads what `key_document`
writes.
Raises: `BadRequest` with the field's name in `param`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal, localcontext
from typing import Any, TypeVar, cast, get_args
from zoneinfo import available_timezones

from llm_proxy.errors import BadRequest
from llm_proxy.identity.admin_keys import AdminKeyRecord, AdminKeySpec, Role, validate_admin_key
from llm_proxy.identity.caller import (
    ANY,
    MAX_NAME_CHARS,
    Budget,
    BudgetUnit,
    Limits,
    OnStoreFailure,
    Period,
    PolicyMode,
    Priority,
    ScopeKind,
    parse_tags,
)
from llm_proxy.identity.guard_rules import guard_document, parse_guard_rule
from llm_proxy.identity.policies import OF_AGENT, OF_KEY, KillSwitch, KillSwitchKind, LimitPolicy
from llm_proxy.identity.queue_shares import MAX_WEIGHT
from llm_proxy.identity.virtual_keys import KeyRaise, KeyRecord, KeySpec
from llm_proxy.json_access import Json, as_object
from llm_proxy.money import nano_to_usd
from llm_proxy.quantities import TURNS, counted_amount, shown_amount

MAX_NAMES = 1000
MAX_NUMBER = 2**53
MAX_DURATION_S = 366 * 86_400
_AMOUNT = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?")
_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
_LIMIT_FIELDS = ("rpm", "tpm", "parallel")
_SHARE_FIELDS = ("weight", "priority")
"""What a policy of a tenant or key says of the queue."""
_KEY_FIELDS = {
    "name",
    "tenant",
    "agent",
    "user",
    "models",
    "budgets",
    "max_tokens_cap",
    "cache",
    "expires_at",
    "tags",
    *_LIMIT_FIELDS,
}
_POLICY_FIELDS = {
    "scope",
    "tenant",
    "subject",
    "model",
    "budgets",
    "mode",
    "on_store_failure",
    "duration_s",
    *_SHARE_FIELDS,
    "loop_guard",
    *_LIMIT_FIELDS,
}
_GUARDED_SCOPES: frozenset[ScopeKind] = frozenset({"tenant", "agent", "key"})
_KILL_SWITCH_FIELDS = {"kind", "tenant", "subject", "reason"}
_TARGET_FIELDS = ("tenant", "subject", "model")
_TARGET_FIELDS_OF_SCOPE: dict[ScopeKind, tuple[str, ...]] = {
    "key": ("tenant", "subject"),
    "agent": ("tenant", "subject"),
    "tenant": ("tenant",),
    "user_model": ("tenant", "subject", "model"),
    "tenant_group": ("tenant", "model"),
    "global": (),
    "provider": ("subject",),
    "run": ("tenant", "subject"),
}
"""The fields that a policy of each scope may have to name its target."""
_BUDGET_FIELDS = {"period", "zone", *(f"limit_{unit}" for unit in get_args(BudgetUnit))}
Choice = TypeVar("Choice", bound=str)


def parse_key_spec(document: Mapping[str, Any], before: KeySpec | None = None) -> KeySpec:
    """Parses a key's specification; a field that is missing stays as in `before`; raises `BadRequest`."""
    _reject_unknown_fields(document, _KEY_FIELDS)
    document = (key_fields(before) if before is not None else {}) | dict(document)
    name = parse_name_field(document, "name")
    if name is None or name.startswith(("key_", "sk-")):
        raise BadRequest("A key needs a name, which cannot begin with 'key_' or 'sk-'.", param="name")
    return KeySpec(
        name=name,
        tenant=parse_name_field(document, "tenant"),
        agent=parse_name_field(document, "agent"),
        user=parse_name_field(document, "user"),
        models=_parse_names(document, "models"),
        limits=_parse_limits(document),
        budgets=_parse_budgets(document),
        max_tokens_cap=_parse_count(document, "max_tokens_cap", least=1, most=2**31 - 1),
        cache=parse_flag(document, "cache", default=True),
        expires_at=_parse_time(document, "expires_at"),
        tags=parse_tags(document.get("tags"), "tags"),
    )


def parse_new_key(document: Mapping[str, Any], now: datetime) -> KeySpec:
    """Parses the specification of a key to be created, which has not ended yet; raises `BadRequest`."""
    spec = parse_key_spec(document)
    _reject_ended(spec.expires_at, now)
    return spec


def _reject_ended(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and expires_at <= now:
        raise _invalid("expires_at", "a time in the future")


def parse_policy(document: Mapping[str, Any]) -> LimitPolicy:
    """Parses a limit policy; raises `BadRequest`."""
    policy = parse_policy_target(document)
    of_runs = policy.scope == "run"
    if not of_runs and document.get("duration_s") is not None:
        raise BadRequest(
            f"The scope '{policy.scope}' has no 'duration_s': only runs have one.", param="duration_s"
        )
    policy = replace(
        policy,
        limits=_parse_limits(document),
        budgets=_parse_budgets(document, of_runs=of_runs),
        duration_s=_parse_count(document, "duration_s", most=MAX_DURATION_S),
        mode=_parse_choice(document, "mode", get_args(PolicyMode)),
        on_store_failure=_parse_choice(document, "on_store_failure", get_args(OnStoreFailure)),
        weight=_parse_count(document, "weight", least=1, most=MAX_WEIGHT),
        priority=_parse_choice(document, "priority", get_args(Priority)),
        loop_guard=parse_guard_rule(document.get("loop_guard")),
    )
    if policy.loop_guard is not None and policy.scope not in _GUARDED_SCOPES:
        message = f"The scope '{policy.scope}' has no 'loop_guard': only tenants, agents and keys have one."
        raise BadRequest(message, param="loop_guard")
    names = {"tenant": policy.tenant, "subject": policy.subject if policy.key_id is None else ANY}
    for field, name in names.items():
        if name != ANY and "*" in name:
            raise BadRequest(f"Invalid '{field}': a wildcard can only name models.", param=field)
    shares = next((name for name in _SHARE_FIELDS if getattr(policy, name) is not None), None)
    if shares is not None and policy.scope not in {"tenant", "key"}:
        raise BadRequest(
            f"The scope '{policy.scope}' has no '{shares}': only tenants and keys have one.", param=shares
        )
    if policy.is_empty:
        raise BadRequest("A limit policy needs a limit or a budget.", param="mode" if policy.mode else "rpm")
    return policy


def parse_policy_target(document: Mapping[str, Any]) -> LimitPolicy:
    """Parses the scope and the target of a limit policy, without its limits; raises `BadRequest`."""
    _reject_unknown_fields(document, _POLICY_FIELDS)
    scope = _parse_choice(document, "scope", get_args(ScopeKind))
    if scope is None:
        raise BadRequest("A limit policy needs a scope.", param="scope")
    tenant, subject, model = (parse_name_field(document, field) or ANY for field in _TARGET_FIELDS)
    if scope in {"tenant", "tenant_group"}:  # the subject is the tenant; a document may repeat it
        subject = ANY if subject == tenant else subject
    allowed = _TARGET_FIELDS_OF_SCOPE[scope]
    for field, name in (("tenant", tenant), ("subject", subject), ("model", model)):
        if name != ANY and field not in allowed:
            hint = f"it is narrowed by {', '.join(allowed)}" if allowed else "it covers every call"
            raise BadRequest(f"The scope '{scope}' has no '{field}': {hint}.", param=field)
    if scope == "run" and subject != ANY:
        owner = subject.partition(":")
        if f"{owner[0]}:" not in {OF_KEY, OF_AGENT} or not owner[2].strip():
            raise _invalid("subject", "`key:NAME` or `agent:NAME`, whose runs are limited")
    return LimitPolicy(scope, tenant, tenant if scope in {"tenant", "tenant_group"} else subject, model)


def parse_kill_switch(document: Mapping[str, Any]) -> tuple[KillSwitch, str]:
    """Parses a kill switch and the reason for it, empty if none is given; raises `BadRequest`."""
    _reject_unknown_fields(document, _KILL_SWITCH_FIELDS)
    kind = _parse_choice(document, "kind", get_args(KillSwitchKind))
    subject = parse_name_field(document, "subject")
    if kind is None or subject is None:
        raise BadRequest("A kill switch needs a kind and a subject.", param="subject" if kind else "kind")
    switch = KillSwitch(kind, subject, parse_name_field(document, "tenant") or ANY)
    return switch, parse_name_field(document, "reason") or ""


def parse_admin_key(document: Mapping[str, Any], now: datetime) -> AdminKeySpec:
    """Parses the specification of an admin key to be created; raises `BadRequest`."""
    _reject_unknown_fields(document, {"name", "role", "tenant", "expires_at"})
    name = parse_name_field(document, "name")
    role: Role | None = _parse_choice(document, "role", get_args(Role))
    if name is None or role is None:
        raise BadRequest("An admin key needs a name and a role.", param="role" if name else "name")
    expires_at = _parse_time(document, "expires_at")
    _reject_ended(expires_at, now)
    return validate_admin_key(AdminKeySpec(name, role, parse_name_field(document, "tenant"), expires_at))


def admin_key_document(record: AdminKeyRecord) -> Json:
    """Returns an admin key as a document, without its secret."""
    return {
        "id": record.key_id,
        "name": record.spec.name,
        "role": record.spec.role,
        "tenant": record.spec.tenant,
        "expires_at": _time_text(record.spec.expires_at),
        "prefix": record.prefix,
        "created_at": _time_text(record.created_at),
        "revoked_at": _time_text(record.revoked_at),
    }


def key_fields(spec: KeySpec) -> Json:
    """Returns a key's specification as fields of a document."""
    return {
        "name": spec.name,
        "tenant": spec.tenant,
        "agent": spec.agent,
        "user": spec.user,
        "models": list(spec.models) if spec.models is not None else None,
        **limit_fields(spec.limits),
        "budgets": budget_fields(spec.budgets),
        "max_tokens_cap": spec.max_tokens_cap,
        "cache": spec.cache,
        "expires_at": _time_text(spec.expires_at),
        "tags": list(spec.tags),
    }


def key_document(record: KeyRecord) -> Json:
    """Returns a key as a document, without its secret."""
    return {
        "id": record.key_id,
        **key_fields(record.spec),
        "prefixes": list(record.prefixes),
        "created_at": _time_text(record.created_at),
        "changed_at": _time_text(record.changed_at),
        "revoked_at": _time_text(record.revoked_at),
        "raise": raise_document(record.running_raise) if record.running_raise is not None else None,
        "ancestors": list(record.ancestors),
        "run": record.run,
    }


def parse_raise(document: Mapping[str, Any]) -> KeyRaise:
    """Parses a raise."""
    _reject_unknown_fields(document, {*_LIMIT_FIELDS, "budgets", "until"})
    until = _parse_time(document, "until")
    if until is None:
        raise BadRequest("A raise needs 'until', the time of its end.", param="until")
    return KeyRaise(_parse_limits(document), _parse_budgets(document), until)


def raise_document(key_raise: KeyRaise) -> Json:
    """Returns a raise as a document; a limit that is null stays as the key has it."""
    return limits_document(key_raise.limits, key_raise.budgets) | {"until": _time_text(key_raise.until)}


def limits_document(limits: Limits, budgets: tuple[Budget, ...]) -> Json:
    """Returns limits and budgets as fields of a document."""
    return {**limit_fields(limits), "budgets": budget_fields(budgets)}


def policy_document(policy: LimitPolicy) -> Json:
    """Returns a limit policy as a document; a field that its scope does not have is null."""
    target = {"tenant": policy.tenant, "subject": policy.subject, "model": policy.group}
    allowed = _TARGET_FIELDS_OF_SCOPE[policy.scope]
    return {
        "scope": policy.scope,
        **{field: target[field] if field in allowed else None for field in _TARGET_FIELDS},
        **limit_fields(policy.limits),
        "budgets": budget_fields(policy.budgets),
        "mode": policy.mode,
        "on_store_failure": policy.on_store_failure,
        **({"duration_s": policy.duration_s} if policy.scope == "run" else {}),
        "weight": policy.weight,
        "priority": policy.priority,
        "loop_guard": guard_document(policy.loop_guard),
    }


def limit_fields(limits: Limits) -> Json:
    """Returns limits as fields of a document."""
    return {"rpm": limits.rpm, "tpm": limits.tpm, "parallel": limits.parallel}


def budget_fields(budgets: tuple[Budget, ...]) -> list[Json]:
    """Returns the value of the field `budgets`."""
    return [
        {
            f"limit_{budget.unit}": f"{nano_to_usd(budget.limit):f}"
            if budget.unit == "usd"
            else shown_amount(budget.limit, budget.unit),
            "period": budget.period,
            **({"zone": budget.zone} if budget.zone != "UTC" else {}),
        }
        for budget in budgets
    ]


def _reject_unknown_fields(document: Mapping[str, Any], fields: set[str]) -> None:
    for field in document:
        if field not in fields:
            raise BadRequest(f"Unknown field {str(field)[:100]!r}.", param=str(field)[:100])


def _invalid(field: str, expected: str) -> BadRequest:
    return BadRequest(f"Invalid '{field}': expected {expected}.", param=field)


def parse_name_field(document: Mapping[str, Any], field: str) -> str | None:
    """Parses a name, None where there is none; raises `BadRequest`."""
    value = document.get(field)
    if value is None:
        return None
    if (
        not isinstance(value, str)
        or not value.strip()
        or len(value) > MAX_NAME_CHARS
        or not value.isprintable()
    ):
        raise _invalid(field, f"1 to {MAX_NAME_CHARS} printable characters")
    return value.strip()


def _parse_names(document: Mapping[str, Any], field: str) -> tuple[str, ...] | None:
    value = document.get(field)
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(cast("list[Any]", value)) > MAX_NAMES:
        raise _invalid(field, f"a list of at most {MAX_NAMES} names")
    names = [parse_name_field({field: item}, field) for item in cast("list[Any]", value)]
    return tuple(name for name in names if name is not None)


def _parse_count(
    document: Mapping[str, Any], field: str, *, least: int = 0, most: int = MAX_NUMBER
) -> int | None:
    value = document.get(field)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _invalid(field, f"a whole number from {least} to {most}")
    return value


def parse_flag(document: Mapping[str, Any], field: str, *, default: bool) -> bool:
    """Parses a field that must be true or false; 0, 1 and texts are invalid."""
    value = document.get(field, default)
    if not isinstance(value, bool):
        raise _invalid(field, "true or false")
    return value


def _parse_time(document: Mapping[str, Any], field: str) -> datetime | None:
    value = document.get(field)
    if value is None:
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise _invalid(field, "a date and time (ISO 8601)") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if not _EARLIEST <= moment < _LATEST:
        raise _invalid(field, f"a date and time from {_EARLIEST.year} to {_LATEST.year - 1}")
    return moment


def _parse_choice(document: Mapping[str, Any], field: str, choices: tuple[Choice, ...]) -> Choice | None:
    value = document.get(field)
    if value is None:
        return None
    for choice in choices:
        if value == choice:
            return choice
    raise _invalid(field, f"one of {', '.join(choices)}")


def _parse_limits(document: Mapping[str, Any]) -> Limits:
    rpm, tpm, parallel = (_parse_count(document, field) for field in _LIMIT_FIELDS)
    return Limits(rpm, tpm, parallel)


def _parse_budgets(document: Mapping[str, Any], *, of_runs: bool = False) -> tuple[Budget, ...]:
    """Parses budgets; a run's is for all of the run, and may count turns."""
    value = document.get("budgets") or ()
    if not isinstance(value, list | tuple):
        raise _invalid("budgets", "a list")
    budgets: list[Budget] = []
    for item in cast("list[Any]", value):
        entry = as_object(item)
        entry = {"period": "total", **entry} if of_runs else entry
        units = [unit for unit in get_args(BudgetUnit) if f"limit_{unit}" in entry]
        if len(units) != 1 or not entry.keys() <= _BUDGET_FIELDS or "period" not in entry:
            limits = ", ".join(f"limit_{unit}" for unit in get_args(BudgetUnit))
            raise _invalid("budgets", f"entries of a period and one of {limits}")
        [unit], period = units, _parse_choice(entry, "period", get_args(Period))
        if of_runs and period != "total":
            raise BadRequest("A budget of a run is for all of it: its period is `total`.", param="period")
        if unit == TURNS and not of_runs:
            raise BadRequest("Only runs have turns: scope `run`.", param="limit_turns")
        if period is None or (unit, period) in {(budget.unit, budget.period) for budget in budgets}:
            raise _invalid("budgets", "each period once")
        limit = _parse_usd(entry["limit_usd"]) if unit == "usd" else _parse_count(entry, f"limit_{unit}")
        most = MAX_NUMBER // counted_amount(1, unit)
        if limit is None or (unit != "usd" and limit > most):
            raise _invalid(f"limit_{unit}", f"a whole number from 0 to {most}")
        budgets.append(Budget(counted_amount(limit, unit), period, _parse_zone(entry, period), unit))
    return tuple(budgets)


def _parse_zone(document: Mapping[str, Any], period: Period) -> str:
    """Parses the time zone of a budget's calendar; a missing one is UTC."""
    zone = document.get("zone")
    if zone is None or zone == "UTC":
        return "UTC"
    if period == "total":
        raise BadRequest("A budget for the total has no calendar and no zone.", param="zone")
    if not isinstance(zone, str) or zone not in available_timezones():
        raise _invalid("zone", "the name of a time zone, such as Europe/Berlin")
    return zone


def _parse_usd(value: Any) -> int:  # noqa: ANN401 -- unchecked JSON
    """Parses an amount in dollars and returns nano-dollars, exactly; never rounds to 0."""
    if isinstance(value, int) and not isinstance(value, bool):
        text = str(value) if 0 <= value <= MAX_NUMBER else ""
    else:
        text = str(value) if isinstance(value, float | str | Decimal) else ""
    if _AMOUNT.fullmatch(text):
        with localcontext(prec=100):
            nano = Decimal(text).scaleb(9)
            if nano <= MAX_NUMBER and nano == nano.to_integral_value():
                return int(nano)
    raise _invalid(
        "limit_usd",
        f"an amount in dollars from 0 to {nano_to_usd(MAX_NUMBER)} in steps of {nano_to_usd(1):f}",
    )


def _time_text(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment is not None else None
