"""JSON of others, read safely: a part of another type than expected counts as not there."""

from collections.abc import Mapping
from typing import Any, cast

Json = Mapping[str, Any]
NOTHING: Json = {}


def as_object(value: object) -> Json:
    """The value where it is an object, else an empty one."""
    return cast("Json", value) if isinstance(value, dict) else NOTHING


def as_objects(value: object) -> list[Json]:
    """The objects of a list."""
    listed = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("Json", one) for one in listed if isinstance(one, dict)]


def as_text(value: object) -> str | None:
    """The value where it is a text that is not empty."""
    return value if isinstance(value, str) and value else None


def as_count(value: object) -> int:
    """The value where it is a whole number, else 0."""
    return value if isinstance(value, int) else 0


def as_amount(value: object) -> float:
    """The value where it is a number, else 0."""
    return float(value) if isinstance(value, (int, float)) else 0.0


def as_numbers(value: object) -> list[float]:
    """The numbers of a list; none where one of them is something else."""
    listed = cast("list[object]", value) if isinstance(value, list) else []
    numbers = [float(one) for one in listed if isinstance(one, (int, float))]
    return numbers if len(numbers) == len(listed) else []
