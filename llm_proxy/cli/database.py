"""Commands' connections to the database, its errors as exit codes, key completion; `llm-proxy migrate`.

Invariants: no address and no password is printed. `migrate` is repeatable, loses nothing when stopped and has
no deadline. The sidecar role's password comes from a file or the environment, never from the command line,
where every process could read it.
"""

import asyncio
import getpass
import os
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from llm_proxy import schema
from llm_proxy.admission.redis.backend import publish_epochs
from llm_proxy.cli.context import COMPLETION_TIMEOUT_S, load_settings
from llm_proxy.cli.printing import (
    EXIT_FAILED,
    EXIT_UNAVAILABLE,
    EXIT_WRONG_INPUT,
    as_json_option,
    fail,
    print_json,
    warn,
)
from llm_proxy.errors import APIError, BadRequest, StoreUnavailable
from llm_proxy.identity import Actor, KeyRepository, PolicyRepository
from llm_proxy.identity.postgres_store import Pool, open_pool
from llm_proxy.schema import GatewayTooOld, SchemaChanged
from llm_proxy.schema.database import DatabaseUnavailable, RowsRejected, db_deadline

Result = TypeVar("Result")


def database_url() -> str:
    """Returns the database's address; ends the command if none is set."""
    url = load_settings().database_url
    if url is None:
        fail(
            "DATABASE_URL is not set, and no stack runs in this folder: set it, or run `llm-proxy up`",
            EXIT_WRONG_INPUT,
        )
    return url.get_secret_value()


def tls_for(url: str) -> ssl.SSLContext | None:
    """The TLS context for a store's address, as the gateway chooses it; None if the address decides."""
    return load_settings().tls_for(url)


def run_or_fail(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs the work and returns its result; a known failure ends the command with a line and an exit code."""
    try:
        return asyncio.run(work)
    except StoreUnavailable as error:
        cause = error.__cause__
        reason = f" DATABASE_URL: {cause.reason}" if isinstance(cause, DatabaseUnavailable) else ""
        fail(f"{error.message}{reason}", EXIT_UNAVAILABLE)
    except APIError as error:
        fail(error.message, EXIT_WRONG_INPUT if isinstance(error, BadRequest) else EXIT_FAILED)
    except DatabaseUnavailable as error:
        fail(f"DATABASE_URL: the database is unavailable: {error.reason}", EXIT_UNAVAILABLE)
    except RowsRejected as error:
        fail(f"DATABASE_URL: the database rejects a value: {error.reason}", EXIT_WRONG_INPUT)
    except (SchemaChanged, GatewayTooOld) as error:
        fail(str(error), EXIT_FAILED)


def current_actor() -> Actor:
    """Returns the actor for the audit log: the machine's user who runs this command."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name
        return Actor("command line", role="command line")
    return Actor(name, role="command line", is_person=True)


def run_with_pool(do: Callable[[Pool], Awaitable[Result]]) -> Result:
    """Calls `do` with connections to the database and returns its result; ends the command if it fails."""
    url = database_url()

    async def connected() -> Result:
        async with open_pool(url, tls_for(url)) as pool:
            return await do(pool)

    return run_or_fail(connected())


def run_with_repositories(do: Callable[[KeyRepository, PolicyRepository], Awaitable[Result]]) -> Result:
    """Calls `do` with the keys and limit policies and returns its result; ends the command if it fails."""
    return run_with_pool(lambda pool: do(KeyRepository(pool), PolicyRepository(pool)))


async def publish_change(epochs: Mapping[str, int]) -> None:
    """Publishes raised epochs to all replicas through the limits store; without it they poll the database."""
    settings = load_settings()
    url, tls = settings.limits_redis_url, settings.tls_for(settings.limits_redis_url)
    if epochs and url is not None and not await publish_epochs(url.get_secret_value(), epochs, tls=tls):
        warn("the limits store does not answer; replicas read the change from the database")


MAX_COMPLETED_KEYS = 1000


def complete_keys(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Returns the names of keys that are not revoked."""
    try:
        return asyncio.run(_key_names(incomplete))
    except (click.ClickException, APIError, TimeoutError, OSError):
        return []


async def _key_names(incomplete: str) -> list[str]:
    settings = load_settings()
    url = settings.database_url
    if url is None:
        return []
    async with (
        asyncio.timeout(COMPLETION_TIMEOUT_S),
        open_pool(url.get_secret_value(), settings.tls_for(url)) as pool,
    ):
        page = await KeyRepository(pool).list_keys(limit=MAX_COMPLETED_KEYS)
    return [one.spec.name for one in page if one.revoked_at is None and one.spec.name.startswith(incomplete)]


_PASSWORD_VARIABLE = "SIDECAR_DB_PASSWORD"  # noqa: S105 -- a variable's name


@click.command()
@click.option(
    "--sidecar-password-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the password of the role `llm_proxy_sidecar`, which may only write llm_calls.",
)
@as_json_option
def migrate(*, sidecar_password_file: Path | None, as_json: bool) -> None:
    """Bring the database to this version's schema.

    The gateway does the same at its start, beside the calls. The command has no time limit and prints its
    progress; if it is stopped, the next run continues. Reads DATABASE_URL from the environment, .env or
    .keys/, and the password of llm_proxy_sidecar from SIDECAR_DB_PASSWORD if no file is named.
    """
    file = sidecar_password_file
    password = (file.read_text() if file else os.environ.get(_PASSWORD_VARIABLE, "")).strip() or None
    applied = run_or_fail(_migrate(database_url(), password, partial(click.echo, err=as_json)))
    if as_json:
        print_json({"applied": applied, "sidecar_may_log_in": password is not None})
        return
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("nothing to do: the schema has this version")
    if password:
        click.echo("llm_proxy_sidecar may log in")


async def _migrate(url: str, password: str | None, report: Callable[[str], None]) -> list[str]:
    async with db_deadline(None):
        return await schema.migrate(url, sidecar_password=password, tls=tls_for(url), report=report)
