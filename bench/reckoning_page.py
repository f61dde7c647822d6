"""A reckoning in words: the page of the docs. Pure."""

from typing import Any

from bench.words import table

Json = dict[str, Any]


def page(found: Json) -> str:
    """`docs/reckoning.md`."""
    return str(found)
