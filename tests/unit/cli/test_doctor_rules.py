"""What `llm-proxy doctor` concludes from facts: releases, stores, secrets, the spool, limits, backups."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llm_proxy.cli.doctor.findings import DoctorFinding
from llm_proxy.cli.doctor.kinds import KINDS
from llm_proxy.cli.doctor.machine import SpoolFacts, judge_limits, judge_secrets, judge_spool
from llm_proxy.cli.doctor.reach import judge_certificate
from llm_proxy.cli.doctor.releases import judge_release, known_releases
from llm_proxy.cli.doctor.store_rules import (
    ConnectionNeed,
    is_public_host,
    judge_cache_store,
    judge_clock,
    judge_limits_store,
    judge_postgres,
)
from llm_proxy.cli.doctor.stores import judge_backups, judge_disk
from llm_proxy.store_facts import PostgresFacts, RedisFacts, RoleRights

TODAY = date(2026, 11, 27)
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def codes(found: Iterable[object]) -> list[str]:
    """The codes of what is found."""
    return [one.code for one in found if isinstance(one, DoctorFinding)]


@pytest.mark.parametrize(
    ("product", "version", "expected"),
    [
        ("litellm", "1.82.7", ["release-malicious"]),
        ("litellm", "1.107.3.post1", ["release-malicious"]),
        ("litellm", "1.83.9", ["release-vulnerable"]),
        ("litellm", "1.108.6", []),
        ("postgres", "18.6", []),
        ("postgres", "18.5", ["release-vulnerable"]),
        ("postgres", "17.11", []),
        ("postgres", "19.0", []),
        ("postgres", "14.24", ["release-unsupported"]),
        ("postgres", "13.5", ["release-vulnerable", "release-unsupported"]),
        ("valkey", "9.1.2", []),
        ("valkey", "8.1.8", ["release-vulnerable"]),
        ("valkey", "9.2.0", []),
        ("valkey", "6.0.0", ["release-vulnerable"]),
        ("redis", "7.4.5", ["release-vulnerable"]),
        ("redis", "8.4.0", []),
        ("starlette", "1.0.0", ["release-vulnerable"]),
        ("python", "3.11.7", []),
        ("python", "3.9.1", ["release-unsupported"]),
        ("python", "3.15.0", []),
        ("starlette", "of today", []),
        ("unheard-of", "1.0", []),
    ],
)
def test_releases(product: str, version: str, expected: list[str]) -> None:
    """By the line of each release."""
    assert codes(judge_release(product, version, "here", TODAY)) == expected


def test_every_release_of_the_table_has_a_source_and_a_date() -> None:
    """Each can be checked."""
    for entry in known_releases()["vulnerable"]:
        assert entry["source"].startswith("https://")
        assert date.fromisoformat(entry["date"]) <= date.fromisoformat(known_releases()["as_of"])


RIGHTS = RoleRights(powers=(), missing=(), excess=())
POSTGRES = PostgresFacts(
    "18.6", 1.0, 0.0,
    is_standby=False, is_read_only=False, is_durable=True, max_connections=97, used_connections=10,
    partition_days_ahead=3, oldest_transaction_s=1.0, sees_all_sessions=True,
    retained_wal_bytes=0, transaction_ids_used=1000, gateway_role=RIGHTS, sidecar_role=RIGHTS,
)  # fmt: skip
BROKEN_POSTGRES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"is_read_only": True}, ["postgres-read-only"]),
    ({"is_durable": False}, ["postgres-not-durable"]),
    ({"partition_days_ahead": 0}, ["partitions-short"]),
    ({"partition_days_ahead": -1}, ["partitions-short"]),
    ({"gateway_role": replace(RIGHTS, missing=("INSERT on requests",))}, ["gateway-role-lacks"]),
    ({"sidecar_role": None}, ["sidecar-role-missing"]),
    ({"sidecar_role": replace(RIGHTS, powers=("superuser",))}, ["sidecar-role-exceeds"]),
    ({"used_connections": 90}, ["connections-short"]),
    ({"role_connection_limit": 15}, ["connections-short"]),
    ({"max_connections": 15}, ["connections-short"]),
    ({"replication_lag_s": 61.0}, ["replication-behind"]),
    ({"replication_lag_bytes": 2**31}, ["replication-behind"]),
    ({"retained_wal_bytes": 2**33}, ["slot-holds-log"]),
    ({"oldest_transaction_s": 601.0}, ["transaction-old"]),
    ({"transaction_ids_used": 1_600_000_000}, ["transaction-ids-short"]),
]


@pytest.mark.parametrize(("changed", "expected"), BROKEN_POSTGRES)
def test_postgres(changed: dict[str, Any], expected: list[str]) -> None:
    """One fact that is wrong is one finding."""
    facts = replace(POSTGRES, **changed)
    assert codes(judge_postgres(facts, ConnectionNeed(2, 10), TODAY, 0)) == expected


def test_a_postgres_that_tells_nothing_has_no_finding() -> None:
    """What is not known is not wrong."""
    silent = PostgresFacts("18.6", 1.0, 0.0)
    found = judge_postgres(silent, ConnectionNeed(2, 10), TODAY, None)
    assert codes(found) == []
    assert len(found) == 3  # migrations, connections, sessions of others: each is listed


REDIS = RedisFacts(
    "valkey", "9.1.2", 0.5, 0.0,
    is_cluster=False, is_primary=True, maxmemory_bytes=2**28, used_memory_bytes=2**20,
    eviction_policy="noeviction", evicted_keys=0, has_append_only_file=True, has_snapshots=False,
    is_persistence_ok=True, clients=5, max_clients=100, replicas=0,
)  # fmt: skip
BROKEN_REDIS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"eviction_policy": "volatile-lru"}, ["redis-evicts"]),
    ({"evicted_keys": 3}, ["redis-evicted"]),
    ({"used_memory_bytes": 250 * 2**20}, ["redis-memory"]),
    ({"maxmemory_bytes": 0}, ["redis-no-limit"]),
    ({"has_append_only_file": False}, ["redis-forgets"]),
    ({"has_append_only_file": False, "has_snapshots": True}, []),
    ({"has_append_only_file": False, "replicas": 1}, []),
    ({"has_append_only_file": False, "has_snapshots": None}, []),
    ({"is_persistence_ok": False}, ["redis-disk"]),
    ({"round_trip_ms": 20.0}, ["redis-slow"]),
    ({"is_primary": False}, ["redis-replica"]),
    ({"is_primary": False, "is_cluster": True}, []),
    ({"is_link_up": False}, ["redis-link-down"]),
    ({"replication_lag_s": 60}, ["redis-link-down"]),
    ({"clients": 90}, ["redis-clients"]),
    ({"version": "9.1.0"}, ["release-vulnerable"]),
]


@pytest.mark.parametrize(("changed", "expected"), BROKEN_REDIS)
def test_the_limits_store(changed: dict[str, Any], expected: list[str]) -> None:
    """One fact that is wrong is one finding."""
    assert codes(judge_limits_store((replace(REDIS, **changed),), 50, TODAY)) == expected


def test_a_node_of_a_cluster_is_named() -> None:
    """By its number: addresses are not shown."""
    found = judge_limits_store((REDIS, replace(REDIS, eviction_policy="allkeys-lru")), 50, TODAY)
    assert [one.what for one in found if isinstance(one, DoctorFinding)] == [
        "node 2 of the limits store: maxmemory-policy is allkeys-lru"
    ]


def test_the_caches_store() -> None:
    """It may evict; one that may not and is full takes nothing."""
    full = replace(REDIS, used_memory_bytes=2**28 - 1)
    assert codes(judge_cache_store((full,), TODAY)) == ["cache-full"]
    assert codes(judge_cache_store((replace(full, eviction_policy="allkeys-lru"),), TODAY)) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"A": ("x7Gq0-Lm3Pz81Tb4v",)}, []),
        ({"A": ("x1y2",)}, ["secret-weak"]),
        ({"A": ("sk-1234",)}, ["secret-weak"]),
        ({"A": ("aaaaaaaaaaaaaaaaaaaaaaaa",)}, ["secret-weak"]),
        ({"A": ("x7Gq0-Lm3Pz81Tb4v",), "B": ("x7Gq0-Lm3Pz81Tb4v",)}, ["secret-shared"]),
        ({"A": ("x7Gq0-Lm3Pz81Tb4v", "old-Lm3Pz81Tb4v-x7")}, []),
        ({"A": ("x7Gq0-Lm3Pz81Tb4v", "old-Lm3Pz81Tb4v-x7", "older-3Pz81Tb4v-x7")}, ["secret-list-long"]),
    ],
)
def test_secrets(values: dict[str, tuple[str, ...]], expected: list[str]) -> None:
    """No finding holds a value."""
    found = list(judge_secrets(values))
    assert codes(found) == expected
    assert not [value for all_of in values.values() for value in all_of if value in str(found)]


SPOOL = SpoolFacts(0, None, 0, 2**34, can_write=True)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"can_write": False}, ["spool-not-writable"]),
        ({"free_bytes": 2**20}, ["spool-disk-full"]),
        ({"waiting_bytes": 2**27, "oldest_s": 5.0}, ["spool-growing"]),
        ({"waiting_bytes": 100, "oldest_s": 5.0}, []),
        ({"waiting_bytes": 100, "oldest_s": 7200.0}, ["spool-old"]),
        ({"rejected_bytes": 1}, ["spool-rejected"]),
    ],
)
def test_the_spool(changed: dict[str, Any], expected: list[str]) -> None:
    """One fact that is wrong is one finding."""
    facts = replace(SPOOL, **changed)
    assert codes(judge_spool(facts, Path("/spool"), 2**29, has_database=True)) == expected


def test_without_a_database_records_stay_in_the_spool() -> None:
    """That is how it was set up."""
    facts = replace(SPOOL, waiting_bytes=2**27, oldest_s=1e6)
    assert codes(judge_spool(facts, Path("/spool"), 2**29, has_database=False)) == []


def test_limits_of_the_process() -> None:
    """Two files for each connection."""
    assert codes(judge_limits({"files": 20_000, "processes": 4096}, 10_000, "it")) == []
    assert codes(judge_limits({"files": 1024, "processes": 100}, 10_000, "it")) == [
        "files-limit-low",
        "processes-limit-low",
    ]


def test_backups() -> None:
    """A database that is younger than a day needs none yet."""
    hour = timedelta(hours=1)
    assert codes(judge_backups(NOW - 25 * hour, NOW - 999 * hour, NOW)) == []
    assert codes(judge_backups(NOW - 27 * hour, NOW - 999 * hour, NOW)) == ["backup-old"]
    assert codes(judge_backups(None, NOW - 27 * hour, NOW)) == ["backup-missing"]
    assert codes(judge_backups(None, NOW - hour, NOW)) == []


def test_disks_certificates_and_clocks() -> None:
    """At their bounds."""
    assert codes(judge_disk(2**40, 2**41)) == []
    assert codes(judge_disk(2**29, 2**41)) == codes(judge_disk(2**30, 2**41)) == ["disk-full"]
    assert codes(judge_certificate("x", NOW + timedelta(days=15), NOW)) == []
    assert codes(judge_certificate("x", NOW + timedelta(days=13), NOW)) == ["certificate-ends"]
    assert codes(judge_certificate("x", NOW - timedelta(days=1), NOW)) == ["certificate-ends"]
    assert codes([*judge_clock(1.9, "x"), *judge_clock(None, "x")]) == []
    assert codes(judge_clock(-2.1, "x")) == ["clock-wrong"]


@pytest.mark.parametrize(
    ("host", "is_public"),
    [
        ("postgres", False),
        ("10.1.2.3", False),
        ("127.0.0.1", False),
        ("fd00::1", False),
        ("db.internal", False),
        ("redis.default.svc", False),
        ("db.abc.eu-west-1.rds.amazonaws.com", True),
        ("8.8.8.8", True),
    ],
)
def test_public_hosts(host: str, *, is_public: bool) -> None:
    """A name with a dot that is not of a private network may be public."""
    assert is_public_host(host) is is_public


def test_every_kind_says_why_and_how_in_sentences() -> None:
    """The page is read in a hurry."""
    for code, kind in KINDS.items():
        assert kind.when.endswith("."), code
        assert kind.why.endswith("."), code
        assert kind.mend, code
