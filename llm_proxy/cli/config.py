"""`llm-proxy config check`: the sidecar's configuration, read with more care than LiteLLM reads it.

Invariants: no LiteLLM, no network; exit 1 when a fault was found, 0 with notes alone.
"""

import json
import os
from collections.abc import Hashable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import yaml

from llm_proxy.sidecar.check import Finding, check
from llm_proxy.sidecar.environment import environment


class Repeated(yaml.YAMLError):
    """A key that stands twice in one mapping; YAML keeps the last and says nothing."""


class Strict(yaml.SafeLoader):
    """A loader that refuses repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 -- PyYAML's signature
        """The mapping; raises `Repeated` with the line of the second."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise Repeated(f"line {key.start_mark.line + 1}: {key.value} stands twice in one mapping")
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def findings(text: str, given: Mapping[str, str] = os.environ) -> list[Finding]:
    """Everything found in a configuration's text, with these names given."""
    try:
        raw: object = yaml.load(text, Strict)  # noqa: S506 -- it is a safe loader
    except yaml.YAMLError as problem:
        return [Finding("", " ".join(str(problem).split()))]
    own_key = {"LITELLM_MASTER_KEY": given.get("LITELLM_MASTER_KEY", "")}
    return check(raw, environment(given, text) | own_key)


def faults(file: Path, given: Mapping[str, str]) -> list[str]:
    """What keeps a configuration from being served, a line each; the master key is not judged."""
    names = {name: value for name, value in given.items() if name != "LITELLM_MASTER_KEY"}
    found = findings(file.read_text(encoding="utf-8"), names)
    return [f"{one.where or file}: {one.message}" for one in found if one.fault]


@click.group()
def command() -> None:
    """Check litellm-config.yaml."""


@command.command("check")
@click.argument("file", type=click.Path(path_type=Path), default=Path("litellm-config.yaml"))
@click.option("--json", "as_json", is_flag=True, help="One JSON list.")
def check_command(file: Path, *, as_json: bool) -> None:
    """Name what LiteLLM would ignore or refuse in FILE."""
    try:
        found = findings(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        raise click.ClickException(f"{file}: cannot be read: {problem}") from problem
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found]))
    else:
        for one in found:
            click.echo(f"{'fault' if one.fault else 'note '}  {one.where or file}: {one.message}")
        faults = sum(one.fault for one in found)
        click.echo(f"{file}: {faults} faults, {len(found) - faults} notes")
    if any(one.fault for one in found):
        raise SystemExit(1)
