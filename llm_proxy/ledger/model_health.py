"""Health of model groups and deployments, from the records of finished calls.

Invariants: no model is called. Cache hits, callers' own errors, what a guardrail or a content policy rejects
and disconnected callers do not count; failures that the sidecar's retries made good are not seen. `calls`
and `failures` cover the last `WINDOW`, the latest success and failure the last `LOOK_BACK`, by the end of
the call; at most the latest `MAX_CALLS` are read.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import asyncpg

from llm_proxy.identity.postgres_store import Connection

WINDOW = timedelta(minutes=5)
LOOK_BACK = timedelta(days=1)
MAX_CALLS = 300_000
"""Bounds the query to about a second; covers `WINDOW` up to 1000 calls a second."""
PROVIDER_STATUSES = frozenset({401, 403, 408, 429})
"""Statuses below 500 that an admitted call gets only from its provider."""

NOT_THE_MODELS = ("content_policy_violation", "guardrail_unavailable")
"""Error codes of calls that a guardrail or a content policy ended."""

_HEALTH = """
    WITH latest AS (
        SELECT * FROM requests WHERE started_at > $1 ORDER BY started_at DESC LIMIT $4
    ), ended AS (
        SELECT model_group, deployment, started_at + latency_ms * interval '1 ms' AS at,
            CASE WHEN outcome <> 'ok' THEN coalesce(refusal_code, status::text) END AS failure
        FROM latest
        WHERE cache <> 'hit' AND replay_of IS NULL AND coalesce(refusal_code, '') <> ALL($5)
            AND (outcome IN ('ok', 'cut') OR outcome = 'error' AND (status >= 500 OR status = ANY($3)))
    )
    SELECT model_group, deployment,
        count(*) FILTER (WHERE at > $2) AS calls,
        count(failure) FILTER (WHERE at > $2) AS failures,
        max(at) FILTER (WHERE failure IS NULL) AS last_success_at,
        max(at) FILTER (WHERE failure IS NOT NULL) AS last_failure_at,
        (array_agg(failure ORDER BY at DESC) FILTER (WHERE failure IS NOT NULL))[1] AS last_failure_code
    FROM ended GROUP BY GROUPING SETS ((model_group), (deployment))"""


@dataclass(frozen=True, slots=True)
class TrafficHealth:
    """The health of one model group or deployment.

    Attributes:
        calls: Number of the last `WINDOW`, as `failures`.
        last_failure_code: The error code, or the status, of the latest failure.
    """

    calls: int = 0
    failures: int = 0
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None
    last_failure_code: str | None = None


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """The health of all, by name. Failures of deployments are incomplete: few errors name the deployment."""

    groups: dict[str, TrafficHealth] = field(default_factory=dict[str, TrafficHealth])
    deployments: dict[str, TrafficHealth] = field(default_factory=dict[str, TrafficHealth])


async def fetch_health(connection: Connection, now: datetime) -> ModelHealth:
    """Returns the health at this time, from the table `requests`."""
    found = ModelHealth()
    statuses = sorted(PROVIDER_STATUSES)
    bounds = now - LOOK_BACK, now - WINDOW, statuses, MAX_CALLS
    for row in await connection.fetch(_HEALTH, *bounds, list(NOT_THE_MODELS)):
        if row["model_group"] is not None:
            found.groups[row["model_group"]] = _health(row)
        elif row["deployment"] is not None:
            found.deployments[row["deployment"]] = _health(row)
    return found


def _health(row: asyncpg.Record) -> TrafficHealth:
    return TrafficHealth(
        row["calls"],
        row["failures"],
        row["last_success_at"],
        row["last_failure_at"],
        row["last_failure_code"],
    )
