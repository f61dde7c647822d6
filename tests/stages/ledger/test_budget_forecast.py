"""Whether a budget lasts, by what its spender used so far and lately."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from usage_records import add_child_keys, record, run_ledger, until_written

from llm_proxy.admission import PolicyDefaults
from llm_proxy.admission.limiter import LimitCheck
from llm_proxy.admission.policy_resolver import PolicyResolver
from llm_proxy.identity import Budget, Caller, LimitPolicy, PolicySnapshot
from llm_proxy.identity.caller import BudgetUnit, Period, ScopeKind
from llm_proxy.ledger.budget_forecast import BudgetForecast, BudgetForecasts, forecast_budget, pace_per_day
from llm_proxy.ledger.record import UsageRecord
from llm_proxy.money import NANO_PER_USD

NOW = datetime(2026, 3, 11, 12, tzinfo=UTC)
MARCH, APRIL = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)


def usd(dollars: float) -> int:
    """Dollars as they are counted."""
    return round(dollars * NANO_PER_USD)


def march_budget(dollars: float) -> LimitCheck:
    """A budget of March."""
    return LimitCheck(
        "budget", "tenant", "tenant acme", "k", usd(dollars), period="month", period_start=MARCH,
        period_end_ms=int(APRIL.timestamp() * 1000),
    )  # fmt: skip


def test_a_budget_that_lasts_says_what_is_spent_at_the_end() -> None:
    """Ten and a half days are over; twenty and a half are left."""
    lasts = forecast_budget(march_budget(100), usd(30), usd(3), NOW)
    assert (lasts.expected, lasts.runs_out_at, lasts.share) == (usd(91.5), None, 0.3)
    short = forecast_budget(march_budget(60), usd(30), usd(3), NOW)
    assert (short.expected, short.runs_out_at) == (usd(91.5), NOW + timedelta(days=10))
    assert forecast_budget(march_budget(20), usd(30), 0, NOW).runs_out_at == NOW
    idle = forecast_budget(march_budget(20), usd(1), 0, NOW)
    assert (idle.expected, idle.runs_out_at) == (usd(1), None)
    endless = forecast_budget(LimitCheck("budget", "key", "k", "k", usd(5)), usd(1), usd(1), NOW)
    assert (endless.expected, endless.runs_out_at) == (None, NOW + timedelta(days=4))
    assert forecast_budget(march_budget(0), 0, 0, NOW).share == 1


def test_the_pace_is_since_the_first_use() -> None:
    """Of at least a day, so that an hour's burst is not multiplied."""
    today = NOW.replace(hour=0)
    assert pace_per_day({}, NOW) == 0
    assert pace_per_day({today: 10}, NOW) == 10
    assert pace_per_day({today - timedelta(days=2): 10, today: 15}, NOW) == 10
    assert pace_per_day({today - timedelta(days=6): 0, today: 15}, NOW) == 15


def spent(days_ago: float, dollars: float, **changes: object) -> UsageRecord:
    """A call so long ago."""
    at = datetime.now(UTC) - timedelta(days=days_ago)
    return record(started_at=at, cost_nano_usd=usd(dollars), **changes)


def days_since(days_ago: float) -> float:
    """Days since the day (UTC) began that was so long ago: its use may be of its first second."""
    now = datetime.now(UTC)
    first = (now - timedelta(days=days_ago)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (now - first) / timedelta(days=1)


def policy(
    scope: ScopeKind, limit: float, period: Period, unit: BudgetUnit = "usd", **names: Any
) -> LimitPolicy:
    """A policy with one budget."""
    amount = usd(limit) if unit == "usd" else int(limit)
    return LimitPolicy(scope, budgets=(Budget(amount, period, unit=unit),), **names)


async def forecasts(
    dsn: str, policies: Sequence[LimitPolicy], keys: Sequence[Caller] = (), tenant: str | None = None
) -> dict[tuple[str, str | None], BudgetForecast]:
    """The forecasts by scope and spender."""
    resolver = PolicyResolver.from_snapshot(PolicyDefaults(), PolicySnapshot(tuple(policies)))
    async with asyncpg.create_pool(dsn, min_size=0, max_size=1) as pool:
        found = await BudgetForecasts(pool).fetch(keys, resolver, None, datetime.now(UTC), tenant)
    return {(one.check.scope, one.check.spender_id): one for one in found}


async def test_budgets_of_every_scope_are_forecast_from_the_roll_ups(
    database_url: str, tmp_path: Path
) -> None:
    """Those of keys without use too; a default for whoever spent; a tenant sees its own alone."""
    async with run_ledger(database_url, tmp_path) as ledger:
        for one in (
            spent(0, 2, key_id="k1", tenant="acme", user="ann"),
            spent(1.2, 4, key_id="k1", tenant="acme"),
            spent(0, 0, key_id="k1", tenant="acme", user="ann", replay_of=str(uuid4())),
            spent(0, 8, key_id="k2", tenant="zeta", agent="agent:z"),
            spent(20, 16, key_id="k2", tenant="zeta", agent="agent:z"),
        ):
            ledger.call_finished(one)
        await until_written(ledger)
    policies = [
        policy("tenant", 100, "total"),
        policy("tenant", 10, "total", tenant="zeta"),
        policy("agent", 50, "day", subject="agent:z", tenant="zeta"),
        policy("user_model", 9, "total", "requests"),
        policy("tenant_group", 7, "total", "tokens", group="gpt-*"),
        policy("global", 1000, "total"),
    ]
    keys = [
        Caller("k1", "virtual", "acme", budgets=(Budget(usd(12), "total"),)),
        Caller("k3", "virtual", "acme", budgets=(Budget(usd(1), "week"),)),
    ]
    found = await forecasts(database_url, policies, keys)
    assert {name: one.spent for name, one in found.items()} == {
        ("key", "k1"): usd(6), ("key", "k3"): 0,
        ("tenant", "acme"): usd(6), ("tenant", "zeta"): usd(24),
        ("agent", "agent:z"): usd(8), ("user_model", "ann"): 1,
        ("tenant_group", "acme"): 92, ("tenant_group", "zeta"): 92, ("global", "*"): usd(30),
    }  # fmt: skip
    assert found["tenant", "zeta"].check.limit == usd(10)
    [first, *_] = found
    assert found[first].runs_out_at is not None
    assert found["key", "k3"].runs_out_at is None
    assert found["tenant", "acme"].per_day == pytest.approx(usd(6) / days_since(1.2), rel=0.01)
    own = await forecasts(database_url, policies, keys, "acme")
    assert {name for name, one in own.items() if one.spent} == {
        ("key", "k1"), ("tenant", "acme"), ("user_model", "ann"), ("tenant_group", "acme"),
    }  # fmt: skip
    assert ("global", "*") not in own
    assert ("tenant", "zeta") not in own


async def test_what_an_import_brought_along_is_spent(database_url: str, tmp_path: Path) -> None:
    """In the period it was spent in."""
    async with run_ledger(database_url, tmp_path) as ledger:
        await until_written(ledger)
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "INSERT INTO opening_spend (scope, subject, period_start, cost_usd) VALUES ('key', 'k1', now(), 3)"
    )
    await connection.close()
    keys = [
        Caller(
            "k1", "virtual", "acme", budgets=(Budget(usd(12), "total"), Budget(50, "total", unit="tokens"))
        )
    ]
    resolver = PolicyResolver.from_snapshot(PolicyDefaults(), PolicySnapshot())
    async with asyncpg.create_pool(database_url, min_size=0, max_size=1) as pool:
        found = await BudgetForecasts(pool).fetch(keys, resolver, None, datetime.now(UTC))
    assert {one.check.unit: one.spent for one in found} == {"usd": usd(3), "tokens": 0}


async def test_a_keys_budget_is_spent_by_the_keys_below_it_too(database_url: str, tmp_path: Path) -> None:
    """As admission counts: each key has its own calls and those below it, at the pace of both."""
    async with run_ledger(database_url, tmp_path) as ledger:
        for one in (
            spent(0, 1, key_id="root"),
            spent(0, 2, key_id="child"),
            spent(1.5, 4, key_id="grandchild"),
            spent(0, 8, key_id="stranger"),
        ):
            ledger.call_finished(one)
        await until_written(ledger)
    async with asyncpg.create_pool(database_url, min_size=0, max_size=1) as pool:
        await add_child_keys(pool, {"child": ["root"], "grandchild": ["root", "child"]})
    names = ("root", "child", "grandchild", "stranger")
    keys = [Caller(name, "virtual", "acme", budgets=(Budget(usd(100), "total"),)) for name in names]
    found = await forecasts(database_url, (), keys)
    assert {name: one.spent for (_, name), one in found.items()} == {
        "root": usd(7), "child": usd(6), "grandchild": usd(4), "stranger": usd(8),
    }  # fmt: skip
    assert found["key", "root"].per_day == pytest.approx(usd(7) / days_since(1.5), rel=0.01)
    assert found["key", "root"].per_day > found["key", "grandchild"].per_day
