"""How a command reaches the database, and how its errors become one line and an exit code.

Invariants: one clear line on standard error for whatever goes wrong; no address and no password is printed.
"""

import asyncio
import getpass
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from llm_proxy.admission import announce
from llm_proxy.cli.nearby import settings
from llm_proxy.cli.printing import FAILED, UNAVAILABLE, WRONG, fail, warn
from llm_proxy.database import DatabaseUnavailable, RowsRejected
from llm_proxy.errors import BadRequest, Refused, StoreUnavailable
from llm_proxy.identity import Actor, Registry, Rulings
from llm_proxy.identity.opened import Pool, opened_pool
from llm_proxy.schema import SchemaChanged

Result = TypeVar("Result")


def database_url() -> str:
    """The database's address; ends the command when none is configured."""
    url = settings().database_url
    if url is None:
        fail("DATABASE_URL is not set, and no stack runs in this folder: there is no database to ask", WRONG)
    return url.get_secret_value()


def trusted_at(url: str) -> ssl.SSLContext | None:
    """Whom to trust at a store's address, by the gateway's own rule; None where the address says it."""
    return settings().tls_for(url)


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """What the work returns; ends the command with a clear line when it fails."""
    try:
        return asyncio.run(work)
    except StoreUnavailable as refused:
        fault = refused.__cause__
        reason = f" DATABASE_URL: {fault.reason}" if isinstance(fault, DatabaseUnavailable) else ""
        fail(f"{refused.message}{reason}", UNAVAILABLE)
    except Refused as refused:
        fail(refused.message, WRONG if isinstance(refused, BadRequest) else FAILED)
    except DatabaseUnavailable as fault:
        fail(f"DATABASE_URL: the database cannot be asked: {fault.reason}", UNAVAILABLE)
    except RowsRejected as fault:
        fail(f"DATABASE_URL: the database refuses a value: {fault.reason}", WRONG)
    except SchemaChanged as changed:
        fail(str(changed), FAILED)


def operator() -> Actor:
    """Who runs this command, for the audit log: the user of the machine."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name
        return Actor("command line", role="command line")
    return Actor(name, role="command line", is_person=True)


def with_pool(do: Callable[[Pool], Awaitable[Result]]) -> Result:
    """What `do` returns, given connections to the database; ends the command when it fails."""
    url = database_url()

    async def connected() -> Result:
        async with opened_pool(url, trusted_at(url)) as pool:
            return await do(pool)

    return run(connected())


def with_registry(do: Callable[[Registry, Rulings], Awaitable[Result]]) -> Result:
    """What `do` returns, given the database's keys and limits; ends the command when it fails."""
    return with_pool(lambda pool: do(Registry(pool), Rulings(pool)))


async def announced(epochs: Mapping[str, int]) -> None:
    """Tell all replicas of a change, by the limits store; without it they learn of it from the database."""
    found = settings()
    url, tls = found.limits_redis_url, found.tls_for(found.limits_redis_url)
    if epochs and url is not None and not await announce(url.get_secret_value(), epochs, tls=tls):
        warn("the limits store is away; replicas learn of this from the database")
