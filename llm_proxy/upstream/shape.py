"""JSON whose shape is somebody else's, read without trusting it.

Pure. Invariants: what is not of the asked shape is empty, never an exception.
"""

from typing import Any, cast

Json = dict[str, Any]


def as_object(value: object) -> Json:
    """The value if it is an object, else an empty one."""
    return cast("Json", value) if isinstance(value, dict) else {}


def as_objects(value: object) -> list[Json]:
    """The objects of a list, in order; nothing when it is no list."""
    found = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("Json", one) for one in found if isinstance(one, dict)]
