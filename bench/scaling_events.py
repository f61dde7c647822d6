"""Simulates what arithmetic does not reach: a start of many replicas, a failover of Redis, a tenant's flood.

Pure, and seeded: the same figures give the same result. Each event is a queue of jobs at servers, with the
service times that `bench.scaling` measured. Units are in the names.
"""

import heapq
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

SEED = 20


@dataclass(frozen=True, slots=True)
class Waits:
    """How long jobs waited, and how long after the first arrival the last one ended."""

    p50_ms: float
    p99_ms: float
    last_s: float


def queue_waits(arrivals: Iterable[tuple[float, float]], servers: int) -> Waits:
    """Returns the waits of jobs (arrival and service time in seconds) at servers that take them in turn."""
    jobs = sorted(arrivals)
    free = [0.0] * servers
    waits: list[float] = []
    last_s = 0.0
    for at, service_s in jobs:
        started = max(at, heapq.heappop(free))
        waits.append(started - at)
        heapq.heappush(free, started + service_s)
        last_s = max(last_s, started + service_s)
    waits.sort()
    return Waits(_percentile_ms(waits, 0.5), _percentile_ms(waits, 0.99), last_s - jobs[0][0])


def _percentile_ms(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


def poisson(rate: float, seconds: float, draw: random.Random) -> Iterator[float]:
    """Yields the times of arrivals at this rate, in seconds."""
    at = draw.expovariate(rate)
    while at < seconds:
        yield at
        at += draw.expovariate(rate)


@dataclass(frozen=True, slots=True)
class StartCosts:
    """What Postgres does for a replica that starts, in CPU seconds.

    Attributes:
        connection_s: To let a connection in.
        snapshot_s: To give the policies, kill switches and epochs.
        key_s: To look a key up that the replica does not know.
    """

    connection_s: float
    snapshot_s: float
    key_s: float


def start_storm(
    replicas: int, calls_per_s: float, keys: int, costs: StartCosts, *, database_cores: int, pool: int = 8
) -> Waits:
    """Returns how long look-ups of keys wait while all replicas start at once and know no key yet."""
    draw = random.Random(SEED)
    jobs: list[tuple[float, float]] = []
    for _ in range(replicas):
        ready_at = draw.uniform(0.0, 1.0)
        jobs += [(ready_at, costs.connection_s + costs.snapshot_s)]
        jobs += [(ready_at + draw.uniform(0.0, 0.5), costs.connection_s) for _ in range(pool - 1)]
        known: set[int] = set()
        for at in poisson(calls_per_s / replicas, 60.0, draw):
            key = min(int(draw.paretovariate(1.1)) - 1, keys - 1)  # a few keys make most calls
            if key not in known:
                known.add(key)
                jobs.append((ready_at + at, costs.key_s))
    return queue_waits(jobs, database_cores)


@dataclass(frozen=True, slots=True)
class Failover:
    """What a limit lets through while its store is away and each replica counts for itself.

    Attributes:
        admitted_share: Admitted calls of those that the limit allows in that time.
        lost_share: Calls admitted again because the new primary had not seen them, of the limit of a minute.
    """

    admitted_share: float
    lost_share: float


def failover(replicas: int, limit_per_min: int, away_s: float, replication_lag_s: float) -> Failover:
    """Returns what a key's limit of requests admits while a demand of twice the limit is spread by chance."""
    draw = random.Random(SEED)
    allowed = limit_per_min * away_s / 60
    share = max(1.0, limit_per_min / replicas) * away_s / 60
    counts = [0] * replicas
    for _ in poisson(2 * limit_per_min / 60, away_s, draw):
        counts[draw.randrange(replicas)] += 1
    admitted = sum(min(float(count), share) for count in counts)
    return Failover(admitted / allowed, min(1.0, replication_lag_s / 60))


def flood(
    workers: int, calls_per_s: float, flood_per_s: float, call_s: float, rejection_s: float
) -> tuple[float, Waits]:
    """Returns the workers' utilisation, and how long others' calls wait for a worker beside a tenant's flood.

    Connections are spread evenly by chance, so a worker is a queue of its own.
    """
    draw = random.Random(SEED)
    seconds = 10.0
    used = (calls_per_s * call_s + flood_per_s * rejection_s) / workers
    jobs = [(at, call_s * draw.uniform(0.5, 1.5)) for at in poisson(calls_per_s / workers, seconds, draw)]
    jobs += [(at, rejection_s) for at in poisson(flood_per_s / workers, seconds, draw)] if flood_per_s else []
    return used, queue_waits(jobs, 1)
