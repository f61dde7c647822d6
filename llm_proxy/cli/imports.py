"""`llm-proxy import`: takes over what another service has; a module a source."""

import click

from llm_proxy.cli.import_config import import_config


@click.group()
def imports() -> None:
    """Take over the configuration of another service."""


imports.add_command(import_config)
