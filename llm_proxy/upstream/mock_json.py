"""JSON that fits a JSON schema, for mock mode: the least value it allows, as far as it is simple.

Invariants: deterministic and small; a schema that cannot be followed gives an empty object, never an error.
Source: https://json-schema.org/draft/2020-12
"""

from typing import Any

from llm_proxy.dialects.checks import is_array, is_object

MAX_DEPTH = 8
MAX_LENGTH = 100
"""Longest string and array, whatever the schema demands."""

Json = dict[str, Any]
_STEPS = ("anyOf", "oneOf", "allOf")


def example(schema: Any, root: Any = None, depth: int = 0) -> Any:  # noqa: ANN401 -- JSON Schema in, JSON out
    """A value for a schema; references are looked up in `root`, by default the schema itself."""
    if not is_object(schema) or depth > MAX_DEPTH:
        return {}
    root = schema if root is None else root
    for fixed in ("const", "default"):
        if fixed in schema:
            return schema[fixed]
    several: Any = next((schema[step] for step in _STEPS if schema.get(step)), None)
    if type(schema.get("$ref")) is str:
        several = [_referenced(schema["$ref"], root)]
    if is_array(several):
        return example(several[0], root, depth + 1)
    words = schema.get("enum")
    return words[0] if is_array(words) and words else _of_type(schema, root, depth)


def _of_type(schema: Json, root: Any, depth: int) -> Any:  # noqa: ANN401 -- JSON Schema in, JSON out
    kind: Any = schema.get("type")
    kind = kind[0] if is_array(kind) and kind else kind
    simple = {"string": "mock".ljust(_count(schema, "minLength"), "k"), "boolean": True, "null": None}
    if type(kind) is str and kind in simple:
        return simple[kind]
    if kind in ("integer", "number"):
        least = schema.get("minimum")
        return least if type(least) in {int, float} else 0
    if kind == "array":
        return [example(schema.get("items"), root, depth + 1)] * max(_count(schema, "minItems"), 1)
    properties = schema.get("properties")
    if not is_object(properties):
        return {}
    return {name: example(inner, root, depth + 1) for name, inner in properties.items()}


def _count(schema: Json, name: str) -> int:
    value = schema.get(name)
    return min(max(value, 0), MAX_LENGTH) if type(value) is int else 0


def _referenced(reference: str, root: Any) -> Any:  # noqa: ANN401 -- JSON Schema in, JSON out
    found: Any = root
    for step in reference.removeprefix("#/").split("/"):
        found = found.get(step) if is_object(found) else None
    return found
