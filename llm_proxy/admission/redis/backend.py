"""The limits store in Redis: one Lua script for each operation of `LimiterBackend`.

Invariants: one script call admits; every call has a timeout; Redis must not evict (`noeviction`); the
scripts in `lua/` do what `memory_limiter` does. Raises LimiterUnavailable. `require_noeviction` and
`publish_epochs` are for start-up and the command line: they open a connection of their own, and accept an
unreachable store.
"""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain
from time import perf_counter
from typing import Any

from llm_proxy.admission.limiter import (
    SHARED_TAG,
    LimiterBackend,
    LimiterRequest,
    LimiterResult,
    LimiterUnavailable,
    SettlementEntry,
    epoch_key,
    hash_tag_of,
)
from llm_proxy.admission.memory_limiter import MAX_RUNS, RUN_IDLE_MS
from llm_proxy.admission.redis.cluster import ClusterClient
from llm_proxy.admission.redis.connection import Argument, RedisConnection
from llm_proxy.admission.redis.script import script_source
from llm_proxy.identity import ANY

REPLICAS_KEY = "lp:replicas"
REPLICA_TTL_MS = 15_000
_SCRIPTS = {
    "admit": ("reservations", "windows"),
    "admit_requests": ("windows",),
    "settle": ("reservations",),
    "renew": ("reservations",),
    "seed": (),
    "turn": (),
    "quarantine": (),
}
"""The scripts, each with the files before its own; a function in them costs the store time at every call."""
_WINDOWS_ALONE = frozenset({"requests"})
_LETTER = {"tokens": "t", "parallel": "p", "budget": "b", "run": "n", "duration": "d", "turn": "g"}
ObserveRequest = Callable[[float, bool], None]
"""Called after every script call with its duration in seconds and whether the store answered."""


class RedisBackend:
    """Limits in a Redis or Valkey that all replicas share."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        clock: str | None = None,
        tls: ssl.SSLContext | None = None,
        run_idle_ms: int = RUN_IDLE_MS,
        max_runs: int = MAX_RUNS,
    ) -> None:
        """`clock` replaces the script's clock, so that tests can set the time; runs: see `MemoryLimiter`."""
        head = clock if clock is not None else script_source("clock")
        head = f"local RUN_IDLE, MAX_RUNS = {run_idle_ms}, {max_runs}  -- ms, runs of one key\n{head}"
        self._source = {
            name: "\n".join((head, *map(script_source, (*shared, name)))) for name, shared in _SCRIPTS.items()
        }
        self._sha = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in self._source.items()}  # noqa: S324 -- Redis names scripts so
        self.observe: ObserveRequest = lambda _seconds, _answered: None

        def connection(at: str) -> RedisConnection:
            return RedisConnection(at, timeout_s=timeout_s, load_commands=self._load_commands, tls=tls)

        self.cluster = ClusterClient(url, connection, timeout_s=timeout_s)

    @property
    def is_available(self) -> bool:
        """Whether every node can be reached now."""
        return self.cluster.is_available

    @property
    def fault(self) -> str:
        """Why it cannot be reached, without addresses and passwords; empty where it can."""
        return self.cluster.fault

    @property
    def single_slot(self) -> bool:
        """Whether it is a Redis Cluster."""
        return self.cluster.is_cluster

    async def start(self) -> None:
        """Connects, or keeps trying in the background."""
        await self.cluster.start()

    async def stop(self) -> None:
        """Closes the connections."""
        await self.cluster.stop()

    async def reserve(
        self, request: LimiterRequest, on_late_result: Callable[[LimiterResult], None] | None = None
    ) -> LimiterResult:
        """Reserves a call's amounts if every check passes."""
        plan = request.plan
        checks: Iterable[tuple[Argument, ...]] = zip(plan.codes, plan.limits, request.amounts, strict=True)
        args: list[Argument] = [
            len(plan.keys), *plan.keys, int(request.reserve), request.epoch,
            request.lease_id, request.ttl_ms, request.retry_id, plan.run, *chain.from_iterable(checks),
        ]  # fmt: skip
        late = None if on_late_result is None else partial(_hand_on, on_late_result)
        script = "admit_requests" if plan.kinds <= _WINDOWS_ALONE and not plan.run else "admit"
        return _parse_result(await self.run_script(script, args, late))

    async def settle(self, ledger_key: str, number: int, entries: tuple[SettlementEntry, ...]) -> None:
        """Settles a batch of one tenant, once."""
        for hash_tag, batch in self._by_hash_tag(entries):
            elsewhere = hash_tag not in {"", hash_tag_of(ledger_key)}
            batch_key = f"lp:{hash_tag}:settled:{ledger_key}" if elsewhere else ledger_key
            await self.run_script("settle", _settlement(batch_key, number, batch))

    def send_settlement(
        self, ledger_key: str, number: int, entries: tuple[SettlementEntry, ...]
    ) -> "asyncio.Future[Any]":
        """Sends a batch of one tenant before it returns; its reply may say that `settle` has to be used."""
        began = perf_counter()
        reply = self.send_script("settle", _settlement(ledger_key, number, entries), at_once=True)
        reply.add_done_callback(lambda done: self.observe(perf_counter() - began, not done.exception()))
        return reply

    async def renew(self, entries: tuple[SettlementEntry, ...], ttl_ms: int) -> None:
        """Renews what running calls of one tenant hold."""
        for _, batch in self._by_hash_tag(entries):
            args: list[Argument] = [len(batch), *(entry.key for entry in batch), ttl_ms]
            for entry in batch:
                args += (_LETTER[entry.kind], entry.lease_id, entry.amount)
            await self.run_script("renew", args)

    async def seed(self, key: str, spent: int, expires_ms: int = 0) -> None:
        """Gives a missing counter its value."""
        await self.run_script("seed", [1, key, "spent", spent, expires_ms])

    async def raise_epoch(self, key: str, epoch: int) -> None:
        """Raises a tenant's epoch; it never falls."""
        await self.run_script("seed", [1, key, "epoch", epoch])

    async def heartbeat(self, name: str) -> int:
        """Registers this replica as alive; returns how many are."""
        key, request = REPLICAS_KEY, self.cluster.execute
        seconds, micros = await request(key, "TIME")
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        await request(key, "ZADD", key, now_ms, name)
        await request(key, "ZREMRANGEBYSCORE", key, "-inf", now_ms - REPLICA_TTL_MS)
        return int(await request(key, "ZCARD", key))

    async def maxmemory_policy(self) -> str:
        """Returns the `maxmemory-policy` of the first node that has another than `noeviction`."""
        policies: list[str] = []
        for connection in self.cluster.connections:
            info: bytes = await connection.execute("INFO", "memory")
            fields = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
            policies.append(fields.get("maxmemory_policy", "unknown"))
        return next((policy for policy in policies if policy != "noeviction"), "noeviction")

    def _by_hash_tag(
        self, entries: tuple[SettlementEntry, ...]
    ) -> Iterable[tuple[str, tuple[SettlementEntry, ...]]]:
        """Returns the entries that one script can reach: all, or in a cluster those of each hash tag.

        A tenant's entries have two tags where some were made before the store was known to be a cluster.
        """
        if not self.single_slot:
            return [("", entries)]
        found: dict[str, tuple[SettlementEntry, ...]] = {}
        for entry in entries:
            hash_tag = hash_tag_of(entry.key)
            found[hash_tag] = (*found.get(hash_tag, ()), entry)
        return found.items()

    async def run_script(
        self, name: str, args: list[Argument], orphan: Callable[[Any], None] | None = None
    ) -> Any:  # noqa: ANN401 -- RESP
        """Returns the reply of a script; `args` are the number of its keys, the keys, its arguments."""
        started, key = perf_counter(), str(args[1])
        try:
            reply = await self.cluster.execute(key, "EVALSHA", self._sha[name], *args, on_late_reply=orphan)
        except LimiterUnavailable as unavailable:
            if not str(unavailable).startswith("NOSCRIPT"):
                self.observe(perf_counter() - started, False)  # noqa: FBT003 -- whether it answered
                raise
            reply = await self._load_scripts_and_run(key, name, args, orphan)
        self.observe(perf_counter() - started, True)  # noqa: FBT003 -- the same
        return reply

    def send_script(
        self,
        name: str,
        args: list[Argument],
        orphan: Callable[[Any], None] | None = None,
        *,
        at_once: bool = False,
    ) -> "asyncio.Future[Any]":
        """Sends a script and returns its reply to come; the reply may say that the key is elsewhere.

        Raises `LimiterUnavailable`, now or then; `run_script` follows the key. `at_once`: before it returns.
        """
        connection = self.cluster.connection_for(str(args[1]))
        reply = connection.execute("EVALSHA", self._sha[name], *args, on_late_reply=orphan)
        if at_once:
            connection.flush()
        return reply

    async def _load_scripts_and_run(
        self, key: str, name: str, args: list[Argument], orphan: Callable[[Any], None] | None
    ) -> Any:  # noqa: ANN401 -- RESP
        """Returns the reply of a node that did not have the scripts."""
        for load_commands in self._load_commands():
            await self.cluster.connection_for(key).execute(*load_commands)
        return await self.cluster.execute(key, "EVALSHA", self._sha[name], *args, on_late_reply=orphan)

    def _load_commands(self) -> list[tuple[Argument, ...]]:
        return [("SCRIPT", "LOAD", text) for text in self._source.values()]


def _settlement(ledger_key: str, number: int, entries: tuple[SettlementEntry, ...]) -> list[Argument]:
    args: list[Argument] = [1 + len(entries), ledger_key, *(entry.key for entry in entries), number]
    for entry in entries:
        args += (_LETTER[entry.kind], entry.lease_id, entry.amount, entry.at)
    return args


def _parse_result(reply: list[int]) -> LimiterResult:
    used, extra = tuple(reply[3::4]), tuple(reply[4::4])
    running, kept = tuple(reply[5::4]), tuple(reply[6::4])
    return LimiterResult(reply[0], reply[1], reply[2], used, extra, running, kept)


def _hand_on(on_late_result: Callable[[LimiterResult], None], reply: list[int]) -> None:
    on_late_result(_parse_result(reply))


class EvictionEnabled(Exception):  # noqa: N818 -- errors are named for the state they report
    """Redis may evict limits when its memory is full."""


async def require_noeviction(url: str, *, timeout_s: float = 1.0, tls: ssl.SSLContext | None = None) -> None:
    """Raises `EvictionEnabled` where Redis may evict; accepts one that is unreachable."""
    async with open_backend(url, timeout_s, tls) as backend:
        try:
            policy = await backend.maxmemory_policy()
        except LimiterUnavailable:
            return
    if policy not in {"noeviction", "unknown"}:
        raise EvictionEnabled(
            f"LLM_PROXY__LIMITS_REDIS_URL: the store's maxmemory-policy is {policy!r};"
            " limits and budgets need 'noeviction'. If REDIS_URL names a cache, name a store of their own in"
            " LIMITS_REDIS_URL."
        )


async def publish_epochs(
    url: str, epochs: Mapping[str, int], *, timeout_s: float = 1.0, tls: ssl.SSLContext | None = None
) -> bool:
    """Publishes new epochs to every replica; returns False when Redis is unreachable."""
    async with open_backend(url, timeout_s, tls) as backend:
        try:
            await raise_epochs(backend, epochs)
        except LimiterUnavailable:
            return False
    return True


async def raise_epochs(backend: LimiterBackend, epochs: Mapping[str, int]) -> None:
    """Raises the epochs of these tenants; raises `LimiterUnavailable`."""
    for tenant, epoch in epochs.items():
        if tenant != ANY:
            await backend.raise_epoch(epoch_key(tenant), epoch)
            await backend.raise_epoch(epoch_key(tenant, SHARED_TAG), epoch)


@asynccontextmanager
async def open_backend(
    url: str, timeout_s: float, tls: ssl.SSLContext | None
) -> AsyncGenerator[RedisBackend]:
    """Opens a limits store for a command; one that is unreachable raises at its first use."""
    backend = RedisBackend(url, timeout_s=timeout_s, tls=tls)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.stop()
