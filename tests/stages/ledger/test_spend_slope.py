"""What tenants spend in an hour, and usually: from the roll-up of hours."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from llm_proxy.ledger.spend_slope import HourlySpend, dearest_hours
from llm_proxy.schema.connections import Pool

_HOUR = """
INSERT INTO usage_hourly (hour, key_id, tenant, agent, model_group, provider, cost_usd)
VALUES ($1, 'k', $2, '', $3, '', $4)
"""


async def test_an_hour_is_compared_with_the_same_hour_of_seven_days(pool: Pool) -> None:
    """The dearest of them; other hours, older days and free calls do not count."""
    now = datetime.now(UTC)
    this = now.replace(minute=0, second=0, microsecond=0)
    tenant, new, idle = (uuid4().hex for _ in range(3))
    rows = [
        (this, tenant, "a", 30), (this, tenant, "b", 12.5), (this - timedelta(hours=1), tenant, "a", 5),
        (this - timedelta(days=1), tenant, "a", 9), (this - timedelta(days=7), tenant, "a", 20),
        (this - timedelta(days=7), tenant, "b", 1), (this - timedelta(days=8), tenant, "a", 900),
        (this - timedelta(days=1, hours=2), tenant, "a", 900),
        (this - timedelta(days=1, hours=1), tenant, "a", 2),
        (this, new, "a", 15), (this, idle, "a", 0), (this - timedelta(days=2), idle, "a", 40),
    ]  # fmt: skip
    await pool.executemany(_HOUR, rows)
    assert await dearest_hours(pool, 10) == [
        HourlySpend(tenant, "this", 42.5, 21),
        HourlySpend(new, "this", 15, 0),
        HourlySpend(tenant, "last", 5, 2),
    ]
    assert [one.tenant for one in await dearest_hours(pool, 1)] == [tenant]
