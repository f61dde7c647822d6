"""Model health from finished calls, in Postgres."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from usage_records import record, run_ledger

from llm_proxy.ledger import ModelHealth, PostgresUsage, TrafficHealth, UsageRecord

NOW = datetime.now(UTC).replace(microsecond=0)
FAILED: dict[str, Any] = {"outcome": "error", "status": 502, "refusal_code": "provider_failed"}
Seen = Callable[[list[UsageRecord], datetime], Awaitable[ModelHealth]]


@pytest.fixture
def seen(database_url: str, tmp_path: Path) -> Seen:
    """Returns a function that stores records and returns the model health at a time."""

    async def written(records: list[UsageRecord], now: datetime) -> ModelHealth:
        async with run_ledger(database_url, tmp_path) as ledger:
            for one in records:
                ledger.call_finished(one)
            assert await ledger.wait_written(20)
        pool = await asyncpg.create_pool(database_url, min_size=1, max_size=1)
        try:
            return await PostgresUsage(pool).model_health(now)
        finally:
            await pool.close()

    return written


def ended(ago_s: float, **changes: Any) -> UsageRecord:
    """Returns a call of 100 ms that ended `ago_s` seconds ago."""
    started_at = NOW - timedelta(seconds=ago_s, milliseconds=100)
    return record(**{"started_at": started_at, "latency_ms": 100.0, **changes})


async def test_success_counts_for_group_and_deployment(seen: Seen) -> None:
    """The time is the end of the call."""
    health = await seen([ended(60)], NOW)
    expected = TrafficHealth(1, 0, NOW - timedelta(seconds=60))
    assert health.groups == {"gpt-4o-mini": expected}
    assert health.deployments == {"d-1": expected}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        (FAILED, "provider_failed"),
        ({"outcome": "error", "status": 429, "refusal_code": None}, "429"),
        ({"outcome": "cut", "status": 200, "refusal_code": "upstream_stream_cut"}, "upstream_stream_cut"),
    ],
)
async def test_provider_failure_counts_with_its_code(seen: Seen, changes: Any, code: str) -> None:
    """Also a failure in the middle of a stream."""
    health = await seen([ended(1, deployment=None, **changes)], NOW)
    assert health.deployments == {}
    assert health.groups["gpt-4o-mini"] == TrafficHealth(1, 1, None, NOW - timedelta(seconds=1), code)


@pytest.mark.parametrize(
    "changes",
    [{"outcome": "error", "status": 400}, {"outcome": "client_gone", "status": 0}, {"cache": "hit"}],
)
async def test_other_outcomes_do_not_count(seen: Seen, changes: Any) -> None:
    """A caller's error, a disconnected caller, a cache hit."""
    assert await seen([ended(1, **changes)], NOW) == ModelHealth()


async def test_rate_covers_the_last_five_minutes(seen: Seen) -> None:
    """The latest success and failure are those of 24 hours, in any order of the records."""
    calls = [
        ended(301, **FAILED),
        ended(30),
        ended(200, **FAILED | {"refusal_code": "rate_limited", "status": 429}),
        ended(90),
        ended(86_500, group="old"),
    ]
    health = await seen(calls, NOW)
    assert health.groups == {
        "gpt-4o-mini": TrafficHealth(
            3, 1, NOW - timedelta(seconds=30), NOW - timedelta(seconds=200), "rate_limited"
        )
    }
    later = await seen([ended(301, **FAILED)], NOW + timedelta(minutes=10))
    idle = later.groups["gpt-4o-mini"]
    assert (idle.calls, idle.failures) == (0, 0)
    assert idle.last_failure_at is not None


async def test_calls_count_by_the_time_they_ended(seen: Seen) -> None:
    """A ten-minute stream that has just ended counts."""
    health = await seen([ended(0, started_at=NOW - timedelta(minutes=10), latency_ms=595_000.0)], NOW)
    assert health.groups["gpt-4o-mini"] == TrafficHealth(1, 0, NOW - timedelta(seconds=5))
