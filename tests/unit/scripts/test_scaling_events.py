"""The simulated events of docs/scaling.md: known queues, the same result each time, no impossible share."""

import random

import pytest

from bench.scaling_events import StartCosts, failover, flood, poisson, queue_waits, start_storm

COSTS = StartCosts(connection_s=0.002, snapshot_s=0.002, key_s=0.0004)


def test_jobs_wait_for_the_server_that_is_free_first() -> None:
    """Three jobs of a second at once: with one server the last waits two seconds, with three none waits."""
    jobs = [(0.0, 1.0)] * 3
    assert queue_waits(jobs, 1).p99_ms == 2000
    assert queue_waits(jobs, 1).last_s == 3
    assert queue_waits(jobs, 3).p99_ms == 0


def test_arrivals_come_at_their_rate() -> None:
    """Within what chance explains."""
    draw = random.Random(1)  # noqa: S311 -- arrivals, not secrets
    assert sum(1 for _ in poisson(100, 100, draw)) == pytest.approx(10_000, rel=0.03)


def test_a_start_of_more_replicas_waits_longer_and_more_cores_wait_less() -> None:
    """And twice the same."""
    few, many, wide = (
        start_storm(replicas, 1_000, 500, COSTS, database_cores=cores)
        for replicas, cores in ((2, 1), (100, 1), (100, 8))
    )
    assert few.p99_ms < many.p99_ms
    assert wide.p99_ms < many.p99_ms
    assert many == start_storm(100, 1_000, 500, COSTS, database_cores=1)


@pytest.mark.parametrize("replicas", [1, 2, 10, 100])
def test_shares_of_a_limit_never_admit_more_than_the_limit_but_for_a_call_a_replica(replicas: int) -> None:
    """A replica always admits one call a minute, however small its share is."""
    limit = 6_000
    assert failover(replicas, limit, 10.0, 1.0).admitted_share <= 1.0
    assert failover(replicas, 60, 60.0, 1.0).admitted_share <= max(1.0, replicas / 60)


def test_a_flood_is_harmless_until_the_workers_are_full() -> None:
    """Utilisation is arithmetic; above 1 the waits grow without end."""
    idle, _ = flood(10, 1_000, 0, 0.0003, 0.0001)
    assert idle == pytest.approx(0.03)
    used, waits = flood(10, 1_000, 110_000, 0.0003, 0.0001)
    assert used > 1
    assert waits.p99_ms > 100
