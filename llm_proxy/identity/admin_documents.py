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
from llm_proxy.identity.admin_keys import AdminKeySpec, Role, checked
from llm_proxy.identity.caller import (
    ANY,
    Budget,
    Limits,
    Mode,
    OnStoreFailure,
    Period,
    ScopeKind,
    Unit,
    tags_from,
)
from llm_proxy.identity.policies import Kill, KillKind, Rule
from llm_proxy.identity.virtual_keys import KeyRecord, KeySpec, Raise
from llm_proxy.json_access import Json
from llm_proxy.money import nano_to_usd

LONGEST_NAME, MOST_NAMES = 256, 1000
MOST = 2**53
_AMOUNT = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?")
_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
_LIMITS = ("rpm", "tpm", "parallel")
_SPEC = {
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
    *_LIMITS,
}
_RULE = {"scope", "tenant", "subject", "model", "budgets", "mode", "on_store_failure", *_LIMITS}
_KILL = {"kind", "tenant", "subject", "reason"}
_NAMING = ("tenant", "subject", "model")
_NAMED_BY: dict[ScopeKind, tuple[str, ...]] = {
    "key": ("tenant", "subject"),
    "agent": ("tenant", "subject"),
    "tenant": ("tenant",),
    "user_model": ("tenant", "subject", "model"),
    "tenant_group": ("tenant", "model"),
    "global": (),
    "provider": ("subject",),
}
"""The fields that say whom a rule of each scope is about."""
_BUDGET = {"period", "zone", *(f"limit_{unit}" for unit in get_args(Unit))}
Choice = TypeVar("Choice", bound=str)


def spec_from(document: Mapping[str, Any], before: KeySpec | None = None) -> KeySpec:
    """The specification a document states, on top of the one before."""
    _known(document, _SPEC)
    said = (key_fields(before) if before is not None else {}) | dict(document)
    name = _name(said, "name")
    if name is None or name.startswith(("key_", "sk-")):
        raise BadRequest("A key needs a name, one that is no id or key.", param="name")
    return KeySpec(
        name=name,
        tenant=_name(said, "tenant"),
        agent=_name(said, "agent"),
        user=_name(said, "user"),
        models=_names(said, "models"),
        limits=_limits(said),
        budgets=_budgets(said),
        max_tokens_cap=_count(said, "max_tokens_cap", least=1, most=2**31 - 1),
        cache=flag(said, "cache", default=True),
        expires_at=_moment(said, "expires_at"),
        tags=tags_from(said.get("tags"), "tags"),
    )


def rule_from(document: Mapping[str, Any]) -> Rule:
    """The rule a document states."""
    rule = replace(
        rule_named(document),
        limits=_limits(document),
        budgets=_budgets(document),
        mode=_choice(document, "mode", get_args(Mode)),
        on_store_failure=_choice(document, "on_store_failure", get_args(OnStoreFailure)),
    )
    names = {"tenant": rule.tenant, "subject": rule.subject if rule.scope != "key" else ANY}
    for field, name in names.items():
        if name != ANY and "*" in name:
            raise BadRequest(f"Invalid '{field}': only models are named by wildcards.", param=field)
    if rule.limits == Limits() and not rule.budgets and rule.on_store_failure is None:
        raise BadRequest("A rule needs a limit or a budget.", param="mode" if rule.mode else "rpm")
    return rule


def rule_named(document: Mapping[str, Any]) -> Rule:
    """Whom a document's rule is about, without what it says of them."""
    _known(document, _RULE)
    scope = _choice(document, "scope", get_args(ScopeKind))
    if scope is None:
        raise BadRequest("A rule needs a scope.", param="scope")
    tenant, subject, model = (_name(document, field) or ANY for field in _NAMING)
    if scope in {"tenant", "tenant_group"}:  # whose subject is the tenant: documents may repeat it
        subject = ANY if subject == tenant else subject
    usable = _NAMED_BY[scope]
    for field, name in (("tenant", tenant), ("subject", subject), ("model", model)):
        if name != ANY and field not in usable:
            known = f"it is narrowed by {', '.join(usable)}" if usable else "it covers every call"
            raise BadRequest(f"The scope '{scope}' has no '{field}': {known}.", param=field)
    return Rule(scope, tenant, tenant if scope in {"tenant", "tenant_group"} else subject, model)


def kill_from(document: Mapping[str, Any]) -> tuple[Kill, str]:
    """The kill switch a document states, and why it is thrown."""
    _known(document, _KILL)
    kind = _choice(document, "kind", get_args(KillKind))
    subject = _name(document, "subject")
    if kind is None or subject is None:
        raise BadRequest("A kill switch needs a kind and a subject.", param="subject" if kind else "kind")
    return Kill(kind, subject, _name(document, "tenant") or ANY), _name(document, "reason") or ""


def admin_key_from(document: Mapping[str, Any]) -> AdminKeySpec:
    """The admin key a document states."""
    _known(document, {"name", "role", "tenant", "expires_at"})
    name = _name(document, "name")
    role: Role | None = _choice(document, "role", get_args(Role))
    if name is None or role is None:
        raise BadRequest("An admin key needs a name and a role.", param="role" if name else "name")
    return checked(AdminKeySpec(name, role, _name(document, "tenant"), _moment(document, "expires_at")))


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
        "expires_at": _text(spec.expires_at),
        "tags": list(spec.tags),
    }


def key_document(record: KeyRecord) -> Json:
    """A key as a document, with no secret in it."""
    return {
        "id": record.key_id,
        **key_fields(record.spec),
        "prefixes": list(record.prefixes),
        "created_at": _text(record.created_at),
        "changed_at": _text(record.changed_at),
        "revoked_at": _text(record.revoked_at),
        "raise": raise_document(record.raised) if record.raised is not None else None,
    }


def raise_from(document: Mapping[str, Any]) -> Raise:
    """The raise a document states."""
    _known(document, {*_LIMITS, "budgets", "until"})
    until = _moment(document, "until")
    if until is None:
        raise BadRequest("A raise needs its end.", param="until")
    return Raise(_limits(document), _budgets(document), until)


def raise_document(raised: Raise) -> Json:
    """A raise as a document; null is as the key has it."""
    return limits_document(raised.limits, raised.budgets) | {"until": _text(raised.until)}


def limits_document(limits: Limits, budgets: tuple[Budget, ...]) -> Json:
    """Limits and budgets as fields of a document."""
    return {**limit_fields(limits), "budgets": budget_fields(budgets)}


def rule_document(rule: Rule) -> Json:
    """A rule as a document; null where its scope has no such field."""
    named = {"tenant": rule.tenant, "subject": rule.subject, "model": rule.group}
    usable = _NAMED_BY[rule.scope]
    return {
        "scope": rule.scope,
        **{field: named[field] if field in usable else None for field in _NAMING},
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


def _known(document: Mapping[str, Any], fields: set[str]) -> None:
    for field in document:
        if field not in fields:
            raise BadRequest(f"Unknown field {str(field)[:100]!r}.", param=str(field)[:100])


def _wrong(field: str, expected: str) -> BadRequest:
    return BadRequest(f"Invalid '{field}': expected {expected}.", param=field)


def _name(said: Mapping[str, Any], field: str) -> str | None:
    value = said.get(field)
    if value is None:
        return None
    if (
        not isinstance(value, str)
        or not value.strip()
        or len(value) > LONGEST_NAME
        or not value.isprintable()
    ):
        raise _wrong(field, f"1 to {LONGEST_NAME} printable characters")
    return value.strip()


def _names(said: Mapping[str, Any], field: str) -> tuple[str, ...] | None:
    value = said.get(field)
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(cast("list[Any]", value)) > MOST_NAMES:
        raise _wrong(field, f"a list of at most {MOST_NAMES} names")
    named = [_name({field: one}, field) for one in cast("list[Any]", value)]
    return tuple(one for one in named if one is not None)


def _count(said: Mapping[str, Any], field: str, *, least: int = 0, most: int = MOST) -> int | None:
    value = said.get(field)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _wrong(field, f"a whole number from {least} to {most}")
    return value


def flag(said: Mapping[str, Any], field: str, *, default: bool) -> bool:
    """A field that is true or false, and nothing that merely counts as one."""
    value = said.get(field, default)
    if not isinstance(value, bool):
        raise _wrong(field, "true or false")
    return value


def _moment(said: Mapping[str, Any], field: str) -> datetime | None:
    value = said.get(field)
    if value is None:
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise _wrong(field, "a date and time (ISO 8601)") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if not _EARLIEST <= moment < _LATEST:
        raise _wrong(field, f"a date and time from {_EARLIEST.year} to {_LATEST.year - 1}")
    return moment


def _choice(said: Mapping[str, Any], field: str, choices: tuple[Choice, ...]) -> Choice | None:
    value = said.get(field)
    if value is None:
        return None
    for choice in choices:
        if value == choice:
            return choice
    raise _wrong(field, f"one of {', '.join(choices)}")


def _limits(said: Mapping[str, Any]) -> Limits:
    rpm, tpm, parallel = (_count(said, field) for field in _LIMITS)
    return Limits(rpm, tpm, parallel)


def _budgets(said: Mapping[str, Any]) -> tuple[Budget, ...]:
    value = said.get("budgets") or ()
    if not isinstance(value, list | tuple):
        raise _wrong("budgets", "a list")
    budgets: list[Budget] = []
    for entry in cast("list[Any]", value):
        one = cast("Json", entry) if isinstance(entry, dict) else {}
        units = [unit for unit in get_args(Unit) if f"limit_{unit}" in one]
        if len(units) != 1 or not one.keys() <= _BUDGET or "period" not in one:
            raise _wrong("budgets", "entries of a period and one of limit_usd, limit_requests, limit_tokens")
        [unit], period = units, _choice(one, "period", get_args(Period))
        if period is None or (unit, period) in {(each.unit, each.period) for each in budgets}:
            raise _wrong("budgets", "each period once")
        limit = _amount(one["limit_usd"]) if unit == "usd" else _count(one, f"limit_{unit}")
        if limit is None:
            raise _wrong(f"limit_{unit}", f"a whole number from 0 to {MOST}")
        budgets.append(Budget(limit, period, _zone(one, period), unit))
    return tuple(budgets)


def _zone(said: Mapping[str, Any], period: Period) -> str:
    """The time zone of a budget's calendar."""
    zone = said.get("zone")
    if zone is None or zone == "UTC":
        return "UTC"
    if period == "total":
        raise BadRequest("A budget in total has no calendar, and so no zone.", param="zone")
    if not isinstance(zone, str) or zone not in available_timezones():
        raise _wrong("zone", "the name of a time zone, such as Europe/Berlin")
    return zone


def _amount(value: Any) -> int:  # noqa: ANN401 -- as somebody wrote it
    """Nano-dollars; 0 only where 0 was said."""
    if isinstance(value, int) and not isinstance(value, bool):
        text = str(value) if 0 <= value <= MOST else ""
    else:
        text = str(value) if isinstance(value, float | str | Decimal) else ""
    if _AMOUNT.fullmatch(text):
        with localcontext(prec=100):
            nano = Decimal(text).scaleb(9)
            if nano <= MOST and nano == nano.to_integral_value():
                return int(nano)
    raise _wrong(
        "limit_usd", f"an amount in dollars from 0 to {nano_to_usd(MOST)} in steps of {nano_to_usd(1):f}"
    )


def _text(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment is not None else None
