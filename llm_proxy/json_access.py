"""Reads JSON and YAML of unknown shape safely.

Pure. Invariant: a value that is not of the requested type is empty, never an exception.
"""

import json
from typing import TYPE_CHECKING, Any, TypeGuard, cast

if TYPE_CHECKING:
    from collections.abc import Iterable


Json = dict[str, Any]
CONTAINERS = frozenset[type]({dict, list})
"""The types of objects and arrays; to look a type up costs less than a call."""


def is_object(value: object) -> TypeGuard[Json]:
    """Whether a JSON value is an object."""
    return type(value) is dict


def is_array(value: object) -> TypeGuard[list[Any]]:
    """Whether a JSON value is an array."""
    return type(value) is list


def as_object(value: object) -> Json:
    """Returns the value if it is an object, else an empty one."""
    found: Json = value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType] -- a cast costs a call
    return found


def read_object(text: str | bytes, *, strict: bool = True) -> Json:
    """Returns the object that a JSON text holds; an empty one for any other value, and for what is no JSON.

    Args:
        text: The text.
        strict: Control characters in strings are no JSON.
    """
    try:
        return as_object(json.loads(text) if strict else json.loads(text, strict=False))
    except (ValueError, RecursionError):
        return {}


def as_objects(value: object) -> list[Json]:
    """Returns the objects of an array, in order; nothing when it is no array."""
    if not isinstance(value, list):
        return []
    return [cast("Json", one) for one in cast("list[object]", value) if isinstance(one, dict)]


def as_list(value: object) -> list[Any]:
    """Returns the value if it is a list, else an empty one."""
    return list(cast("Iterable[Any]", value)) if isinstance(value, list) else []
