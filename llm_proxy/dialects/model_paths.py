"""Paths with a model's name in them: `/openai/deployments/{model}/chat/completions` and the like.

Invariants: the patterns are a fixed table of a beginning and an end, so that a name may hold `/` and `:`; a
name is percent-decoded once, after the caller is known, and looked up like any other.
"""

import re
from collections.abc import Iterable
from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

from llm_proxy.errors import BadRequest

MODEL = "{model}"
"""The place of a model's name in a pattern."""
_MALFORMED = re.compile(r"%(?![0-9A-Fa-f]{2})")

T = TypeVar("T")


class ModelPaths(Generic[T]):
    """What stands at patterns, by the path as it was sent."""

    __slots__ = ("_patterns", "_starts")

    def __init__(self, patterns: Iterable[tuple[str, T]]) -> None:
        """Takes patterns with one `{model}` each; of two that match, the one with the longer end counts."""
        split: list[tuple[bytes, bytes, T]] = []
        for pattern, found in patterns:
            start, _, end = pattern.encode().partition(MODEL.encode())
            split.append((start, end, found))
        self._patterns = sorted(split, key=lambda one: len(one[1]), reverse=True)
        self._starts = tuple({start for start, _, _ in split})

    def find(self, raw_path: bytes) -> "tuple[T, str] | None":
        """Returns what stands at a path, and the name in it, still encoded; None where no pattern matches."""
        if not raw_path.startswith(self._starts):
            return None
        for start, end, found in self._patterns:
            if raw_path.startswith(start) and raw_path.endswith(end):
                name = raw_path[len(start) : -len(end)]
                if name and not name.startswith(b"/"):
                    return found, name.decode("latin-1")
        return None


def decoded_model(name: str) -> str:
    """Returns a path's name of a model, decoded; raises `BadRequest` for one that is not well encoded."""
    try:
        if _MALFORMED.search(name) is None:
            return unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        pass
    raise BadRequest(
        "The model's name in the path is not percent-encoded UTF-8.", param="model", code="invalid_value"
    )
