"""`llm-proxy config check`: checks of the sidecar's configuration that LiteLLM does not make.

Invariants: no LiteLLM, no network; exit 1 when a fault was found, 0 with notes alone.
"""

import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import click

from llm_proxy.cli.context import operator_env, stack_addresses
from llm_proxy.cli.printing import EXIT_FAILED, EXIT_WRONG_INPUT, CommandGroup, as_json_option, fail
from llm_proxy.sidecar.config_check import LEFT_OUT_PREFIX, ConfigFinding, check_config
from llm_proxy.sidecar.config_file import READ_FAULTS, read_config, unreadable
from llm_proxy.sidecar.environment import ACCEPT_ALL, ACCEPT_VARIABLE, build_environment
from llm_proxy.stack.operator_env import OperatorEnv
from llm_proxy.stack.plan import LOCAL_MODEL_VARIABLES


def check_text(
    text: str,
    variables: Mapping[str, str] = os.environ,
    folder: Path | None = None,
    accepted: Collection[str] = (),
) -> list[ConfigFinding]:
    """Checks a configuration; returns faults and notes.

    Args:
        text: The configuration.
        variables: The environment that its references are resolved in.
        folder: Holds the files it includes and the modules it names; None: neither is looked for.
        accepted: Paths of protecting settings that the operator knows to have no effect.
    """
    try:
        raw, texts = read_config(text, folder)
    except READ_FAULTS as fault:
        return [unreadable(fault)]
    env = build_environment(variables, texts)
    env["LITELLM_MASTER_KEY"] = variables.get("LITELLM_MASTER_KEY", "")
    if OperatorEnv(variables).is_development:  # as `up` does for its sidecars
        env.setdefault(ACCEPT_VARIABLE, ACCEPT_ALL)
    return check_config(raw, env, folder, accepted)


def config_faults(file: Path, variables: Mapping[str, str]) -> list[str]:
    """What would keep a sidecar from starting with a configuration, a line each."""
    others = {name: value for name, value in variables.items() if name != "LITELLM_MASTER_KEY"}
    found = check_text(file.read_text(encoding="utf-8"), others, file.parent)
    return [f"{one.path or file}: {one.message}" for one in found if one.prevents_start]


def format_findings(found: Iterable[ConfigFinding], file: Path) -> Iterator[str]:
    """A line a finding; deployments left out for the same reason share a line."""
    left_out: dict[str, list[str]] = {}
    for one in found:
        if not one.is_fault and one.message.startswith(LEFT_OUT_PREFIX):
            left_out.setdefault(one.message, []).append(one.path.removeprefix("model_list."))
        else:
            yield f"{'fault' if one.is_fault else 'note '}  {one.path or file}: {one.message}"
    for message, names in left_out.items():
        is_local = any(name in message for name in LOCAL_MODEL_VARIABLES)
        hint = " (`llm-proxy up` sets it)" if is_local else ""
        yield f"note   {message}{hint}: {', '.join(dict.fromkeys(names))}"


@click.group(cls=CommandGroup)
def config() -> None:
    """Check litellm-config.yaml."""


@config.command("check")
@click.argument("file", type=click.Path(path_type=Path), default=Path("litellm-config.yaml"))
@as_json_option
@click.option("--faults", "faults_only", is_flag=True, help="Leave out notes, such as unset variables.")
@click.option("--start", "start_only", is_flag=True, help="Only what would keep the sidecar from starting.")
@click.option(
    "--accept",
    "accepted",
    multiple=True,
    metavar="PATH",
    help="Accept that a protecting setting has no effect here, such as litellm_settings.max_budget.",
)
def check(
    file: Path, *, as_json: bool, faults_only: bool, start_only: bool, accepted: tuple[str, ...]
) -> None:
    """Print what LiteLLM would ignore or reject in FILE.

    Variables are read from the environment, .env and .keys/, and from the stack that runs in this folder.
    """
    variables = {**stack_addresses(), **operator_env().variables}
    try:
        found = check_text(file.read_text(encoding="utf-8"), variables, file.parent, accepted)
    except (OSError, UnicodeDecodeError) as fault:
        fail(f"{file}: cannot be read: {fault}", EXIT_WRONG_INPUT)
    found = [one for one in found if one.is_fault or not faults_only]
    found = [one for one in found if one.prevents_start or not start_only]
    if as_json:
        fields = [{"where": one.path, "message": one.message, "fault": one.is_fault} for one in found]
        click.echo(json.dumps(fields))
    else:
        for line in format_findings(found, file):
            click.echo(line)
        faults = sum(one.is_fault for one in found)
        click.echo(f"{file}: {faults} faults, {len(found) - faults} notes")
    if any(one.is_fault for one in found):
        sys.exit(EXIT_FAILED)
