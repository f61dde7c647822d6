"""Checks of one value of a Messages body, in the words of Anthropic's own errors.

Invariants: raises BadRequest only, its message opens with the path (`messages.0.content.1.source.type: ...`);
null is absent where a field is optional; `true` is never a number.
"""

from collections.abc import Callable, Mapping
from typing import Any

from llm_proxy.dialects.request.validators import shown_name
from llm_proxy.errors import BadRequest
from llm_proxy.json_access import Json, is_array, is_object

Check = Callable[[Any, str], None]


def invalid(path: str, reason: str, code: str = "invalid_value") -> BadRequest:
    """The error of a field."""
    return BadRequest(f"{path}: {reason}", param=path, code=code)


def missing(path: str) -> BadRequest:
    """The error of a body without a required field."""
    return invalid(path, "Field required", "missing_required_parameter")


def unknown(path: str) -> BadRequest:
    """The error of a field that does not exist."""
    return invalid(path, "Extra inputs are not permitted", "unknown_parameter")


def inner(path: str, name: str | int) -> str:
    """The path of a field or item of a value."""
    shown = name if isinstance(name, int) else shown_name(name)
    return f"{path}.{shown}" if path else str(shown)


def anything(_value: Any, _path: str) -> None:  # noqa: ANN401 -- unchecked JSON
    """Accepts anything."""


def text(value: Any, path: str) -> None:  # noqa: ANN401 -- unchecked JSON
    """Accepts a string."""
    if type(value) is not str:
        raise invalid(path, "Input should be a valid string", "invalid_type")


def filled(value: Any, path: str) -> None:  # noqa: ANN401 -- unchecked JSON
    """Accepts a string that is not empty."""
    text(value, path)
    if not value:
        raise invalid(path, "String should have at least 1 character", "empty_string")


def boolean(value: Any, path: str) -> None:  # noqa: ANN401 -- unchecked JSON
    """Accepts true or false."""
    if type(value) is not bool:
        raise invalid(path, "Input should be a valid boolean", "invalid_type")


def whole(minimum: int) -> Check:
    """Returns the check of a whole number from a minimum."""

    def check(value: Any, path: str) -> None:  # noqa: ANN401 -- unchecked JSON
        if type(value) is not int:
            raise invalid(path, "Input should be a valid integer", "invalid_type")
        _in_range(value, path, minimum, None)

    return check


def number(minimum: float, maximum: float) -> Check:
    """Returns the check of a number within bounds."""

    def check(value: Any, path: str) -> None:  # noqa: ANN401 -- unchecked JSON
        if type(value) not in {int, float}:
            raise invalid(path, "Input should be a valid number", "invalid_type")
        _in_range(value, path, minimum, maximum)

    return check


def _in_range(value: float, path: str, minimum: float, maximum: float | None) -> None:
    if value < minimum:
        reason = f"Input should be greater than or equal to {minimum}"
        raise invalid(path, reason, "integer_below_min_value")
    if maximum is not None and value > maximum:
        reason = f"Input should be less than or equal to {maximum}"
        raise invalid(path, reason, "integer_above_max_value")


def one_of(*words: str) -> Check:
    """Returns the check of one word of a closed set."""
    *first, last = (f"'{word}'" for word in words)
    listed = f"{', '.join(first)} or {last}" if first else last
    allowed = frozenset(words)

    def check(value: Any, path: str) -> None:  # noqa: ANN401 -- unchecked JSON
        if type(value) is not str or value not in allowed:
            raise invalid(path, f"Input should be {listed}")

    return check


def mapping(value: Any, path: str) -> None:  # noqa: ANN401 -- unchecked JSON
    """Accepts an object."""
    if not is_object(value):
        raise invalid(path, "Input should be a valid dictionary", "invalid_type")


def list_of(check_item: Check, max_length: int | None = None) -> Check:
    """Returns the check of an array and its items."""

    def check(value: Any, path: str) -> None:  # noqa: ANN401 -- unchecked JSON
        if not is_array(value):
            raise invalid(path, "Input should be a valid list", "invalid_type")
        if max_length is not None and len(value) > max_length:
            reason = f"List should have at most {max_length} items after validation, not {len(value)}"
            raise invalid(path, reason, "array_above_max_length")
        for at, item in enumerate(value):
            check_item(item, inner(path, at))

    return check


def text_or(check_other: Check) -> Check:
    """Returns the check of a string, or of what else stands there."""

    def check(value: Any, path: str) -> None:  # noqa: ANN401 -- unchecked JSON
        if type(value) is not str:
            check_other(value, path)

    return check


class Shape:
    """The check of an object: its fields, each with a check; a field it does not know is refused."""

    __slots__ = ("_fields", "_is_open", "_required")

    def __init__(
        self, required: Mapping[str, Check], optional: Mapping[str, Check], *, is_open: bool = False
    ) -> None:
        self._required = required
        self._fields = {**required, **optional}
        self._is_open = is_open

    def __call__(self, value: Any, path: str) -> None:  # noqa: ANN401 -- unchecked JSON
        """Raises `BadRequest` naming the field at fault."""
        mapping(value, path)
        for name in self._required:
            if value.get(name) is None:
                raise missing(inner(path, name))
        for name, item in value.items():
            check = self._fields.get(name)
            if check is not None:
                if item is not None:
                    check(item, inner(path, name))
            elif item is not None and not self._is_open:
                raise unknown(inner(path, name))


class Tagged:
    """The check of an object whose `type` says which shape it has.

    Attributes:
        shapes: The shape of each type.
    """

    __slots__ = ("_default", "_is_open", "shapes")

    def __init__(
        self, shapes: Mapping[str, Check], *, default: str | None = None, is_open: bool = False
    ) -> None:
        self.shapes = shapes
        self._default = default
        self._is_open = is_open

    def __call__(self, value: Any, path: str) -> None:  # noqa: ANN401 -- unchecked JSON
        """Raises `BadRequest` for an unknown type, unless types may be unknown, and as the shape does."""
        mapping(value, path)
        kind = value.get("type")
        if kind is None:
            kind = self._default
        if kind is None:
            raise missing(inner(path, "type"))
        text(kind, inner(path, "type"))
        shape = self.shapes.get(kind)
        if shape is not None:
            shape(value, path)
        elif not self._is_open:
            listed = ", ".join(f"'{one}'" for one in self.shapes)
            reason = f"Input tag '{shown_name(kind)}' does not match any of the expected tags: {listed}"
            raise invalid(inner(path, "type"), reason)


def without_nulls(fields: Json) -> Json:
    """Returns the fields that are given."""
    return {name: value for name, value in fields.items() if value is not None}
