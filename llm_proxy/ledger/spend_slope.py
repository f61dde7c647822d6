"""The hourly spend of the tenants with the highest cost, beside their usual spend in that hour.

Invariants: hours are those of UTC, as in the roll-up; a cost that is not known is not in it. Raises:
`DatabaseUnavailable`, `RowsRejected`.
"""

from dataclasses import dataclass
from typing import Literal

from llm_proxy.schema.connections import Pool
from llm_proxy.schema.database import db_deadline

_DEADLINE_S = 5.0
_DEAREST = """
WITH hours AS (
    SELECT date_trunc('hour', now(), 'UTC') - n * interval '1 hour' AS hour,
           CASE n WHEN 0 THEN 'this' ELSE 'last' END AS name
    FROM generate_series(0, 1) AS n),
spent AS (
    SELECT h.name, u.hour = h.hour AS is_now, u.hour, u.tenant, sum(u.cost_usd) AS usd
    FROM hours h JOIN usage_hourly u
      ON u.hour = ANY (ARRAY(SELECT h.hour - d * interval '1 day' FROM generate_series(0, 7) AS d))
    GROUP BY 1, 2, 3, 4)
SELECT name AS hour, tenant, sum(usd) FILTER (WHERE is_now)::float8 AS spend_usd,
       coalesce(max(usd) FILTER (WHERE NOT is_now), 0)::float8 AS usual_usd
FROM spent GROUP BY name, tenant HAVING sum(usd) FILTER (WHERE is_now) > 0
ORDER BY spend_usd DESC LIMIT $1
"""


@dataclass(frozen=True, slots=True)
class HourlySpend:
    """A tenant's spend in an hour.

    Attributes:
        tenant: Empty for calls without a tenant.
        hour: `this`, as far as it has come, or the `last`.
        spend_usd: Of the calls that are recorded.
        usual_usd: The most of the same hour on the seven days before; 0 without calls then.
    """

    tenant: str
    hour: Literal["this", "last"]
    spend_usd: float
    usual_usd: float


async def dearest_hours(pool: Pool, most: int) -> list[HourlySpend]:
    """Returns the hours of the tenants with the highest cost, at most `most`, the highest first."""
    async with db_deadline(_DEADLINE_S):
        rows = await pool.fetch(_DEAREST, most)
    return [HourlySpend(row["tenant"], row["hour"], row["spend_usd"], row["usual_usd"]) for row in rows]
