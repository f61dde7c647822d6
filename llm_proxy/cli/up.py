"""`llm-proxy up`: the whole stack on this machine, until Ctrl-C.

Invariant: a fault is one clear line on standard error and exit code 1; a wrong setting is exit code 2.
"""

import os
import sys
from pathlib import Path

import click
from pydantic import ValidationError

from llm_proxy.cli.config import faults
from llm_proxy.settings import faults_of
from llm_proxy.stack import Missing, PartDied
from llm_proxy.stack.launch import run
from llm_proxy.stack.plan import Refused, Wishes
from llm_proxy.store_urls import InvalidURL


@click.command
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Your own LiteLLM configuration [default: litellm-config.yaml].",
)
@click.option("--host", help="Address the gateway listens on [default: 127.0.0.1].")
@click.option("--port", type=click.IntRange(1, 65535), help="Port the gateway listens on [default: 7007].")
@click.option(
    "--sidecars", type=click.IntRange(1, 64), default=1, show_default=True, help="LiteLLM processes."
)
@click.option("--local-model/--no-local-model", default=True, help="Serve the small model that runs here.")
@click.option("--stores/--no-stores", default=True, help="Start a Postgres and Valkeys where none is named.")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".local"),
    show_default=True,
    envvar="LLM_PROXY_STATE",
    help="Folder of data, models and logs.",
)
@click.option("--with-parent", is_flag=True, help="Stop when the program that started this one is gone.")
@click.option("--logs-to-stdout", is_flag=True, help="All logs on standard output instead of files.")
def up(  # noqa: PLR0913 -- one argument an option
    *,
    config: Path | None,
    host: str | None,
    port: int | None,
    sidecars: int,
    local_model: bool,
    stores: bool,
    state: Path,
    with_parent: bool,
    logs_to_stdout: bool,
) -> None:
    """Start, supervise and stop the whole stack on this machine.

    DATABASE_URL, REDIS_URL (or LIMITS_REDIS_URL and CACHE_REDIS_URL) and provider keys, in the environment,
    .env or .keys/, replace the embedded part each.
    """
    wishes = Wishes(config, host, port, local_model, stores, sidecars, state, with_parent, logs_to_stdout)
    try:
        run(wishes, os.environ, click.echo, faults)
    except ValidationError as wrong:
        for fault in faults_of(wrong):
            click.echo(f"llm-proxy: {fault}", err=True)
        sys.exit(2)
    except UnicodeDecodeError:
        click.echo("llm-proxy: a file of .env or .keys/: it is no UTF-8", err=True)
        sys.exit(2)
    except InvalidURL as fault:
        click.echo(f"llm-proxy: {fault}", err=True)
        sys.exit(2)
    except (Refused, Missing, PartDied) as fault:
        click.echo(f"llm-proxy: {fault}", err=True)
        sys.exit(1)
    except PermissionError as denied:
        click.echo(f"llm-proxy: no permission for {denied.filename}", err=True)
        sys.exit(1)
