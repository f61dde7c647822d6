"""What a command is configured with: the settings, and for a stack running in this folder its addresses.

Invariants: what the operator gave wins; the note of a running stack is its launcher's to write and remove,
mode 0600, and counts only where nothing was given.
"""

import sys
from pathlib import Path

import click
from dotenv import dotenv_values
from pydantic import ValidationError
from rich.console import Console

from llm_proxy.settings import PREFIX, Settings, load
from llm_proxy.stack.ports import reached_at

PIPED_WIDTH = 200
NOTE = Path(".local/running.env")
URL = "LLM_PROXY_URL"
_NOTED = ("DATABASE_URL", "LIMITS_REDIS_URL")


def console() -> Console:
    """Where tables go: as wide as the terminal, or as they need where nobody looks."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def settings() -> Settings:
    """The settings; ends the command with one line naming the variable that is wrong."""
    try:
        found = load()
        noted = dotenv_values(NOTE)
        missing = {
            name.lower(): noted[PREFIX + name]
            for name in _NOTED
            if getattr(found, name.lower()) is None and noted.get(PREFIX + name)
        }
        return load(**missing) if missing else found
    except ValidationError as wrong:
        first = wrong.errors()[0]
        click.echo(f"llm-proxy: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}", err=True)
        sys.exit(2)


def gateway_url(found: Settings) -> str:
    """Where the gateway answers: the one running in this folder, else the one the settings mean."""
    noted = dotenv_values(NOTE).get(URL)
    return noted or f"http://{reached_at(found.host)}:{found.port}"
