"""The documentation's pages as the tests read them: fences with their marks, links, anchors.

A mark is an HTML comment on the line before a fence, `<!-- kind: value -->`. `KINDS` lists the kinds;
CONTRIBUTING.md explains them to writers.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BESIDE = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "clients/python/README.md",
    "deploy/helm/llm-proxy/README.md",
)
"""Pages that GitHub shows and the site does not."""
KINDS = ("run", "output", "file", "same as", "tested", "not run")
PARSED = ("json", "yaml", "toml", "ini")
"""Languages whose fences need no mark: `test_snippets` parses them."""
PLAIN = ("text",)
"""Pictures, outputs and event streams: no commands."""
_FENCE = re.compile(
    r"(?ms)^(?P<indent> *)(?:<!-- (?P<mark>[^\n]*?) -->\n(?P=indent))?"
    r"```(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$"
)
_NOT_IN_ANCHORS = re.compile(r"[^\w\- ]")


@dataclass(frozen=True, slots=True)
class Fence:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    kind: str | None
    """A word of `KINDS`, or None without a mark."""
    value: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@cache
def pages() -> tuple[str, ...]:
    """Returns every page, as a path below the project's folder."""
    inside = (path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md"))
    return (*(page for page in BESIDE if (ROOT / page).exists()), *sorted(inside))


@cache
def text_of(page: str) -> str:
    """Returns a page's text."""
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def fences(page: str) -> tuple[Fence, ...]:
    """Returns the fenced blocks of a page, in order."""
    return tuple(_fences(page))


def _fences(page: str) -> Iterator[Fence]:
    text = text_of(page)
    for found in _FENCE.finditer(text):
        kind, _, value = (found["mark"] or "").partition(":")
        lines = found["text"].splitlines()
        indent = len(found["indent"])
        yield Fence(
            page,
            text.count("\n", 0, found.start("language")) + 1,
            found["language"].strip(),
            "".join(f"{line[indent:]}\n" for line in lines),
            kind.strip() or None,
            value.strip(),
        )


@cache
def tokens(page: str) -> tuple[Token, ...]:
    """Returns a page as GitHub's renderer reads it."""
    return tuple(MarkdownIt("commonmark").enable("table").parse(text_of(page)))


def links(page: str) -> Iterator[tuple[int, str]]:
    """Yields line and target of each link and picture of a page."""
    for block in tokens(page):
        for part in block.children or []:
            target = part.attrs.get("href") or part.attrs.get("src")
            if isinstance(target, str):
                yield (block.map or [0])[0] + 1, target


@cache
def anchors(page: str) -> frozenset[str]:
    """Returns the anchors of a page's headings, as GitHub and the site make them."""
    found: dict[str, int] = {}
    names: list[str] = []
    for opening, inline in pairwise(tokens(page)):
        if opening.type != "heading_open":
            continue
        shown = "".join(
            part.content for part in inline.children or [] if part.type in {"text", "code_inline"}
        )
        name = _NOT_IN_ANCHORS.sub("", shown.strip().lower()).replace(" ", "-")
        times = found.get(name, 0)
        found[name] = times + 1
        names.append(f"{name}_{times}" if times else name)  # the site's; GitHub's second has `-1`
    return frozenset(names)


@cache
def site() -> dict[str, Any]:
    """Returns the site's configuration."""
    read: dict[str, Any] = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    return read


def navigation() -> Iterator[str]:
    """Yields the pages of the site's navigation, in order, as paths below `docs/`."""
    waiting: list[Any] = [site()["nav"]]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, str):
            yield entry
        else:
            inside: list[Any] = [*(entry.values() if hasattr(entry, "values") else entry)]
            waiting.extend(reversed(inside))
