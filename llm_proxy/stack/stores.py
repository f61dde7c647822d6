"""Where Postgres and the two Valkeys are: the operator's own, or embedded ones of the stack.

Invariant: each is replaced by itself; `REDIS_URL` alone stands for both Valkeys.
"""

import secrets
from collections.abc import Iterator
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
class Stores:
    """The addresses of all three, and what must be started for them.

    Attributes:
        database_password: Of the embedded Postgres.
        valkey_password: Of the embedded Valkeys, new at every start.
        database_port: None where the operator's own is used; so the two others.
    """

    database_url: str
    limits_url: str
    cache_url: str
    database_password: str
    valkey_password: str
    database_port: int | None
    limits_port: int | None
    cache_port: int | None

    def valkeys(self, state: Path) -> Iterator[Part]:
        """The embedded Valkeys to start."""
        ports: dict[Purpose, int | None] = {"limits": self.limits_port, "cache": self.cache_port}
        for purpose, port in ports.items():
            if port is not None:
                yield valkey(purpose, state, port, self.valkey_password)

    def postgres(self, state: Path) -> Iterator[Part]:
        """The embedded Postgres to start; the first time, asking for it takes half a second."""
        if self.database_port is not None:
            yield postgres(state, self.database_port, self.database_password)


def choose(given: Surroundings) -> Stores:
    """The operator's own stores where named, embedded ones on free ports elsewhere."""
    passwords = given.names[POSTGRES_PASSWORD], secrets.token_hex(16)
    database, limits, cache = (given.first(*names) for names in (DATABASE, LIMITS, CACHE))
    ports = [None if own else free_port() for own in (database, limits, cache)]
    return Stores(
        database or postgres_url(ports[0] or 0, passwords[0]),
        limits or valkey_url(ports[1] or 0, passwords[1]),
        cache or valkey_url(ports[2] or 0, passwords[1]),
        *passwords,
        *ports,
    )
