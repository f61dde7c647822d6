"""Commands that documents show, checked against the programs that run them: `llm-proxy`, `make`."""

import re
from functools import cache
from pathlib import Path

import click

from llm_proxy.cli.commands import commands

ROOT = Path(__file__).parents[1]
OURS = re.compile(
    r"(?:(?:^|[;&|(])[ \t]*(?:\w+=\S*[ \t]+)*(?:[\w.-]+/)*llm-proxy|-m llm_proxy)(?=[ \t]|$)"
    r"(?P<words>[^|;&#)`'\n]*)",
    re.MULTILINE,
)
MAKE = re.compile(r"(?:^|[;&|] *)make ([a-z][a-z-]+)", re.MULTILINE)


def unknown_words(words: list[str]) -> set[str]:
    """Returns the command, or the options, that `llm-proxy` does not have; words in capitals are names."""
    command: click.Command = commands
    context = click.Context(command, info_name="llm-proxy")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return {words[0]}
        command, words = found, words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    names = {name for option in command.params for name in option.opts} | {"--help"}
    return {word.partition("=")[0] for word in words if word.startswith("--")} - names


def unknown_in(script: str) -> set[str]:
    """Returns commands and options of `llm-proxy`, and targets of `make`, that a shell text names in vain."""
    joined = script.replace("\\\n", " ")
    found = {word for match in OURS.finditer(joined) for word in unknown_words(match["words"].split())}
    return found | {f"make {name}" for name in MAKE.findall(joined) if name not in make_targets()}


@cache
def make_targets() -> frozenset[str]:
    """Returns the targets of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return frozenset(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
