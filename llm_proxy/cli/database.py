"""How a command reaches the database, and how it says that it cannot.

Invariants: one clear line on standard error and a non-zero exit for whatever goes wrong; no address and no
password is printed.
"""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

import click
from pydantic import ValidationError

from llm_proxy.errors import Refused
from llm_proxy.ledger.postgres import PostgresAway
from llm_proxy.schema import SchemaChanged
from llm_proxy.settings import Settings, load

Result = TypeVar("Result")


def database_url(settings: Settings | None = None) -> str:
    """The database's address; ends the command when none is configured."""
    try:
        url = (settings or load()).database_url
    except ValidationError as wrong:
        fail(f"{'.'.join(str(part) for part in wrong.errors()[0]['loc'])}: {wrong.errors()[0]['msg']}", 2)
    if url is None:
        fail("DATABASE_URL is not set: there is no database to ask", 2)
    return url.get_secret_value()


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """What the work returns; ends the command with a clear line when it fails."""
    try:
        return asyncio.run(work)
    except Refused as refused:
        fail(refused.message, 2)
    except PostgresAway:
        fail("the database does not answer, or has not been migrated (`llm-proxy migrate`)", 1)
    except SchemaChanged as changed:
        fail(str(changed), 1)


def fail(message: str, code: int) -> NoReturn:
    """End the command with this line."""
    click.echo(f"llm-proxy: {message}", err=True)
    sys.exit(code)
