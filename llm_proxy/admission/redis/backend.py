"""The limits store in Redis: one Lua script for each operation of `LimiterBackend`.

Invariants: one script call admits; every call has a timeout; Redis must not evict (`noeviction`); the
scripts in `lua/` do what `memory_limiter` does. Raises LimiterUnavailable. `require_noeviction` and
`publish_epochs` are for start-up and the command line: they open a connection of their own, and accept an
unreachable store.
"""

import hashlib
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
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
from llm_proxy.admission.redis.cluster import ClusterClient
from llm_proxy.admission.redis.connection import Argument, RedisConnection
from llm_proxy.identity import ANY

REPLICAS_KEY = "lp:replicas"
REPLICA_TTL_MS = 15_000
_SCRIPTS = ("admit", "settle", "renew", "seed")
_LETTER = {"tokens": "t", "parallel": "p", "budget": "b"}


ObserveRequest = Callable[[float, bool], None]
"""Told of every script call: how long it took, in seconds, and whether the store answered."""


class RedisBackend:
    """Limits in a Valkey or Redis, shared by all replicas."""

    def __init__(
        self, url: str, *, timeout_s: float, clock: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """`clock` stands in for the script's clock, so that tests can turn its hands."""
        head = clock if clock is not None else script_source("clock")
        self._source = {
            name: f"{head}\n{script_source('reservations')}\n{script_source(name)}" for name in _SCRIPTS
        }
        self._sha = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in self._source.items()}  # noqa: S324 -- Redis names scripts so
        self.observe: ObserveRequest = lambda _seconds, _answered: None

        def wire(at: str) -> RedisConnection:
            return RedisConnection(at, timeout_s=timeout_s, greeting=self._greeting, tls=tls)

        self.cluster = ClusterClient(url, wire, timeout_s=timeout_s)

    @property
    def is_available(self) -> bool:
        """Whether it can be asked now."""
        return self.cluster.is_available

    @property
    def single_slot(self) -> bool:
        """In a Redis Cluster."""
        return self.cluster.is_cluster

    async def start(self) -> None:
        """Connect, or keep trying in the background."""
        await self.cluster.start()

    async def stop(self) -> None:
        """Close the connection."""
        await self.cluster.stop()

    async def reserve(
        self, ask: LimiterRequest, on_late_result: Callable[[LimiterResult], None] | None = None
    ) -> LimiterResult:
        """Admit a call if every check passes."""
        plan = ask.plan
        words: list[Argument] = [
            len(plan.keys),
            *plan.keys,
            int(ask.reserve),
            ask.epoch,
            ask.lease_id,
            ask.ttl_ms,
        ]
        words.append(ask.retry_id)
        for check, want in zip(plan.checks, ask.amounts, strict=True):
            words += (check.script_code, check.limit, want)

        def late(reply: list[int]) -> None:
            if on_late_result is not None:
                on_late_result(_answer(reply))

        return _answer(await self._run("admit", words, late))

    async def settle(self, ledger_key: str, number: int, entries: tuple[SettlementEntry, ...]) -> None:
        """Settle a batch of one tenant, once."""
        for slot, some in self._by_slot(entries):
            last = ledger_key if slot in {"", hash_tag_of(ledger_key)} else f"lp:{slot}:settled:{ledger_key}"
            words: list[Argument] = [1 + len(some), last, *(entry.key for entry in some), number]
            for entry in some:
                words += (_LETTER[entry.kind], entry.lease_id, entry.amount, entry.at)
            await self._run("settle", words)

    async def renew(self, entries: tuple[SettlementEntry, ...], ttl_ms: int) -> None:
        """Keep what living calls of one tenant hold."""
        for _, some in self._by_slot(entries):
            words: list[Argument] = [len(some), *(entry.key for entry in some), ttl_ms]
            for entry in some:
                words += (_LETTER[entry.kind], entry.lease_id, entry.amount)
            await self._run("renew", words)

    async def seed(self, key: str, spent: int, expires_ms: int = 0) -> None:
        """Give a missing counter its value."""
        await self._run("seed", [1, key, "spent", spent, expires_ms])

    async def raise_epoch(self, key: str, epoch: int) -> None:
        """Give a tenant its epoch."""
        await self._run("seed", [1, key, "epoch", epoch])

    async def heartbeat(self, name: str) -> int:
        """Say that this replica lives, and hear how many do."""
        key, ask = REPLICAS_KEY, self.cluster.execute
        seconds, micros = await ask(key, "TIME")
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        await ask(key, "ZADD", key, now_ms, name)
        await ask(key, "ZREMRANGEBYSCORE", key, "-inf", now_ms - REPLICA_TTL_MS)
        return int(await ask(key, "ZCARD", key))

    async def maxmemory_policy(self) -> str:
        """What the store does when its memory is full: the first node's word that is not `noeviction`."""
        policies: list[str] = []
        for wire in self.cluster.connections:
            told: bytes = await wire.execute("INFO", "memory")
            said = dict(line.split(":", 1) for line in told.decode().splitlines() if ":" in line)
            policies.append(said.get("maxmemory_policy", "unknown"))
        return next((one for one in policies if one != "noeviction"), "noeviction")

    def _by_slot(
        self, entries: tuple[SettlementEntry, ...]
    ) -> Iterable[tuple[str, tuple[SettlementEntry, ...]]]:
        """What one script can reach: everything, or in a cluster the entries of each hash tag.

        Those of a tenant have two tags where they were made before anybody knew that this is a cluster.
        """
        if not self.single_slot:
            return [("", entries)]
        found: dict[str, tuple[SettlementEntry, ...]] = {}
        for entry in entries:
            slot = hash_tag_of(entry.key)
            found[slot] = (*found.get(slot, ()), entry)
        return found.items()

    async def _run(
        self, name: str, words: list[Argument], orphan: Callable[[Any], None] | None = None
    ) -> Any:  # noqa: ANN401 -- RESP
        began, key = perf_counter(), str(words[1])
        try:
            reply = await self.cluster.execute(key, "EVALSHA", self._sha[name], *words, on_late_reply=orphan)
        except LimiterUnavailable as away:
            if not str(away).startswith("NOSCRIPT"):
                self.observe(perf_counter() - began, False)  # noqa: FBT003 -- whether it answered
                raise
            reply = await self._load_scripts_and_run(key, name, words, orphan)
        self.observe(perf_counter() - began, True)  # noqa: FBT003 -- the same
        return reply

    async def _load_scripts_and_run(
        self, key: str, name: str, words: list[Argument], orphan: Callable[[Any], None] | None
    ) -> Any:  # noqa: ANN401 -- RESP
        """The reply of a node that did not know our scripts."""
        for greeting in self._greeting():
            await self.cluster.connection_for(key).execute(*greeting)
        return await self.cluster.execute(key, "EVALSHA", self._sha[name], *words, on_late_reply=orphan)

    def _greeting(self) -> list[tuple[Argument, ...]]:
        return [("SCRIPT", "LOAD", text) for text in self._source.values()]


def script_source(name: str) -> str:
    """The text of a script."""
    return files("llm_proxy.admission.redis").joinpath("lua", f"{name}.lua").read_text()


def _answer(reply: list[int]) -> LimiterResult:
    return LimiterResult(reply[0], reply[1], reply[2], *(tuple(reply[at::4]) for at in range(3, 7)))


class EvictionEnabled(Exception):  # noqa: N818 -- errors are named for the state they report
    """The limits store may throw limits away when its memory is full."""


async def require_noeviction(url: str, *, timeout_s: float = 1.0, tls: ssl.SSLContext | None = None) -> None:
    """Ask the limits store whether it evicts; raises `EvictionEnabled`, and nothing when it is away."""
    async with _opened(url, timeout_s, tls) as store:
        try:
            policy = await store.maxmemory_policy()
        except LimiterUnavailable:
            return
    if policy not in {"noeviction", "unknown"}:
        raise EvictionEnabled(
            f"LLM_PROXY__LIMITS_REDIS_URL: the store's maxmemory-policy is {policy!r};"
            " limits and budgets need 'noeviction'."
        )


async def publish_epochs(
    url: str, epochs: Mapping[str, int], *, timeout_s: float = 1.0, tls: ssl.SSLContext | None = None
) -> bool:
    """Tell every replica of new epochs at once; False when the store did not hear."""
    async with _opened(url, timeout_s, tls) as store:
        try:
            await raise_epochs(store, epochs)
        except LimiterUnavailable:
            return False
    return True


async def raise_epochs(store: LimiterBackend, epochs: Mapping[str, int]) -> None:
    """Raise the epochs of these tenants; raises `LimiterUnavailable`."""
    for tenant, epoch in epochs.items():
        if tenant != ANY:
            await store.raise_epoch(epoch_key(tenant), epoch)
            await store.raise_epoch(epoch_key(tenant, SHARED_TAG), epoch)


@asynccontextmanager
async def _opened(url: str, timeout_s: float, tls: ssl.SSLContext | None) -> AsyncGenerator[RedisBackend]:
    store = RedisBackend(url, timeout_s=timeout_s, tls=tls)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()
