"""Prints `docs/python_client_reference.md`, made from docstrings; run it with its output there."""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from types import ModuleType
from typing import Any, get_type_hints, is_typeddict

import llm_proxy_service
from llm_proxy_service import catalog, client, errors, request, response, sync

HEAD = """\
# The Python client: reference

Every name of `llm_proxy_service` (generated from its docstrings). The two modes, and what has
changed since the older library: [python_client.md](python_client.md).
"""
SECTION = re.compile(r"^(Args|Attributes|Raises|Returns):\n((?:(?:    .*)?\n)+)", re.MULTILINE)
ITEM = re.compile(r"^    (\w[\w.]*): ((?:.*)(?:\n        .*)*)", re.MULTILINE)


def main() -> Iterator[str]:
    """Each part of the page."""
    yield HEAD
    yield from described(client.LLMProxyService)
    yield from methods(client.LLMProxyService)
    yield from described(sync.SyncLLMProxyService)
    for make in (request.create_chat_request, request.create_completion_request):
        yield from called(make.__name__, make)
    for module in (request, response, catalog):
        yield from (part for found in exported(module) for part in described(found))
    yield "\n## Errors\n\n" + "\n".join(tree(errors.LLMProxyError)) + "\n"
    yield from attributes(inspect.getdoc(errors.LLMProxyError) or "", "Attributes")


def exported(module: ModuleType) -> list[type]:
    """The public classes that a module defines, in its order."""
    found = [
        one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == module.__name__
    ]
    return [one for one in found if one.__name__ in llm_proxy_service.__all__]


def described(found: type) -> Iterator[str]:
    """A class: what it is, then its fields or members."""
    text = inspect.getdoc(found) or ""
    yield f"\n## {found.__name__}\n\n{prose(text)}\n"
    if issubclass(found, Enum):
        yield f"\n{', '.join(f'`{one.name}`' for one in found)}\n"
    elif is_typeddict(found):
        hints = get_type_hints(found)
        yield "\n" + ", ".join(f"`{name}`: {shown(kind)}" for name, kind in hints.items()) + "\n"
    elif is_dataclass(found) and not issubclass(found, llm_proxy_service.ProviderConfig):
        yield from dataclass_table(found, dict(items(text, "Attributes")))
    else:
        for section in ("Args", "Raises"):
            yield from attributes(text, section)


def dataclass_table(found: type, meanings: dict[str, str]) -> Iterator[str]:
    """The fields of a dataclass, a row each."""
    yield "\n| field | type | default | meaning |\n|---|---|---|---|\n"
    for field in fields(found):
        meaning = meanings.get(field.name, "")
        yield f"| `{field.name}` | {shown(field.type)} | {default(field)} | {meaning} |\n"


def default(field: "Field[Any]") -> str:
    """A field's default; empty where one is made anew, or there is none."""
    return "" if field.default is MISSING else f"`{field.default!r}`"


def methods(found: type) -> Iterator[str]:
    """The public methods of a class, a heading each."""
    for name, method in vars(found).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            kind = "async for chunk in " if inspect.isasyncgenfunction(method) else ""
            kind = "await " if inspect.iscoroutinefunction(method) else kind
            yield from called(f"{kind}service.{name}", method)


def called(name: str, found: Callable[..., object]) -> Iterator[str]:
    """What is called: how, what it does, what it raises."""
    signature = inspect.signature(found)
    stated = [one for one in signature.parameters.values() if one.name != "self"]
    arguments = signature.replace(parameters=stated, return_annotation=inspect.Signature.empty)
    text = inspect.getdoc(found) or ""
    yield f"\n### {found.__name__}\n\n`{name}{plain(str(arguments))}`\n\n{prose(text)}\n"
    yield from attributes(text, "Raises")


def attributes(text: str, section: str) -> Iterator[str]:
    """A section of a docstring as a list."""
    if found := items(text, section):
        word = "raises " if section == "Raises" else ""
        yield "\n" + "".join(f"* {word}`{name}`: {meaning}\n" for name, meaning in found)


def items(text: str, section: str) -> list[tuple[str, str]]:
    """The names of a section, and the meaning of each."""
    bodies = [body for name, body in SECTION.findall(text + "\n") if name == section]
    return [(name, " ".join(meaning.split())) for body in bodies for name, meaning in ITEM.findall(body)]


def prose(text: str) -> str:
    """What stands before the sections."""
    return SECTION.sub("", text + "\n").strip()


def tree(found: type[Exception], depth: int = 0) -> Iterator[str]:
    """An error and those below it."""
    yield f"{'  ' * depth}* `{found.__name__}`: {(inspect.getdoc(found) or '').splitlines()[0]}"
    for below in found.__subclasses__():
        yield from tree(below, depth + 1)


def shown(kind: object) -> str:
    """A type, as it is written."""
    return f"`{plain(kind if isinstance(kind, str) else inspect.formatannotation(kind))}`".replace("|", "\\|")


def plain(text: str) -> str:
    """Names without their modules."""
    return re.sub(r"~|\b(?:[a-z_]+\.)+(?=[A-Z])", "", text)


print("".join(main()), end="")
