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
from llm_proxy.identity.admin_keys import AdminKeySpec, Role, validate_admin_key
from llm_proxy.identity.caller import (
    ANY,
    Budget,
    BudgetUnit,
    Limits,
    OnStoreFailure,
    Period,
    PolicyMode,
    ScopeKind,
    parse_tags,
)
from llm_proxy.identity.policies import KillSwitch, KillSwitchKind, LimitPolicy
from llm_proxy.identity.virtual_keys import KeyRaise, KeyRecord, KeySpec
from llm_proxy.json_access import Json
from llm_proxy.money import nano_to_usd

MAX_NAME_CHARS, MAX_NAMES = 256, 1000
MAX_NUMBER = 2**53
_AMOUNT = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?")
_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
_LIMIT_FIELDS = ("rpm", "tpm", "parallel")
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
    *_LIMIT_FIELDS,
}
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
}
"""The fields that say whom a rule of each scope is about."""
_BUDGET_FIELDS = {"period", "zone", *(f"limit_{unit}" for unit in get_args(BudgetUnit))}
Choice = TypeVar("Choice", bound=str)


def parse_key_spec(document: Mapping[str, Any], before: KeySpec | None = None) -> KeySpec:
    """The specification a document states, on top of the one before."""
    _reject_unknown_fields(document, _KEY_FIELDS)
    said = (key_fields(before) if before is not None else {}) | dict(document)
    name = _parse_name(said, "name")
    if name is None or name.startswith(("key_", "sk-")):
        raise BadRequest("A key needs a name, one that is no id or key.", param="name")
    return KeySpec(
        name=name,
        tenant=_parse_name(said, "tenant"),
        agent=_parse_name(said, "agent"),
        user=_parse_name(said, "user"),
        models=_parse_names(said, "models"),
        limits=_parse_limits(said),
        budgets=_parse_budgets(said),
        max_tokens_cap=_parse_count(said, "max_tokens_cap", least=1, most=2**31 - 1),
        cache=parse_flag(said, "cache", default=True),
        expires_at=_parse_time(said, "expires_at"),
        tags=parse_tags(said.get("tags"), "tags"),
    )


def parse_policy(document: Mapping[str, Any]) -> LimitPolicy:
    """The rule a document states."""
    rule = replace(
        parse_policy_target(document),
        limits=_parse_limits(document),
        budgets=_parse_budgets(document),
        mode=_parse_choice(document, "mode", get_args(PolicyMode)),
        on_store_failure=_parse_choice(document, "on_store_failure", get_args(OnStoreFailure)),
    )
    names = {"tenant": rule.tenant, "subject": rule.subject if rule.scope != "key" else ANY}
    for field, name in names.items():
        if name != ANY and "*" in name:
            raise BadRequest(f"Invalid '{field}': only models are named by wildcards.", param=field)
    if rule.limits == Limits() and not rule.budgets and rule.on_store_failure is None:
        raise BadRequest("A rule needs a limit or a budget.", param="mode" if rule.mode else "rpm")
    return rule


def parse_policy_target(document: Mapping[str, Any]) -> LimitPolicy:
    """Whom a document's rule is about, without what it says of them."""
    _reject_unknown_fields(document, _POLICY_FIELDS)
    scope = _parse_choice(document, "scope", get_args(ScopeKind))
    if scope is None:
        raise BadRequest("A rule needs a scope.", param="scope")
    tenant, subject, model = (_parse_name(document, field) or ANY for field in _TARGET_FIELDS)
    if scope in {"tenant", "tenant_group"}:  # whose subject is the tenant: documents may repeat it
        subject = ANY if subject == tenant else subject
    usable = _TARGET_FIELDS_OF_SCOPE[scope]
    for field, name in (("tenant", tenant), ("subject", subject), ("model", model)):
        if name != ANY and field not in usable:
            known = f"it is narrowed by {', '.join(usable)}" if usable else "it covers every call"
            raise BadRequest(f"The scope '{scope}' has no '{field}': {known}.", param=field)
    return LimitPolicy(scope, tenant, tenant if scope in {"tenant", "tenant_group"} else subject, model)


def parse_kill_switch(document: Mapping[str, Any]) -> tuple[KillSwitch, str]:
    """The kill switch a document states, and why it is thrown."""
    _reject_unknown_fields(document, _KILL_SWITCH_FIELDS)
    kind = _parse_choice(document, "kind", get_args(KillSwitchKind))
    subject = _parse_name(document, "subject")
    if kind is None or subject is None:
        raise BadRequest("A kill switch needs a kind and a subject.", param="subject" if kind else "kind")
    return KillSwitch(kind, subject, _parse_name(document, "tenant") or ANY), _parse_name(
        document, "reason"
    ) or ""


def parse_admin_key(document: Mapping[str, Any]) -> AdminKeySpec:
    """The admin key a document states."""
    _reject_unknown_fields(document, {"name", "role", "tenant", "expires_at"})
    name = _parse_name(document, "name")
    role: Role | None = _parse_choice(document, "role", get_args(Role))
    if name is None or role is None:
        raise BadRequest("An admin key needs a name and a role.", param="role" if name else "name")
    return validate_admin_key(
        AdminKeySpec(name, role, _parse_name(document, "tenant"), _parse_time(document, "expires_at"))
    )


def key_fields(spec: KeySpec) -> Json:
    """A specification as a document."""
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
    """A key as a document, with no secret in it."""
    return {
        "id": record.key_id,
        **key_fields(record.spec),
        "prefixes": list(record.prefixes),
        "created_at": _time_text(record.created_at),
        "changed_at": _time_text(record.changed_at),
        "revoked_at": _time_text(record.revoked_at),
        "raise": raise_document(record.running_raise) if record.running_raise is not None else None,
    }


def parse_raise(document: Mapping[str, Any]) -> KeyRaise:
    """The raise a document states."""
    _reject_unknown_fields(document, {*_LIMIT_FIELDS, "budgets", "until"})
    until = _parse_time(document, "until")
    if until is None:
        raise BadRequest("A raise needs its end.", param="until")
    return KeyRaise(_parse_limits(document), _parse_budgets(document), until)


def raise_document(raised: KeyRaise) -> Json:
    """A raise as a document; null is as the key has it."""
    return limits_document(raised.limits, raised.budgets) | {"until": _time_text(raised.until)}


def limits_document(limits: Limits, budgets: tuple[Budget, ...]) -> Json:
    """Limits and budgets as fields of a document."""
    return {**limit_fields(limits), "budgets": budget_fields(budgets)}


def policy_document(rule: LimitPolicy) -> Json:
    """A rule as a document; null where its scope has no such field."""
    named = {"tenant": rule.tenant, "subject": rule.subject, "model": rule.group}
    usable = _TARGET_FIELDS_OF_SCOPE[rule.scope]
    return {
        "scope": rule.scope,
        **{field: named[field] if field in usable else None for field in _TARGET_FIELDS},
        **limit_fields(rule.limits),
        "budgets": budget_fields(rule.budgets),
        "mode": rule.mode,
        "on_store_failure": rule.on_store_failure,
    }


def limit_fields(limits: Limits) -> Json:
    """Limits as fields of a document."""
    return {"rpm": limits.rpm, "tpm": limits.tpm, "parallel": limits.parallel}


def budget_fields(budgets: tuple[Budget, ...]) -> list[Json]:
    """Budgets as a field of a document."""
    return [
        {
            f"limit_{one.unit}": f"{nano_to_usd(one.limit):f}" if one.unit == "usd" else one.limit,
            "period": one.period,
            **({"zone": one.zone} if one.zone != "UTC" else {}),
        }
        for one in budgets
    ]


def _reject_unknown_fields(document: Mapping[str, Any], fields: set[str]) -> None:
    for field in document:
        if field not in fields:
            raise BadRequest(f"Unknown field {str(field)[:100]!r}.", param=str(field)[:100])


def _invalid(field: str, expected: str) -> BadRequest:
    return BadRequest(f"Invalid '{field}': expected {expected}.", param=field)


def _parse_name(said: Mapping[str, Any], field: str) -> str | None:
    value = said.get(field)
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


def _parse_names(said: Mapping[str, Any], field: str) -> tuple[str, ...] | None:
    value = said.get(field)
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(cast("list[Any]", value)) > MAX_NAMES:
        raise _invalid(field, f"a list of at most {MAX_NAMES} names")
    named = [_parse_name({field: one}, field) for one in cast("list[Any]", value)]
    return tuple(one for one in named if one is not None)


def _parse_count(
    said: Mapping[str, Any], field: str, *, least: int = 0, most: int = MAX_NUMBER
) -> int | None:
    value = said.get(field)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _invalid(field, f"a whole number from {least} to {most}")
    return value


def parse_flag(said: Mapping[str, Any], field: str, *, default: bool) -> bool:
    """A field that is true or false, and nothing that merely counts as one."""
    value = said.get(field, default)
    if not isinstance(value, bool):
        raise _invalid(field, "true or false")
    return value


def _parse_time(said: Mapping[str, Any], field: str) -> datetime | None:
    value = said.get(field)
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


def _parse_choice(said: Mapping[str, Any], field: str, choices: tuple[Choice, ...]) -> Choice | None:
    value = said.get(field)
    if value is None:
        return None
    for choice in choices:
        if value == choice:
            return choice
    raise _invalid(field, f"one of {', '.join(choices)}")


def _parse_limits(said: Mapping[str, Any]) -> Limits:
    rpm, tpm, parallel = (_parse_count(said, field) for field in _LIMIT_FIELDS)
    return Limits(rpm, tpm, parallel)


def _parse_budgets(said: Mapping[str, Any]) -> tuple[Budget, ...]:
    value = said.get("budgets") or ()
    if not isinstance(value, list | tuple):
        raise _invalid("budgets", "a list")
    budgets: list[Budget] = []
    for entry in cast("list[Any]", value):
        one = cast("Json", entry) if isinstance(entry, dict) else {}
        units = [unit for unit in get_args(BudgetUnit) if f"limit_{unit}" in one]
        if len(units) != 1 or not one.keys() <= _BUDGET_FIELDS or "period" not in one:
            raise _invalid(
                "budgets", "entries of a period and one of limit_usd, limit_requests, limit_tokens"
            )
        [unit], period = units, _parse_choice(one, "period", get_args(Period))
        if period is None or (unit, period) in {(each.unit, each.period) for each in budgets}:
            raise _invalid("budgets", "each period once")
        limit = _parse_usd(one["limit_usd"]) if unit == "usd" else _parse_count(one, f"limit_{unit}")
        if limit is None:
            raise _invalid(f"limit_{unit}", f"a whole number from 0 to {MAX_NUMBER}")
        budgets.append(Budget(limit, period, _parse_zone(one, period), unit))
    return tuple(budgets)


def _parse_zone(said: Mapping[str, Any], period: Period) -> str:
    """The time zone of a budget's calendar."""
    zone = said.get("zone")
    if zone is None or zone == "UTC":
        return "UTC"
    if period == "total":
        raise BadRequest("A budget in total has no calendar, and so no zone.", param="zone")
    if not isinstance(zone, str) or zone not in available_timezones():
        raise _invalid("zone", "the name of a time zone, such as Europe/Berlin")
    return zone


def _parse_usd(value: Any) -> int:  # noqa: ANN401 -- as somebody wrote it
    """Nano-dollars; 0 only where 0 was said."""
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
