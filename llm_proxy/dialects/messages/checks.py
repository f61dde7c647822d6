"""Checks of one value of a Messages body, in the words of Anthropic's own errors.

Invariants: errors open with the path (`messages.0.content.1.source.type: ...`);
null is absent where a field is optional; `true` is never a number.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from llm_proxy.dialects.request.validators import shown_name
from llm_proxy.errors import BadRequest
from llm_proxy.json_access import is_array

Check = Callable[[Any], None]


class Misfit(Exception):  # noqa: N818 -- named for the value
    """A value that fails its check; the path is added on the way up, so that a good value costs none."""

    def __init__(self, reason: str, code: str = "invalid_value", *steps: str | int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
        self.steps = list(reversed(steps))

    def error(self) -> BadRequest:
        """The error that answers the request."""
        steps = [step if isinstance(step, int) else shown_name(step) for step in reversed(self.steps)]
        return invalid(".".join(map(str, steps)), self.reason, self.code)


def invalid(path: str, reason: str, code: str = "invalid_value") -> BadRequest:
    """The error of a field."""
    return BadRequest(f"{path}: {reason}", param=path, code=code)


def missing(path: str) -> BadRequest:
    """The error of a body without a required field."""
    return invalid(path, _MISSING, "missing_required_parameter")


def unknown(path: str) -> BadRequest:
    """The error of a field that does not exist."""
    return invalid(shown_name(path), _UNKNOWN, "unknown_parameter")


_MISSING, _UNKNOWN = "Field required", "Extra inputs are not permitted"


def check_field(check: Check, value: Any, name: str) -> None:  # noqa: ANN401 -- unchecked JSON
    """Checks a field of the body; raises `BadRequest` with the path of what is wrong."""
    try:
        check(value)
    except Misfit as misfit:
        misfit.steps.append(name)
        raise misfit.error() from None


def anything(_value: Any) -> None:  # noqa: ANN401 -- unchecked JSON
    """Accepts anything."""


def text(value: Any) -> None:  # noqa: ANN401 -- unchecked JSON
    """Accepts a string."""
    if type(value) is not str:
        raise Misfit("Input should be a valid string", "invalid_type")


def filled(value: Any) -> None:  # noqa: ANN401 -- unchecked JSON
    """Accepts a string that is not empty."""
    text(value)
    if not value:
        raise Misfit("String should have at least 1 character", "empty_string")


def boolean(value: Any) -> None:  # noqa: ANN401 -- unchecked JSON
    """Accepts true or false."""
    if type(value) is not bool:
        raise Misfit("Input should be a valid boolean", "invalid_type")


def whole(minimum: int) -> Check:
    """Returns the check of a whole number from a minimum."""

    def check(value: Any) -> None:  # noqa: ANN401 -- unchecked JSON
        if type(value) is not int and not (type(value) is float and value.is_integer()):
            raise Misfit("Input should be a valid integer", "invalid_type")
        _in_range(value, minimum, None)

    return check


def number(minimum: float, maximum: float) -> Check:
    """Returns the check of a number within bounds."""

    def check(value: Any) -> None:  # noqa: ANN401 -- unchecked JSON
        if type(value) not in {int, float}:
            raise Misfit("Input should be a valid number", "invalid_type")
        _in_range(value, minimum, maximum)

    return check


def _in_range(value: float, minimum: float, maximum: float | None) -> None:
    if value < minimum:
        raise Misfit(f"Input should be greater than or equal to {minimum}", "integer_below_min_value")
    if maximum is not None and value > maximum:
        raise Misfit(f"Input should be less than or equal to {maximum}", "integer_above_max_value")


def one_of(*words: str) -> Check:
    """Returns the check of one word of a closed set."""
    *first, last = (f"'{word}'" for word in words)
    listed = f"{', '.join(first)} or {last}" if first else last
    allowed = frozenset(words)

    def check(value: Any) -> None:  # noqa: ANN401 -- unchecked JSON
        if type(value) is not str or value not in allowed:
            raise Misfit(f"Input should be {listed}")

    return check


def mapping(value: Any) -> None:  # noqa: ANN401 -- unchecked JSON
    """Accepts an object."""
    if type(value) is not dict:
        raise Misfit("Input should be a valid dictionary", "invalid_type")


_TYPES: Final[Mapping[Check, type]] = {text: str, boolean: bool, mapping: dict}
"""Checks of a type alone: a value of it needs no call."""


class ListOf:
    """The check of an array and its items; `empty` is what is wrong with one without any."""

    __slots__ = ("_empty", "_item", "_max_length")

    def __init__(self, item: Check, max_length: int | None = None, *, empty: str | None = None) -> None:
        self._item = item
        self._max_length = max_length
        self._empty = empty

    def __call__(self, value: Any) -> None:  # noqa: ANN401 -- unchecked JSON
        """Raises `Misfit` for the item at fault."""
        if not is_array(value):
            raise Misfit("Input should be a valid list", "invalid_type")
        if self._empty is not None and not value:
            raise Misfit(self._empty, "empty_array")
        if self._max_length is not None and len(value) > self._max_length:
            reason = f"List should have at most {self._max_length} items after validation, not {len(value)}"
            raise Misfit(reason, "array_above_max_length")
        for at, item in enumerate(value):
            try:
                self._item(item)
            except Misfit as misfit:
                misfit.steps.append(at)
                raise

    def opened(self) -> "ListOf":
        """The same check, of items with any further fields."""
        return ListOf(opened(self._item), self._max_length, empty=self._empty)


class TextOr:
    """The check of a string, or of what else stands there."""

    __slots__ = ("_other",)

    def __init__(self, other: Check) -> None:
        self._other = other

    def __call__(self, value: Any) -> None:  # noqa: ANN401 -- unchecked JSON
        """Raises `Misfit` as the other check does."""
        if type(value) is not str:
            self._other(value)

    def opened(self) -> "TextOr":
        """The same check, of values with any further fields."""
        return TextOr(opened(self._other))


class Shape:
    """The check of an object: its fields, each with a check; a field it does not know is rejected."""

    __slots__ = ("_fields", "_is_open", "_required", "_types")

    def __init__(
        self, required: Mapping[str, Check], optional: Mapping[str, Check], *, is_open: bool = False
    ) -> None:
        self._required = tuple(required)
        self._fields = {**required, **optional}
        self._types = {name: _TYPES[check] for name, check in self._fields.items() if check in _TYPES}
        self._is_open = is_open

    def __call__(self, value: Any) -> None:  # noqa: ANN401 -- unchecked JSON
        """Raises `Misfit` for the field at fault."""
        if value.__class__ is not dict:
            mapping(value)
        for name in self._required:
            if value.get(name) is None:
                raise Misfit(_MISSING, "missing_required_parameter", name)
        types = self._types
        for name, item in value.items():
            if item is None or item.__class__ is types.get(name):
                continue
            check = self._fields.get(name)
            if check is not None:
                try:
                    check(item)
                except Misfit as misfit:
                    misfit.steps.append(name)
                    raise
            elif not self._is_open:
                raise Misfit(_UNKNOWN, "unknown_parameter", name)

    def opened(self) -> "Shape":
        """The same check, with any further fields."""
        fields = {name: opened(check) for name, check in self._fields.items()}
        return Shape({name: fields[name] for name in self._required}, fields, is_open=True)


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

    def __call__(self, value: Any) -> None:  # noqa: ANN401 -- unchecked JSON
        """Raises `Misfit` for an unknown type, unless types may be unknown, and as the shape does."""
        mapping(value)
        kind = value.get("type") or self._default
        if kind is None:
            raise Misfit(_MISSING, "missing_required_parameter", "type")
        if type(kind) is not str:
            raise Misfit("Input should be a valid string", "invalid_type", "type")
        shape = self.shapes.get(kind)
        if shape is not None:
            shape(value)
        elif not self._is_open:
            listed = ", ".join(f"'{one}'" for one in self.shapes)
            reason = f"Input tag '{shown_name(kind)}' does not match any of the expected tags: {listed}"
            raise Misfit(reason, "invalid_value", "type")

    def opened(self) -> "Tagged":
        """The same check, of shapes with any further fields."""
        shapes = {kind: opened(shape) for kind, shape in self.shapes.items()}
        return Tagged(shapes, default=self._default, is_open=self._is_open)


def opened(check: Check) -> Check:
    """Returns the same check, of objects that may have fields it does not know, at any depth."""
    return check.opened() if isinstance(check, ListOf | TextOr | Shape | Tagged) else check
