"""JSON that fits a JSON schema, for mock mode: the least value it allows, as far as it is simple.

Invariants: deterministic and small; a schema that cannot be followed gives an empty object, never an error.
Source: https://json-schema.org/draft/2020-12
"""

from typing import Any

from llm_proxy.json_access import Json, is_array, is_object

MAX_DEPTH = 8
MAX_VALUES = 2_000
MAX_LENGTH = 100
"""Longest string and array, whatever the schema demands."""

_STEPS = ("anyOf", "oneOf", "allOf")


def example(schema: Any) -> Any:  # noqa: ANN401 -- JSON Schema in, JSON out
    """A value for a schema."""
    return _Filling(schema).value(schema, 0)


class _Filling:
    """One value in the making; counts what it holds, for a schema may refer to itself."""

    def __init__(self, root: Any) -> None:  # noqa: ANN401 -- unchecked JSON
        self._root = root
        self._left = MAX_VALUES

    def value(self, schema: Any, depth: int) -> Any:  # noqa: ANN401 -- JSON Schema in, JSON out
        self._left -= 1
        if not is_object(schema) or depth > MAX_DEPTH or self._left < 0:
            return {}
        for fixed in ("const", "default"):
            if fixed in schema:
                return schema[fixed]
        several: Any = next((schema[step] for step in _STEPS if schema.get(step)), None)
        if type(schema.get("$ref")) is str:
            several = [self._referenced(schema["$ref"])]
        if is_array(several):
            return self.value(several[0], depth + 1)
        words = schema.get("enum")
        return words[0] if is_array(words) and words else self._of_type(schema, depth)

    def _of_type(self, schema: Json, depth: int) -> Any:  # noqa: ANN401 -- JSON Schema in, JSON out
        kind: Any = schema.get("type")
        kind = kind[0] if is_array(kind) and kind else kind
        simple = {"string": "mock".ljust(_count(schema, "minLength"), "k"), "boolean": True, "null": None}
        if type(kind) is str and kind in simple:
            return simple[kind]
        if kind in ("integer", "number"):
            least = schema.get("minimum")
            return least if type(least) in {int, float} else 0
        if kind == "array":
            items = max(_count(schema, "minItems"), 1)
            return [self.value(schema.get("items"), depth + 1) for _ in range(items)]
        properties = schema.get("properties")
        if not is_object(properties):
            return {}
        return {name: self.value(inner, depth + 1) for name, inner in properties.items()}

    def _referenced(self, reference: str) -> Any:  # noqa: ANN401 -- JSON Schema in, JSON out
        found: Any = self._root
        for step in reference.removeprefix("#/").split("/"):
            found = found.get(step) if is_object(found) else None
        return found


def _count(schema: Json, name: str) -> int:
    value = schema.get(name)
    return min(max(value, 0), MAX_LENGTH) if type(value) is int else 0
