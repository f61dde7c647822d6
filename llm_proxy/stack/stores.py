"""Where Postgres and the two Valkeys are: the operator's own, or embedded ones of the stack.

Invariants: each is replaced by itself; `REDIS_URL` alone stands for both Valkeys; an embedded Valkey's
password, and that of the role for model calls, is new at every start.
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
from llm_proxy.store_urls import checked, redis_url
from llm_proxy.store_urls import postgres_url as postgres_address

DATABASE = ("LLM_PROXY__DATABASE_URL", "DATABASE_URL")
LIMITS = ("LLM_PROXY__LIMITS_REDIS_URL", "LIMITS_REDIS_URL", "REDIS_URL")
CALLS_ROLE = "llm_proxy_sidecar"
CACHE = ("CACHE_REDIS_URL", "REDIS_URL")
CALLS = ("LLM_CALLS_DATABASE_URL",)


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
    """The three of them, and what must be started for them.

    Attributes:
        calls: The database once more, as the role that may only write down model calls.
    """

    database: Store
    limits: Store
    cache: Store
    calls: Store

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
    """The operator's own stores where named; elsewhere embedded ones on free ports, or none at all.

    Raises `InvalidURL` naming the variable.
    """
    own = _named(given, DATABASE, postgres_address)
    limits, cache = (_named(given, names, redis_url) for names in (LIMITS, CACHE))
    database = _store(own, embedded, postgres_url, given.names.get(POSTGRES_PASSWORD, ""))
    return Stores(
        database,
        _store(limits, embedded, valkey_url, secrets.token_hex(16)),
        _store(cache, embedded, valkey_url, secrets.token_hex(16)),
        _calls(database, given),
    )


def _named(given: Surroundings, names: tuple[str, ...], read: Callable[[str], str]) -> str | None:
    name = next((one for one in names if one in given.names), None)
    return checked(name, given.names[name], read) if name is not None else None


def _calls(database: Store, given: Surroundings) -> Store:
    if not database.port:
        return Store(_named(given, CALLS, postgres_address) or database.url)
    password = secrets.token_hex(16)
    return Store(postgres_url(database.port, password, CALLS_ROLE), database.port, password)


def _store(own: str | None, embedded: bool, url: Callable[[int, str], str], password: str) -> Store:  # noqa: FBT001 -- private
    if own or not embedded:
        return Store(own)
    port = free_port()
    return Store(url(port, password), port, password)
