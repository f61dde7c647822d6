"""Readers of protobuf messages in JSON, as Google's API takes them: value and path in, the value read out.

Invariants: names come as `camelCase` or `snake_case` and leave as `camelCase`, never both in one message;
enums, bytes and numbers come in each form that protobuf's JSON has and leave in one; one object counts as an
array of it; a name that a message does not have is rejected.
Source: https://protobuf.dev/programming-guides/json/; Google's own examples for the single objects.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from llm_proxy.dialects.request.validators import MAX_INTEGER, Validator, shown_name
from llm_proxy.errors import BadRequest
from llm_proxy.json_access import Json, is_array, is_object

_INTEGER = re.compile(r"-?[0-9]{1,15}")
_DECIMAL = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?(?:[eE][+-]?[0-9]{1,2})?")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_TO_STANDARD = str.maketrans("-_", "+/")


def invalid(path: str, reason: str, code: str = "invalid_value") -> BadRequest:
    """The error of a field, in Google's words."""
    return BadRequest(f"Invalid value at '{path}': {reason}", param=path, code=code)


def unknown(name: str, path: str) -> BadRequest:
    """The error of a name that a message does not have."""
    where = f" at '{path}'" if path else ""
    message = f'Invalid JSON payload received. Unknown name "{shown_name(name)}"{where}: Cannot find field.'
    return BadRequest(message, param=joined(path, shown_name(name)), code="unknown_parameter")


def missing(path: str) -> BadRequest:
    """The error of a message without a field that it needs."""
    return BadRequest(f"* {path}: must be given.", param=path, code="missing_required_parameter")


def joined(path: str, name: str) -> str:
    """The path of a message's field."""
    return f"{path}.{name}" if path else name


@lru_cache(maxsize=1024)
def camel_case(name: str) -> str:
    """Returns a field's name as JSON has it."""
    first, *others = name.strip("_").split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in others)


def text(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    """A string."""
    if type(value) is not str:
        raise invalid(path, "expected a string.", "invalid_type")
    return value


def filled(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    """A string that is not empty."""
    if not text(value, path):
        raise invalid(path, "must not be empty.", "empty_string")
    return value


def flag(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    """True or false."""
    if type(value) is not bool:
        raise invalid(path, "expected true or false.", "invalid_type")
    return value


def whole(least: int, most: int = 2**31 - 1) -> Validator:
    """A whole number within bounds, also as a string of digits."""

    def read(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        is_digits = isinstance(value, str) and _INTEGER.fullmatch(value)
        if is_digits or (type(value) is float and value.is_integer()):
            value = int(value)
        if type(value) is not int:
            raise invalid(path, "expected a whole number.", "invalid_type")
        return _bounded(value, path, least, most)

    return read


def number(least: float, most: float) -> Validator:
    """A number within bounds, also as a string of digits."""

    def read(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if isinstance(value, str) and _DECIMAL.fullmatch(value):
            value = float(value)
        if type(value) is float and value.is_integer() and abs(value) < MAX_INTEGER:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(path, "expected a number.", "invalid_type")
        return _bounded(value, path, least, most)

    return read


def _bounded(value: float, path: str, least: float, most: float) -> float:
    if value < least:
        raise invalid(path, f"must be at least {least}.", "integer_below_min_value")
    if value > most:
        raise invalid(path, f"must be at most {most}.", "integer_above_max_value")
    return value


def word_of(*words: str) -> Validator:
    """One word of an enum, in any case; it leaves in capitals."""
    allowed = frozenset(words)

    def read(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        word = text(value, path).upper()
        if word not in allowed:
            raise invalid(path, f"expected one of {', '.join(words)}.")
        return word

    return read


def encoded(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    """Bytes in base64, of either alphabet, with or without padding; the standard one, padded, leaves."""
    digits = text(value, path)
    if "-" in digits or "_" in digits:
        digits = digits.translate(_TO_STANDARD)
    if _BASE64.fullmatch(digits) is None:
        raise invalid(path, "Base64 decoding failed.")
    return digits + "=" * (-len(digits) % 4)


def anything(value: Any, _path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    """Any value, as it is."""
    return value


def struct(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    """An object whose names are the caller's own, as it is."""
    if not is_object(value):
        raise invalid(path, "expected an object.", "invalid_type")
    return value


def list_of(item: Validator, least: int = 0, most: int | None = None) -> Validator:
    """An array, or one object that stands for it."""

    def read(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if is_object(value):
            value = [value]
        if not is_array(value):
            raise invalid(path, "expected an array.", "invalid_type")
        if len(value) < least:
            raise invalid(path, f"must have at least {least} items.", "empty_array")
        if most is not None and len(value) > most:
            raise invalid(path, f"must have at most {most} items.", "array_above_max_length")
        return [item(one, f"{path}[{at}]") for at, one in enumerate(value)]

    return read


class Message:
    """The reader of a message: its fields by name, each with a reader; null is a field that is not set."""

    __slots__ = ("_fields", "_required")

    def __init__(self, fields: Mapping[str, Validator], *required: str) -> None:
        self._fields = fields
        self._required = required

    def __call__(self, value: Any, path: str) -> Json:  # noqa: ANN401 -- JSON in, JSON out
        """Returns the message; raises `BadRequest` for the field at fault."""
        message = named(value, path)
        for name in self._required:
            if message.get(name) is None:
                raise missing(joined(path, name))
        read: Json = {}
        for name, one in message.items():
            reader = self._fields.get(name)
            if reader is None:
                raise unknown(next(sent for sent in value if camel_case(sent) == name), path)
            if one is not None:
                read[name] = reader(one, joined(path, name))
        return read


def named(value: Any, path: str) -> Json:  # noqa: ANN401 -- unchecked JSON
    """Returns a message with its names in `camelCase`; raises `BadRequest` for a field under two names."""
    if not is_object(value):
        raise invalid(path, "expected an object.", "invalid_type")
    found: Json = {}
    for given, one in value.items():
        name = camel_case(given)
        if name in found:
            raise invalid(joined(path, shown_name(name)), "given twice.", "duplicate_parameter")
        found[name] = one
    return found
