"""How a command reaches the database, and how it says that it cannot.

Invariants: one clear line on standard error and a non-zero exit for whatever goes wrong; no address and no
password is printed.
"""

import asyncio
import ssl
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

import click

from llm_proxy.cli.nearby import settings
from llm_proxy.database import DatabaseUnavailable, RowsRejected
from llm_proxy.errors import Refused
from llm_proxy.schema import SchemaChanged

Result = TypeVar("Result")


def database_url() -> str:
    """The database's address; ends the command when none is configured."""
    url = settings().database_url
    if url is None:
        fail("DATABASE_URL is not set, and no stack runs in this folder: there is no database to ask", 2)
    return url.get_secret_value()


def trusted_at(url: str) -> ssl.SSLContext | None:
    """Whom to trust at a store's address, by the gateway's own rule; None where the address says it."""
    return settings().tls_for(url)


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """What the work returns; ends the command with a clear line when it fails."""
    try:
        return asyncio.run(work)
    except Refused as refused:
        fail(refused.message, 2)
    except DatabaseUnavailable as fault:
        fail(f"DATABASE_URL: the database cannot be asked: {fault.reason}", 1)
    except RowsRejected as fault:
        fail(f"DATABASE_URL: the database refuses a value: {fault.reason}", 1)
    except SchemaChanged as changed:
        fail(str(changed), 1)


def fail(message: str, code: int) -> NoReturn:
    """End the command with this line."""
    click.echo(f"llm-proxy: {message}", err=True)
    sys.exit(code)
