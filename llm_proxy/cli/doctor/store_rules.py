"""What is wrong with a Postgres, a Redis or a Valkey, judged by its facts.

Invariants: pure; a fact that is None is no finding: it is reported as not checked.
"""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from urllib.parse import urlsplit

from llm_proxy.cli.doctor.findings import DoctorFinding, NotChecked, Outcome, finding
from llm_proxy.cli.doctor.releases import judge_release
from llm_proxy.postgres_urls import SIDECAR_ROLE
from llm_proxy.store_facts import PostgresFacts, RedisFacts, RoleRights

OLD_TRANSACTION_S = 600
MAX_LAG_S, MAX_LAG_BYTES, MAX_RETAINED_BYTES = 60, 2**30, 5 * 2**30
MAX_TRANSACTION_IDS = 1_500_000_000
MAX_CLOCK_OFFSET_S = 2.0
MAX_REDIS_LAG_S = 10
_SHOWN_RIGHTS = 6
_GRANT_CALL_LOG = f"GRANT INSERT, UPDATE, SELECT (call_id, attempt, status) ON llm_calls TO {SIDECAR_ROLE};"


@dataclass(frozen=True, slots=True)
class ConnectionNeed:
    """How many connections all gateways may open.

    Attributes:
        processes: Gateways' workers, and one for the console.
        each: Of one worker.
    """

    processes: int
    each: int


def judge_postgres(
    facts: PostgresFacts, need: ConnectionNeed | None, today: date, pending: int | None
) -> Outcome:
    """Returns what is wrong with a Postgres.

    Args:
        facts: What it says.
        need: Of all gateways; None: a pooler stands before it.
        today: For ends of support.
        pending: How many migrations are not applied; None: not known.
    """
    return [
        *judge_release("postgres", facts.version, "Postgres", today),
        *_state(facts, pending),
        *_roles(facts),
        *_connections(facts, need),
        *_copies(facts),
        *_time(facts),
    ]


def judge_clock(offset_s: float | None, where: str) -> list[DoctorFinding]:
    """Returns a finding if a clock is too far away from this machine's."""
    if offset_s is None or abs(offset_s) <= MAX_CLOCK_OFFSET_S:
        return []
    return [finding("clock-wrong", f"{where}: its clock is {offset_s:+.1f} s from this machine's")]


def _state(facts: PostgresFacts, pending: int | None) -> Iterator[DoctorFinding | NotChecked]:
    if facts.is_read_only:
        yield finding(
            "postgres-read-only", "Postgres is read-only" + (": a standby" if facts.is_standby else "")
        )
    if facts.is_durable is False:
        yield finding("postgres-not-durable", "fsync or full_page_writes is off")
    if pending is None:
        yield NotChecked("migrations", "the schema could not be read", is_unknown=True)
    elif pending:
        yield finding("schema-behind", f"{pending} migrations of this version are not applied")
    if facts.partition_days_ahead is not None and facts.partition_days_ahead < 1 and not facts.is_read_only:
        ahead = "none for today" if facts.partition_days_ahead < 0 else "none for tomorrow"
        yield finding("partitions-short", f"of requests or llm_calls there is {ahead}")


def _roles(facts: PostgresFacts) -> Iterator[DoctorFinding | NotChecked]:
    if facts.partition_days_ahead is None:
        return  # without the schema there are no rights to have
    gateway, sidecar = facts.gateway_role, facts.sidecar_role
    if gateway is None:
        yield NotChecked("rights of the gateway's role", "the catalogue cannot be read", is_unknown=True)
    elif gateway.missing:
        yield finding("gateway-role-lacks", f"it lacks {_listed(gateway.missing)}")
    if sidecar is None:
        yield finding("sidecar-role-missing", f"there is no role {SIDECAR_ROLE}")
    else:
        yield from _sidecar_role(sidecar)


def _sidecar_role(role: RoleRights) -> Iterator[DoctorFinding]:
    if excess := (*role.powers, *role.excess):
        what = f"{SIDECAR_ROLE} has {_listed(excess)}"
        yield finding("sidecar-role-exceeds", what, statements=" ".join(revocations(role)))
    if role.missing:
        yield finding("sidecar-role-missing", f"{SIDECAR_ROLE} lacks {_listed(role.missing)}")


def revocations(role: RoleRights) -> list[str]:
    """Returns the statements that take from the sidecars' role what it does not need."""
    found: list[str] = []
    for power in role.powers:
        above = power.removeprefix("member of ")
        is_member = above != power
        found.append(
            f"REVOKE {above} FROM {SIDECAR_ROLE};" if is_member else f"ALTER ROLE {SIDECAR_ROLE} NO{power};"
        )
    for right in role.excess:
        held, _, name = right.partition(" on ")
        if name != "llm_calls":
            of = f"FUNCTION {name}" if held == "EXECUTE" else name
            found.append(f"REVOKE {held} ON {of} FROM {SIDECAR_ROLE}, PUBLIC;")
    if any(right.endswith(" on llm_calls") for right in role.excess):
        found += [f"REVOKE ALL ON llm_calls FROM {SIDECAR_ROLE}, PUBLIC;", _GRANT_CALL_LOG]
    return list(dict.fromkeys(found))


def _listed(rights: tuple[str, ...]) -> str:
    more = f" and {len(rights) - _SHOWN_RIGHTS} more" if len(rights) > _SHOWN_RIGHTS else ""
    return ", ".join(rights[:_SHOWN_RIGHTS]) + more


def _connections(facts: PostgresFacts, need: ConnectionNeed | None) -> Iterator[DoctorFinding | NotChecked]:
    most = facts.max_connections
    if need is None:
        yield NotChecked("connections for all gateways", "a pooler shares them out; it knows its own")
        return
    if most is None or facts.used_connections is None:
        yield NotChecked("connections of Postgres", "this role may not read them")
        return
    free, wanted = most - facts.used_connections, need.processes * need.each
    share = str(max(2, most * 4 // 5 // need.processes))
    limit = facts.role_connection_limit
    if limit is not None and wanted > limit:
        what = f"{need.processes} processes may open {wanted}, the role's or database's limit is {limit}"
        yield finding("connections-short", what, share=str(max(2, limit // need.processes)))
    elif wanted > most:
        what = f"{need.processes} processes may open {wanted} connections, Postgres has {most}"
        yield finding("connections-short", what, share=share)
    elif free < most / 10:
        yield finding("connections-short", f"{facts.used_connections} of {most} are in use", share=share)


def _copies(facts: PostgresFacts) -> Iterator[DoctorFinding]:
    lag_s, lag_bytes = facts.replication_lag_s or 0, facts.replication_lag_bytes or 0
    if lag_s > MAX_LAG_S or lag_bytes > MAX_LAG_BYTES:
        yield finding("replication-behind", f"the slowest copy is {lag_s:.0f} s, {_mib(lag_bytes)} behind")
    if (held := facts.retained_wal_bytes or 0) > MAX_RETAINED_BYTES:
        yield finding("slot-holds-log", f"a replication slot keeps {_mib(held)}")


def _time(facts: PostgresFacts) -> Iterator[DoctorFinding | NotChecked]:
    if (age_s := facts.oldest_transaction_s or 0) > OLD_TRANSACTION_S:
        yield finding("transaction-old", f"a transaction has been open for {age_s / 60:.0f} minutes")
    if not facts.sees_all_sessions:
        yield NotChecked("transactions of other roles", "this role is no member of pg_read_all_stats")
    if (used := facts.transaction_ids_used or 0) > MAX_TRANSACTION_IDS:
        yield finding("transaction-ids-short", f"{used:,} transaction ids are in use")


def judge_limits_store(
    nodes: tuple[RedisFacts, ...], store_timeout_ms: int, today: date
) -> list[DoctorFinding | NotChecked]:
    """Returns what is wrong with the limits store, server by server."""
    found: list[DoctorFinding | NotChecked] = []
    for number, facts in enumerate(nodes, 1):
        name = "the limits store" if len(nodes) == 1 else f"node {number} of the limits store"
        found += judge_release(facts.product, facts.version, name, today)
        found += [*_redis_policy(facts, name), *_redis_memory(facts, name), *_redis_copies(facts, name)]
        if facts.round_trip_ms > store_timeout_ms / 4:
            what = f"{name}: a command takes {facts.round_trip_ms:.1f} ms of {store_timeout_ms} ms"
            found.append(finding("redis-slow", what))
        if facts.version == "unknown":
            found.append(
                NotChecked(f"policy, memory and persistence of {name}", "INFO is denied", is_unknown=True)
            )
    return found


def _redis_policy(facts: RedisFacts, name: str) -> Iterator[DoctorFinding]:
    policy = facts.eviction_policy
    if policy not in {None, "noeviction"}:
        yield finding("redis-evicts", f"{name}: maxmemory-policy is {policy}")
    elif facts.evicted_keys:
        yield finding("redis-evicted", f"{name}: {facts.evicted_keys:,} keys were evicted")
    if facts.is_persistence_ok is False:
        yield finding("redis-disk", f"{name}: its last write to the disk failed")
    keeps = facts.has_append_only_file or facts.has_snapshots or bool(facts.replicas)
    if facts.has_append_only_file is False and facts.has_snapshots is False and not keeps:
        yield finding("redis-forgets", f"{name}: appendonly is off, save is empty, no replica")
    if facts.is_primary is False and not facts.is_cluster:
        yield finding("redis-replica", f"{name}: its role is replica")


def _redis_memory(facts: RedisFacts, name: str) -> Iterator[DoctorFinding]:
    most, used = facts.maxmemory_bytes, facts.used_memory_bytes
    if most == 0:
        yield finding("redis-no-limit", f"{name}: maxmemory is 0")
    elif most and used is not None and used > most * 0.8:
        yield finding("redis-memory", f"{name}: {_mib(used)} of {_mib(most)} are used")
    if facts.clients and facts.max_clients and facts.clients > facts.max_clients * 0.8:
        yield finding(
            "redis-clients", f"{name}: {facts.clients} of {facts.max_clients} connections are in use"
        )


def _redis_copies(facts: RedisFacts, name: str) -> Iterator[DoctorFinding]:
    if facts.is_link_up is False or (facts.replication_lag_s or 0) > MAX_REDIS_LAG_S:
        yield finding("redis-link-down", f"{name}: its copy is {facts.replication_lag_s or '?'} s behind")


def judge_cache_store(nodes: tuple[RedisFacts, ...], today: date) -> list[DoctorFinding]:
    """Returns what is wrong with the store of the cache."""
    found: list[DoctorFinding] = []
    for facts in nodes:
        found += judge_release(facts.product, facts.version, "the cache's store", today)
        most, used = facts.maxmemory_bytes or 0, facts.used_memory_bytes or 0
        if facts.eviction_policy == "noeviction" and most and used > most * 0.9:
            found.append(
                finding("cache-full", f"{_mib(used)} of {_mib(most)} are used, and nothing is evicted")
            )
    return found


def is_public_host(host: str) -> bool:
    """Whether a host is an address, or may be a name, outside this machine and private networks."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_global
    except ValueError:
        return "." in host and not host.endswith(
            (".local", ".internal", ".svc", ".cluster.local", ".localhost")
        )


def is_this_machine(url: str) -> bool:
    """Whether an address is a socket or of the loopback interface."""
    host = urlsplit(url).hostname or ""
    return host in {"", "localhost", "::1"} or host.startswith("127.")


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"
