"""`llm-proxy config check`: the sidecar's configuration, read with more care than LiteLLM reads it.

Invariants: no LiteLLM, no network; exit 1 when a fault was found, 0 with notes alone.
"""

import json
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from llm_proxy.cli import context
from llm_proxy.cli.printing import EXIT_WRONG_INPUT, CommandFailed
from llm_proxy.json_access import as_list, as_object
from llm_proxy.sidecar.config_check import LEFT_OUT_PREFIX, ConfigFinding
from llm_proxy.sidecar.config_check import check_config as check_litellm_config
from llm_proxy.sidecar.environment import build_environment
from llm_proxy.stack.operator_env import read_operator_env
from llm_proxy.stack.plan import LOCAL_MODEL_VARIABLES


class DuplicateKey(yaml.YAMLError):
    """A key that stands twice in one mapping; YAML keeps the last and says nothing."""


class StrictLoader(yaml.SafeLoader):
    """A loader that refuses repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 -- PyYAML's signature
        """The mapping; raises `DuplicateKey` with the line of the second."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise DuplicateKey(f"line {key.start_mark.line + 1}: {key.value} stands twice in one mapping")
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def find_faults(
    text: str, given: Mapping[str, str] = os.environ, folder: Path | None = None
) -> list[ConfigFinding]:
    """Everything found in a configuration's text, with these names given; `folder` holds what it includes."""
    texts = [text]
    try:
        raw = _merge_includes(_read(text), folder, texts)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as problem:
        return [ConfigFinding("", " ".join(str(problem).split()))]
    own_key = {"LITELLM_MASTER_KEY": given.get("LITELLM_MASTER_KEY", "")}
    return check_litellm_config(raw, build_environment(given, "\n".join(texts)) | own_key)


def _read(text: str) -> object:
    found: object = yaml.load(text, StrictLoader)  # noqa: S506 -- it is a safe loader
    return found


def _merge_includes(raw: object, folder: Path | None, texts: list[str]) -> object:
    """With the files it includes, merged as LiteLLM does: lists grow, all else is replaced."""
    waiting = [str(one) for one in as_list(as_object(raw).get("include"))]
    if folder is None or not waiting:
        return raw
    merged, seen = as_object(raw).copy(), set[Path]()
    while waiting:
        file = folder / waiting.pop(0)
        if file in seen:
            continue
        seen.add(file)
        texts.append(file.read_text(encoding="utf-8"))
        included = as_object(_read(texts[-1])).copy()
        waiting += [str(one) for one in as_list(included.pop("include", None))]
        for key, value in included.items():
            more, before = as_list(value), as_list(merged.get(key))
            merged[key] = [*before, *more] if before and more else value
    return merged


def config_faults(file: Path, given: Mapping[str, str]) -> list[str]:
    """What keeps a configuration from being served, a line each; the master key is not judged."""
    names = {name: value for name, value in given.items() if name != "LITELLM_MASTER_KEY"}
    found = find_faults(file.read_text(encoding="utf-8"), names, file.parent)
    return [f"{one.path or file}: {one.message}" for one in found if one.is_fault]


def format_findings(found: Iterable[ConfigFinding], file: Path) -> Iterator[str]:
    """What a person reads: deployments left out for the same reason share a line."""
    left_out: dict[str, list[str]] = {}
    for one in found:
        if not one.is_fault and one.message.startswith(LEFT_OUT_PREFIX):
            left_out.setdefault(one.message, []).append(one.path.removeprefix("model_list."))
        else:
            yield f"{'fault' if one.is_fault else 'note '}  {one.path or file}: {one.message}"
    for message, names in left_out.items():
        ours = (
            "" if not any(name in message for name in LOCAL_MODEL_VARIABLES) else " (`llm-proxy up` sets it)"
        )
        yield f"note   {message}{ours}: {', '.join(dict.fromkeys(names))}"


@click.group()
def config() -> None:
    """Check litellm-config.yaml."""


@config.command("check")
@click.argument("file", type=click.Path(path_type=Path), default=Path("litellm-config.yaml"))
@click.option("--json", "as_json", is_flag=True, help="One JSON list.")
@click.option("--faults", "faults_alone", is_flag=True, help="Leave out notes: what is not set, …")
def check_config(file: Path, *, as_json: bool, faults_alone: bool) -> None:
    """Name what LiteLLM would ignore or refuse in FILE.

    Keys are looked for in the environment, .env and .keys/; of a stack running in this folder its models too.
    """
    try:
        given = {**context.stack_addresses(), **read_operator_env(os.environ, Path.cwd()).variables}
    except UnicodeDecodeError as problem:
        raise CommandFailed("a file of .env or .keys/: it is no UTF-8", EXIT_WRONG_INPUT) from problem
    try:
        found = find_faults(file.read_text(encoding="utf-8"), given, file.parent)
    except (OSError, UnicodeDecodeError) as problem:
        raise CommandFailed(f"{file}: cannot be read: {problem}", EXIT_WRONG_INPUT) from problem
    found = [one for one in found if one.is_fault or not faults_alone]
    if as_json:
        fields = [{"where": one.path, "message": one.message, "fault": one.is_fault} for one in found]
        click.echo(json.dumps(fields))
    else:
        for line in format_findings(found, file):
            click.echo(line)
        faults = sum(one.is_fault for one in found)
        click.echo(f"{file}: {faults} faults, {len(found) - faults} notes")
    if any(one.is_fault for one in found):
        raise SystemExit(1)
