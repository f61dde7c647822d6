"""`llm-proxy import`: takes over what another service has; one module for each source."""

import click

from llm_proxy.cli.import_config import import_config
from llm_proxy.cli.import_litellm import import_litellm
from llm_proxy.cli.printing import CommandGroup


@click.group(cls=CommandGroup)
def imports() -> None:
    """Take over what another service has."""


imports.add_command(import_config)
imports.add_command(import_litellm)
