"""`llm-proxy migrate`: the database brought to this version's schema.

Invariants: repeating it changes nothing; stopping it loses nothing; it has no deadline.
The sidecar's password comes from a file or the environment, never from the command line,
where every process could read it.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from llm_proxy import schema
from llm_proxy.cli.database import database_url, run, trusted_at
from llm_proxy.cli.printing import as_json_option, print_json
from llm_proxy.database import deadline

_PASSWORD = "SIDECAR_DB_PASSWORD"  # noqa: S105 -- a variable's name


@click.command()
@click.option(
    "--sidecar-password-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Let the role `llm_proxy_sidecar`, which may only write llm_calls, log in with this password.",
)
@as_json_option
def migrate(*, sidecar_password_file: Path | None, as_json: bool) -> None:
    """Bring the database to this version's schema.

    The gateway does the same at its start, beside the calls. This takes as long as it takes, and says how far
    it is; stopped, it goes on where it was. Reads DATABASE_URL from the environment, .env or .keys/, and the
    password of llm_proxy_sidecar from SIDECAR_DB_PASSWORD where no file is named.
    """
    given = sidecar_password_file.read_text() if sidecar_password_file else os.environ.get(_PASSWORD, "")
    password = given.strip() or None
    applied = run(_migrate(database_url(), password, partial(click.echo, err=as_json)))
    if as_json:
        print_json({"applied": applied, "sidecar_may_log_in": password is not None})
        return
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("nothing to do: the schema is this version's")
    if password:
        click.echo("llm_proxy_sidecar may log in")


async def _migrate(url: str, password: str | None, report: Callable[[str], None]) -> list[str]:
    async with deadline(None):
        return await schema.migrate(url, sidecar_password=password, tls=trusted_at(url), report=report)
