"""JSON and YAML of unknown shape, read without surprise: what is not there is empty."""

from collections.abc import Iterable
from typing import Any, cast

from llm_proxy.json_access import Json


def mapping(value: object) -> Json:
    """The value if it is an object, else an empty one."""
    return cast("Json", value) if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return list(cast("Iterable[Any]", value)) if isinstance(value, list) else []
