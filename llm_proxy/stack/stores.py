"""Where Postgres and the two Valkeys are: the operator's own, or embedded ones of the stack.

Invariants: each is replaced by itself; `REDIS_URL` alone stands for both Valkeys; an embedded Valkey's
password is new at every start.
"""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llm_proxy.stack.first_secrets import POSTGRES_PASSWORD
from llm_proxy.stack.part import Part
from llm_proxy.stack.ports import free_port
from llm_proxy.stack.postgres import postgres, postgres_url
from llm_proxy.stack.surroundings import Surroundings
from llm_proxy.stack.valkey import Purpose, valkey, valkey_url

DATABASE = ("LLM_PROXY__DATABASE_URL", "DATABASE_URL")
LIMITS = ("LLM_PROXY__LIMITS_REDIS_URL", "LIMITS_REDIS_URL", "REDIS_URL")
CACHE = ("CACHE_REDIS_URL", "REDIS_URL")


@dataclass(frozen=True, slots=True)
class Store:
    """One store.

    Attributes:
        url: None when there is none.
        port: Where the embedded one listens; None for the operator's own.
        password: Of the embedded one.
    """

    url: str | None
    port: int | None = None
    password: str = ""


@dataclass(frozen=True, slots=True)
class Stores:
    """The three of them, and what must be started for them."""

    database: Store
    limits: Store
    cache: Store

    def valkeys(self, state: Path) -> Iterator[Part]:
        """The embedded Valkeys to start."""
        both: dict[Purpose, Store] = {"limits": self.limits, "cache": self.cache}
        for purpose, store in both.items():
            if store.port:
                yield valkey(purpose, state, store.port, store.password)

    def postgres(self, state: Path) -> Iterator[Part]:
        """The embedded Postgres to start; the first time, asking for it takes half a second."""
        if self.database.port:
            yield postgres(state, self.database.port, self.database.password)


def choose(given: Surroundings, *, embedded: bool = True) -> Stores:
    """The operator's own stores where named; elsewhere embedded ones on free ports, or none at all."""
    database, limits, cache = (given.first(*names) for names in (DATABASE, LIMITS, CACHE))
    return Stores(
        _store(database, embedded, postgres_url, given.names.get(POSTGRES_PASSWORD, "")),
        _store(limits, embedded, valkey_url, secrets.token_hex(16)),
        _store(cache, embedded, valkey_url, secrets.token_hex(16)),
    )


def _store(own: str | None, embedded: bool, url: Callable[[int, str], str], password: str) -> Store:  # noqa: FBT001 -- private
    if own or not embedded:
        return Store(own)
    port = free_port()
    return Store(url(port, password), port, password)
