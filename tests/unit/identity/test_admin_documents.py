"""Keys, limit policies and kill switches as documents."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest

from llm_proxy.errors import BadRequest
from llm_proxy.identity import ANY, Budget, KeySpec, KillSwitch, LimitPolicy, Limits
from llm_proxy.identity.admin_documents import (
    MAX_NUMBER,
    budget_fields,
    key_fields,
    parse_key_spec,
    parse_kill_switch,
    parse_new_key,
    parse_policy,
    policy_document,
)
from llm_proxy.identity.caller import BudgetUnit
from llm_proxy.identity.postgres_store import budgets_from_json, budgets_to_json

Json = dict[str, Any]
WHOLE = KeySpec(
    "night-shift",
    "dao-1",
    "scout",
    "u",
    ("gpt-*",),
    Limits(1, 0, 3),
    (
        Budget(10_500_000_001, "month"),
        Budget(5, "day", "Asia/Kolkata", "requests"),
        Budget(9, "day", unit="tokens"),
    ),
    7,
    cache=False,
    expires_at=datetime(2030, 1, 1, tzinfo=UTC),
)


def test_a_written_key_document_parses_back() -> None:
    """With every field, exact to the nano-dollar."""
    assert parse_key_spec(key_fields(WHOLE)) == WHOLE
    policy = LimitPolicy("user_model", "t", "u", "m", Limits(tpm=5), (Budget(1, "day"),), "shadow", "deny")
    assert parse_policy(policy_document(policy)) == policy


def test_a_change_keeps_unnamed_fields() -> None:
    """And null removes a value."""
    changed = parse_key_spec({"rpm": 9, "user": None}, WHOLE)
    assert changed == replace(WHOLE, limits=Limits(9, 0, 3), user=None)


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "key_abc"}, "name"),
        ({"name": "sk-llmp-x"}, "name"),
        ({"name": "x", "tenant": "a\nb"}, "tenant"),
        ({"name": "x", "tenant": 5}, "tenant"),
        ({"name": "x", "rpm": -1}, "rpm"),
        ({"name": "x", "rpm": True}, "rpm"),
        ({"name": "x", "rpm": 1.5}, "rpm"),
        ({"name": "x", "tpm": 2**60}, "tpm"),
        ({"name": "x", "models": "gpt"}, "models"),
        ({"name": "x", "max_tokens_cap": 0}, "max_tokens_cap"),
        ({"name": "x", "tags": [1]}, "tags"),
        ({"name": "x", "tags": ["a,b"]}, "tags"),
        ({"name": "x", "cache": "no"}, "cache"),
        ({"name": "x", "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "x", "budgets": [{"limit_usd": 1}]}, "budgets"),
        ({"name": "x", "budgets": [{"limit_usd": "NaN", "period": "day"}]}, "limit_usd"),
        ({"name": "x", "budgets": [{"limit_usd": -1, "period": "day"}]}, "limit_usd"),
        ({"name": "x", "budgets": [{"limit_usd": 1, "period": "year"}]}, "period"),
        ({"name": "x", "budgets": [{"limit_usd": 1, "period": "day"}] * 2}, "budgets"),
        ({"name": "x", "colour": "red"}, "colour"),
    ],
)
def test_a_wrong_field_is_rejected_by_name(document: dict[str, Any], param: str) -> None:
    """Nothing is guessed or dropped."""
    with pytest.raises(BadRequest) as refused:
        parse_key_spec(document)
    assert refused.value.param == param


@pytest.mark.parametrize("amount", ["10.5", 10.5, "10.500000000"])
def test_dollars_are_parsed_exactly(amount: object) -> None:
    """Without a float's rounding."""
    said = parse_key_spec({"name": "x", "budgets": [{"limit_usd": amount, "period": "day"}]})
    assert said.budgets == (Budget(10_500_000_000, "day"),)
    assert (
        parse_key_spec({"name": "x", "budgets": [{"limit_usd": 0.1, "period": "day"}]}).budgets[0].limit
        == 10**8
    )


def test_a_policy_accepts_only_the_fields_of_its_scope() -> None:
    """A tenant's subject is the tenant; older documents may repeat it."""
    said: Json = {"rpm": 1}
    assert parse_policy(
        {"scope": "tenant", "tenant": "t", "subject": "t", "model": "*"} | said
    ) == LimitPolicy("tenant", "t", "t", limits=Limits(1))
    assert parse_policy({"scope": "tenant_group", "tenant": "t", "model": "m-*"} | said) == LimitPolicy(
        "tenant_group", "t", "t", "m-*", Limits(1)
    )
    assert parse_policy({"scope": "agent"} | said) == LimitPolicy("agent", limits=Limits(1))
    assert parse_policy({"scope": "global"} | said) == LimitPolicy("global", limits=Limits(1))
    assert parse_policy({"scope": "provider", "subject": "openai"} | said).subject == "openai"


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({"scope": "tenant", "tenant": "t", "model": "dear", "rpm": 1}, "model"),
        ({"scope": "tenant", "subject": "t", "rpm": 1}, "subject"),
        ({"scope": "key", "subject": "k", "model": "m", "rpm": 1}, "model"),
        ({"scope": "agent", "model": "m*", "rpm": 1}, "model"),
        ({"scope": "tenant_group", "tenant": "t", "subject": "u", "rpm": 1}, "subject"),
        ({"scope": "global", "tenant": "t", "rpm": 1}, "tenant"),
        ({"scope": "global", "subject": "t", "rpm": 1}, "subject"),
        ({"scope": "provider", "tenant": "t", "subject": "openai", "rpm": 1}, "tenant"),
        ({"scope": "provider", "subject": "openai", "model": "m", "rpm": 1}, "model"),
        ({"scope": "agent", "subject": "sc*", "rpm": 1}, "subject"),
        ({"scope": "tenant", "tenant": "t*", "rpm": 1}, "tenant"),
        ({"scope": "tenant", "tenant": "t"}, "rpm"),
        ({"scope": "agent", "mode": "shadow"}, "mode"),
    ],
)
def test_a_field_without_effect_is_rejected_by_name(document: Json, param: str) -> None:
    """A policy that would limit more than it says, or nothing, is not stored."""
    with pytest.raises(BadRequest) as refused:
        parse_policy(document)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("budget", "param"),
    [
        ({"limit_usd": 1, "limit_requests": 5, "period": "day"}, "budgets"),
        ({"period": "day"}, "budgets"),
        ({"limit_usd": None, "period": "day"}, "limit_usd"),
        ({"limit_tokens": None, "period": "day"}, "limit_tokens"),
        ({"limit_requests": 1.5, "period": "day"}, "limit_requests"),
        ({"limit_tokens": -1, "period": "day"}, "limit_tokens"),
        ({"limit_tokens": "5", "period": "day"}, "limit_tokens"),
        ({"limit_audio_seconds": MAX_NUMBER // 1000 + 1, "period": "day"}, "limit_audio_seconds"),
        ({"limit_images": True, "period": "day"}, "limit_images"),
        ({"limit_seconds": 1, "period": "day"}, "budgets"),
        ({"limit_usd": 1, "period": "day", "zone": "Mars/Olympus"}, "zone"),
        ({"limit_usd": 1, "period": "day", "zone": "../UTC"}, "zone"),
        ({"limit_usd": 1, "period": "day", "zone": 5}, "zone"),
        ({"limit_usd": 1, "period": "total", "zone": "Europe/Berlin"}, "zone"),
    ],
)
def test_a_budget_has_one_unit_and_an_existing_calendar(budget: Json, param: str) -> None:
    """The error names the field."""
    with pytest.raises(BadRequest) as refused:
        parse_policy({"scope": "global", "budgets": [budget]})
    assert refused.value.param == param


def test_a_period_may_have_one_budget_of_each_unit() -> None:
    """Once each."""
    units = get_args(BudgetUnit)[:-1]  # turns are of runs alone
    said: list[Json] = [{f"limit_{unit}": 1, "period": "day"} for unit in units]
    budgets = parse_policy({"scope": "global", "budgets": said}).budgets
    assert tuple(one.unit for one in budgets) == units
    counted = {"usd": 10**9, "audio_seconds": 1000}
    assert [one.limit for one in budgets] == [counted.get(unit, 1) for unit in units]
    assert budget_fields(budgets) == [{"limit_usd": "1", "period": "day"}, *said[1:]]
    assert budgets_from_json(budgets_to_json(budgets)) == budgets
    with pytest.raises(BadRequest):
        parse_policy({"scope": "global", "budgets": [*said, said[1]]})


def test_a_kill_switch_needs_a_kind_and_a_subject() -> None:
    """And may have a tenant and a reason."""
    assert parse_kill_switch({"kind": "agent", "subject": "a", "reason": "loops"}) == (
        KillSwitch("agent", "a"),
        "loops",
    )
    for wrong in ({"kind": "agent"}, {"subject": "a"}, {"kind": "planet", "subject": "a"}):
        with pytest.raises(BadRequest):
            parse_kill_switch(wrong)


ODD_NUMBERS: list[object] = [
    "1E+999999999", "1e-30", 1e-30, "NaN", "sNaN", "Infinity", "-Infinity", "-0.5", -1, "0x10", "1_000", "",
    " 1", "\u0661", True, False, None, [], {}, 10**400, -(10**400), 2**53 + 1, "9007199.254740993", 1e400,
    float("nan"), "0.0000000001", "1.0000000001", "1e-10", "9" * 5000, "1E-999999999", "1e99",
]  # fmt: skip


@pytest.mark.parametrize("amount", ODD_NUMBERS, ids=lambda one: repr(one)[:20])
def test_an_amount_out_of_bounds_or_between_steps_is_rejected_by_name(amount: object) -> None:
    """The error states the bounds; nothing is stored as 0."""
    with pytest.raises(BadRequest) as refused:
        parse_key_spec({"name": "x", "budgets": [{"limit_usd": amount, "period": "day"}]})
    assert refused.value.param == "limit_usd"
    assert "from 0 to 9007199.254740992 in steps of 0.000000001" in refused.value.message


@pytest.mark.parametrize(
    ("amount", "nano"),
    [
        (0, 0), ("0", 0), ("0.0", 0), ("0e5", 0), ("1e-9", 1), (1e-9, 1), ("0.100000000000", 10**8),
        (9007199, 9007199 * 10**9), ("9007199.254740992", 2**53), ("1E3", 10**12),
    ],
)  # fmt: skip
def test_an_amount_on_a_step_is_exact(amount: object, nano: int) -> None:
    """0 only where 0 was given."""
    spec = parse_key_spec({"name": "x", "budgets": [{"limit_usd": amount, "period": "day"}]})
    assert spec.budgets[0].limit == nano


@pytest.mark.parametrize("field", ["rpm", "tpm", "parallel", "max_tokens_cap"])
@pytest.mark.parametrize(
    "count", [-1, True, 1.0, "5", float("nan"), 10**400, 2**53 + 1, [], "1E5"], ids=lambda one: repr(one)[:9]
)
def test_a_count_out_of_bounds_is_rejected_by_name(field: str, count: object) -> None:
    """So is what is no whole number."""
    with pytest.raises(BadRequest) as refused:
        parse_key_spec({"name": "x", field: count})
    assert refused.value.param == field


def test_a_new_key_has_not_ended() -> None:
    """A change may end one; a document of a key that has ended parses back."""
    now = datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(BadRequest) as refused:
        parse_new_key(key_fields(WHOLE), now)
    assert refused.value.param == "expires_at"
    assert parse_new_key(key_fields(WHOLE), now - timedelta(seconds=1)) == WHOLE
    assert parse_key_spec({"expires_at": "2020-01-01"}, WHOLE).expires_at == datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "moment",
    [
        "9999-12-31T23:59:59-14:00",
        "0001-01-01T00:00:00+14:00",
        "1999-12-31",
        5,
        True,
        1e308,
        "x" * 999,
        "2026-13-01",
    ],
    ids=lambda one: repr(one)[:30],
)
def test_a_time_out_of_the_calendar_is_rejected_by_name(moment: object) -> None:
    """Whatever its offset makes of it."""
    with pytest.raises(BadRequest) as refused:
        parse_key_spec({"name": "x", "expires_at": moment})
    assert refused.value.param == "expires_at"


def test_a_policy_of_runs_limits_turns_and_time() -> None:
    """Its budgets are for all of the run; what is read is what is written."""
    said: Json = {
        "scope": "run",
        "tenant": "acme",
        "subject": "agent:scout",
        "parallel": 4,
        "duration_s": 3600,
        "budgets": [{"limit_usd": "5"}, {"limit_turns": 100}, {"limit_requests": 300, "period": "total"}],
    }
    policy = parse_policy(said)
    assert (policy.subject, policy.duration_s, policy.limits.parallel) == ("agent:scout", 3600, 4)
    assert [(one.unit, one.limit) for one in policy.budgets] == [
        ("usd", 5 * 10**9),
        ("turns", 100),
        ("requests", 300),
    ]
    written = policy_document(policy)
    assert written["duration_s"] == 3600
    assert {one["period"] for one in written["budgets"]} == {"total"}
    assert parse_policy({name: value for name, value in written.items() if value is not None}) == policy
    assert parse_policy({"scope": "run", "subject": "key:demo", "duration_s": 60}).key_id == "demo"
    assert parse_policy({"scope": "run", "duration_s": 60}).subject == ANY


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"subject": "scout", "parallel": 1}, "subject"),
        ({"subject": "agent:", "parallel": 1}, "subject"),
        ({"subject": "user:ann", "parallel": 1}, "subject"),
        ({"subject": "agent:sc*t", "parallel": 1}, "subject"),
        ({"model": "gpt-*", "parallel": 1}, "model"),
        ({"duration_s": -1}, "duration_s"),
        ({"duration_s": 1.5}, "duration_s"),
        ({"duration_s": 10**9}, "duration_s"),
        ({"budgets": [{"limit_usd": 1, "period": "day"}]}, "period"),
        ({"budgets": [{"limit_turns": 1}, {"limit_turns": 2}]}, "budgets"),
        ({"scope": "key", "duration_s": 60}, "duration_s"),
        ({"scope": "key", "budgets": [{"limit_turns": 1, "period": "total"}]}, "limit_turns"),
        ({"scope": "key", "budgets": [{"limit_usd": 1}]}, "budgets"),
        ({}, "rpm"),
    ],
)
def test_an_invalid_policy_of_runs_is_rejected_by_its_field(fields: Json, param: str) -> None:
    """What runs do not have, and what only runs have."""
    with pytest.raises(BadRequest) as refused:
        parse_policy({"scope": "run"} | fields)
    assert refused.value.param == param
