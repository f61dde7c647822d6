"""The command line: `llm-proxy COMMAND`, one module a family of commands, imported only when it is called.

Invariants: a command prints text and tables, with `--json` one JSON document; every error is one line
`llm-proxy: ...` and a non-zero exit code; only the command that creates a secret prints it.
"""

import importlib
import logging
import os
import sys
from typing import NoReturn

import click

from llm_proxy import __version__
from llm_proxy.huge_pages import place_objects_together

COMMANDS = {
    "init": (
        "init.command:init",
        "Write the configuration, settings, secrets and Compose files of an installation.",
    ),
    "up": ("stack:up", "Start, supervise and stop the whole stack on this machine."),
    "serve": ("serve:serve", "Run the gateway alone."),
    "console": ("console:console", "Run the web console; print a link that signs in once."),
    "sidecar": ("stack:sidecar", "Run the LiteLLM sidecar alone."),
    "migrate": ("database:migrate", "Bring the database to the schema of this version."),
    "keys": ("keys:keys", "Create, list, change, rotate and revoke virtual keys."),
    "limits": ("limits:limits", "List, set and drop limit policies."),
    "explain": ("limits:explain", "Show whether a call would be admitted, without making it."),
    "status": ("operations:status", "Show whether requests are served, and each component's state."),
    "doctor": ("doctor.command:doctor", "Examine this installation: what is wrong, why, how to mend it."),
    "admin-keys": ("admin:admin_keys", "Issue, list and revoke admin keys, with names and roles."),
    "audit": ("admin:audit", "Show the actions of admins; `audit verify` proves that the log is complete."),
    "usage": ("usage:usage", "Show usage and cost."),
    "requests": ("requests:requests", "Show single requests, and why one failed."),
    "runs": ("runs:runs", "Show the runs of agents, what each cost, and which were stopped."),
    "calls": ("calls:calls", "List running calls, and stop one."),
    "reconcile": ("usage:reconcile", "Compare the gateway's records with the sidecar's."),
    "simulate": ("limits:simulate", "Replay recorded calls against changed limits, budgets or prices."),
    "notify": ("admin:notify", "Test the webhooks of notifications."),
    "models": ("operations:models", "List model groups; --check calls each once."),
    "cache": ("operations:cache", "Delete cached responses."),
    "erase": ("operations:erase", "Erase a person's text and name."),
    "import": ("imports:imports", "Take over a LiteLLM proxy's database, or an older configuration."),
    "config": ("config:config", "Check litellm-config.yaml."),
    "backup": ("backup:backup", "Back the database up; export revocations; list and record backups."),
    "purge": ("purge:purge", "Delete what is past its retention; --dry-run shows it."),
    "restore": ("restore:restore", "Restore a backup; nothing is admitted until `restore-check`."),
    "restore-check": (
        "restore:restore_check",
        "Compare a restored database with what was known, and admit calls again.",
    ),
    "reload": ("stack:reload", "Apply changed models, settings or keys without losing a request."),
}
"""Module and function of each command, and its line in `llm-proxy --help`, in this order."""
GATEWAY_OBJECTS_BYTES = 28 * 2**20
"""What a gateway has in small objects after its start."""


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        """Returns the commands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 -- the same
        """Imports and returns the command of that name; None without one."""
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name][0].partition(":")
        if cmd_name == "serve":
            place_objects_together(GATEWAY_OBJECTS_BYTES)  # those of the modules that are imported here
        found: click.Command = getattr(importlib.import_module(f"{__package__}.{module}"), function)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 -- the same
        """Writes the table itself, so that `--help` imports no command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llm-proxy")
def commands() -> None:
    """A thin, hardened, fast gateway for LiteLLM."""


def _own_arguments(arguments: list[str]) -> list[str]:
    """Returns the arguments; those of LiteLLM's image are translated into those of `up`."""
    if not arguments or not arguments[0].startswith(("--", "litellm")):
        return arguments
    from llm_proxy.cli.litellm_arguments import translate  # noqa: PLC0415 -- most commands need it not
    from llm_proxy.cli.printing import warn  # noqa: PLC0415 -- the same

    found = translate(arguments, os.environ)
    if found is None:
        return arguments
    if found.is_debugging:
        os.environ.setdefault("LLM_PROXY__LOG_LEVEL", "DEBUG")
    warn(f"LiteLLM's arguments are read as: llm-proxy {' '.join(found.arguments)}")
    if found.ignored:
        warn(f"without effect here: {', '.join(found.ignored)}")
    return found.arguments


def main() -> NoReturn:
    """Runs the command line and exits; every error is printed here, in one form."""
    # Commands print their own errors: the packages' log lines would repeat them.
    logging.getLogger("llm_proxy").addHandler(logging.NullHandler())
    try:
        sys.exit(commands.main(_own_arguments(sys.argv[1:]), prog_name="llm-proxy", standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        hint = ""
        if isinstance(error, click.UsageError) and error.ctx is not None:
            hint = f" (see `{error.ctx.command_path} --help`)"
        click.echo(f"llm-proxy: {' '.join(error.format_message().split())}{hint}", err=True)
        sys.exit(getattr(error, "code", error.exit_code))  # a `CommandFailed` has a code of its own
    except click.Abort:
        click.echo("llm-proxy: interrupted", err=True)
        sys.exit(130)
