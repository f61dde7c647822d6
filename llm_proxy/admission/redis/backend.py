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

from llm_proxy.admission.limiter import ONE_TAG, Answer, Ask, Entry, Store, StoreAway, epoch_key, slot_of
from llm_proxy.admission.redis.cluster import Nodes
from llm_proxy.admission.redis.connection import Wire, Word
from llm_proxy.identity import ANY

REPLICAS_KEY = "lp:replicas"
REPLICA_LIFE_MS = 15_000
_SCRIPTS = ("admit", "settle", "renew", "seed")
_LETTER = {"tokens": "t", "parallel": "p", "budget": "b"}


Observed = Callable[[float, bool], None]
"""Told of every script call: how long it took, in seconds, and whether the store answered."""


class SharedStore:
    """Limits in a Valkey or Redis, shared by all replicas."""

    def __init__(
        self, url: str, *, timeout_s: float, clock: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """`clock` stands in for the script's clock, so that tests can turn its hands."""
        head = clock if clock is not None else source("clock")
        self._source = {name: f"{head}\n{source('reservations')}\n{source(name)}" for name in _SCRIPTS}
        self._sha = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in self._source.items()}  # noqa: S324 -- Redis names scripts so
        self.observed: Observed = lambda _seconds, _answered: None

        def wire(at: str) -> Wire:
            return Wire(at, timeout_s=timeout_s, greeting=self._greeting, tls=tls)

        self.nodes = Nodes(url, wire, timeout_s=timeout_s)

    @property
    def answering(self) -> bool:
        """Whether it can be asked now."""
        return self.nodes.answering

    @property
    def one_slot(self) -> bool:
        """In a Redis Cluster."""
        return self.nodes.many

    async def start(self) -> None:
        """Connect, or keep trying in the background."""
        await self.nodes.start()

    async def stop(self) -> None:
        """Close the connection."""
        await self.nodes.stop()

    async def admit(self, ask: Ask, orphan: Callable[[Answer], None] | None = None) -> Answer:
        """Admit a call if every check passes."""
        plan = ask.plan
        words: list[Word] = [len(plan.keys), *plan.keys, int(ask.take), ask.epoch, ask.lease, ask.ttl_ms]
        words.append(ask.name)
        for check, want in zip(plan.checks, ask.wants, strict=True):
            words += (check.code, check.limit, want)

        def late(reply: list[int]) -> None:
            if orphan is not None:
                orphan(_answer(reply))

        return _answer(await self._run("admit", words, late))

    async def settle(self, ledger_key: str, number: int, entries: tuple[Entry, ...]) -> None:
        """Settle a batch of one tenant, once."""
        for slot, some in self._by_slot(entries):
            last = ledger_key if slot in {"", slot_of(ledger_key)} else f"lp:{slot}:settled:{ledger_key}"
            words: list[Word] = [1 + len(some), last, *(entry.key for entry in some), number]
            for entry in some:
                words += (_LETTER[entry.kind], entry.lease, entry.amount, entry.at)
            await self._run("settle", words)

    async def keep(self, entries: tuple[Entry, ...], ttl_ms: int) -> None:
        """Keep what living calls of one tenant hold."""
        for _, some in self._by_slot(entries):
            words: list[Word] = [len(some), *(entry.key for entry in some), ttl_ms]
            for entry in some:
                words += (_LETTER[entry.kind], entry.lease, entry.amount)
            await self._run("renew", words)

    async def seed(self, key: str, spent: int, expires_ms: int = 0) -> None:
        """Give a missing counter its value."""
        await self._run("seed", [1, key, "spent", spent, expires_ms])

    async def raise_epoch(self, key: str, epoch: int) -> None:
        """Give a tenant its epoch."""
        await self._run("seed", [1, key, "epoch", epoch])

    async def replicas(self, name: str) -> int:
        """Say that this replica lives, and hear how many do."""
        key, ask = REPLICAS_KEY, self.nodes.ask
        seconds, micros = await ask(key, "TIME")
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        await ask(key, "ZADD", key, now_ms, name)
        await ask(key, "ZREMRANGEBYSCORE", key, "-inf", now_ms - REPLICA_LIFE_MS)
        return int(await ask(key, "ZCARD", key))

    async def memory_policy(self) -> str:
        """What the store does when its memory is full: the first node's word that is not `noeviction`."""
        policies: list[str] = []
        for wire in self.nodes.all:
            told: bytes = await wire.ask("INFO", "memory")
            said = dict(line.split(":", 1) for line in told.decode().splitlines() if ":" in line)
            policies.append(said.get("maxmemory_policy", "unknown"))
        return next((one for one in policies if one != "noeviction"), "noeviction")

    def _by_slot(self, entries: tuple[Entry, ...]) -> Iterable[tuple[str, tuple[Entry, ...]]]:
        """What one script can reach: everything, or in a cluster the entries of each hash tag.

        Those of a tenant have two tags where they were made before anybody knew that this is a cluster.
        """
        if not self.one_slot:
            return [("", entries)]
        found: dict[str, tuple[Entry, ...]] = {}
        for entry in entries:
            slot = slot_of(entry.key)
            found[slot] = (*found.get(slot, ()), entry)
        return found.items()

    async def _run(self, name: str, words: list[Word], orphan: Callable[[Any], None] | None = None) -> Any:  # noqa: ANN401 -- RESP
        began, key = perf_counter(), str(words[1])
        try:
            reply = await self.nodes.ask(key, "EVALSHA", self._sha[name], *words, orphan=orphan)
        except StoreAway as away:
            if not str(away).startswith("NOSCRIPT"):
                self.observed(perf_counter() - began, False)  # noqa: FBT003 -- whether it answered
                raise
            reply = await self._taught(key, name, words, orphan)
        self.observed(perf_counter() - began, True)  # noqa: FBT003 -- the same
        return reply

    async def _taught(
        self, key: str, name: str, words: list[Word], orphan: Callable[[Any], None] | None
    ) -> Any:  # noqa: ANN401 -- RESP
        """The reply of a node that did not know our scripts."""
        for greeting in self._greeting():
            await self.nodes.of(key).ask(*greeting)
        return await self.nodes.ask(key, "EVALSHA", self._sha[name], *words, orphan=orphan)

    def _greeting(self) -> list[tuple[Word, ...]]:
        return [("SCRIPT", "LOAD", text) for text in self._source.values()]


def source(name: str) -> str:
    """The text of a script."""
    return files("llm_proxy.admission.redis").joinpath("lua", f"{name}.lua").read_text()


def _answer(reply: list[int]) -> Answer:
    return Answer(reply[0], reply[1], reply[2], *(tuple(reply[at::4]) for at in range(3, 7)))


class EvictingStore(Exception):  # noqa: N818 -- errors are named for the state they report
    """The limits store may throw limits away when its memory is full."""


async def refuse_evicting(url: str, *, timeout_s: float = 1.0, tls: ssl.SSLContext | None = None) -> None:
    """Ask the limits store whether it evicts; raises `EvictingStore`, and nothing when it is away."""
    async with _opened(url, timeout_s, tls) as store:
        try:
            policy = await store.memory_policy()
        except StoreAway:
            return
    if policy not in {"noeviction", "unknown"}:
        raise EvictingStore(
            f"LLM_PROXY__LIMITS_REDIS_URL: the store's maxmemory-policy is {policy!r};"
            " limits and budgets need 'noeviction'."
        )


async def announce(
    url: str, epochs: Mapping[str, int], *, timeout_s: float = 1.0, tls: ssl.SSLContext | None = None
) -> bool:
    """Tell every replica of new epochs at once; False when the store did not hear."""
    async with _opened(url, timeout_s, tls) as store:
        try:
            await raise_all(store, epochs)
        except StoreAway:
            return False
    return True


async def raise_all(store: Store, epochs: Mapping[str, int]) -> None:
    """Raise the epochs of these tenants; raises `StoreAway`."""
    for tenant, epoch in epochs.items():
        if tenant != ANY:
            await store.raise_epoch(epoch_key(tenant), epoch)
            await store.raise_epoch(epoch_key(tenant, ONE_TAG), epoch)


@asynccontextmanager
async def _opened(url: str, timeout_s: float, tls: ssl.SSLContext | None) -> AsyncGenerator[SharedStore]:
    store = SharedStore(url, timeout_s=timeout_s, tls=tls)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()
