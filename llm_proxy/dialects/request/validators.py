"""Validators of one JSON value: value and path in, the value to send out, or BadRequest with the path.

Invariants: raises BadRequest only; `true` is never a number; a number without a fraction leaves as an
integer, so that `1` and `1.0` are one cache entry.
"""

from collections.abc import Callable, Collection
from typing import Any

from llm_proxy.errors import BadRequest
from llm_proxy.json_access import is_array, is_object

Validator = Callable[[Any, str], Any]
MAX_INTEGER = 2**53
"""Beyond it a JSON number may already have lost digits on its way (RFC 8259, 6)."""


def missing(path: str) -> BadRequest:
    """The refusal of a body without a field it must have."""
    return BadRequest(f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter")


def wrong_type(path: str, expected: str, value: object) -> BadRequest:
    """The refusal of a value of another type."""
    return BadRequest(
        f"Invalid type for '{path}': expected {expected}, but got {_kind(value)} instead.",
        param=path,
        code="invalid_type",
    )


def wrong_value(path: str, value: object, supported: Collection[str]) -> BadRequest:
    """The refusal of a word outside a closed set."""
    listed = ", ".join(f"'{word}'" for word in sorted(supported))
    return BadRequest(
        f"Invalid value for '{path}': {_shown(value)}. Supported values are: {listed}.",
        param=path,
        code="invalid_value",
    )


def invalid(path: str, why: str, code: str = "invalid_value") -> BadRequest:
    """Any other refusal of a field."""
    return BadRequest(f"Invalid '{path}': {why}", param=path, code=code)


def string(max_length: int | None = None, min_length: int = 0) -> Validator:
    """A string of so many characters."""

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if type(value) is not str:
            raise wrong_type(path, "a string", value)
        if len(value) < min_length:
            raise invalid(path, "empty string. Expected a longer one.", "empty_string")
        if max_length is not None and len(value) > max_length:
            why = f"string too long. Expected at most {max_length} characters, but got {len(value)}."
            raise invalid(path, why, "string_above_max_length")
        return value

    return check


def boolean(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    """True or false."""
    if type(value) is not bool:
        raise wrong_type(path, "a boolean", value)
    return value


def integer(minimum: int = -MAX_INTEGER, maximum: int = MAX_INTEGER) -> Validator:
    """A whole number within bounds; `4.0` is one."""

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise wrong_type(path, "an integer", value)
        return _bounded(value, path, minimum, maximum, "integer")

    return check


def number(minimum: float, maximum: float) -> Validator:
    """A number within bounds."""

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if type(value) is float:
            value = int(value) if value.is_integer() else value
        elif type(value) is not int:
            raise wrong_type(path, "a number", value)
        return _bounded(value, path, minimum, maximum, "decimal")

    return check


def _bounded(value: float, path: str, least: float, most: float, kind: str) -> float:
    if value < least:
        why = f"{kind} below minimum value. Expected a value >= {least}, but got {value} instead."
        raise invalid(path, why, f"{kind}_below_min_value")
    if value > most:
        why = f"{kind} above maximum value. Expected a value <= {most}, but got {value} instead."
        raise invalid(path, why, f"{kind}_above_max_value")
    return value


def one_of(*words: str) -> Validator:
    """One word of a closed set."""
    allowed = frozenset(words)

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if type(value) is not str:
            raise wrong_type(path, "a string", value)
        if value not in allowed:
            raise wrong_value(path, value, allowed)
        return value

    return check


def object_with(**fields: Validator) -> Validator:
    """An object in which these fields, where present, pass; a check named `x_required` makes `x` required."""
    required = tuple(name.removesuffix("_required") for name in fields if name.endswith("_required"))
    known = {name.removesuffix("_required"): check for name, check in fields.items()}

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if not is_object(value):
            raise wrong_type(path, "an object", value)
        for name in required:
            if value.get(name) is None:
                raise missing(f"{path}.{name}")
        for name, inner in known.items():
            if value.get(name) is not None:
                inner(value[name], f"{path}.{name}")
        return value

    return check


def tagged(check: Validator, *kinds: str) -> Validator:
    """The same object, which must have the field its `type` names when that is one of these."""

    def checked(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        value = check(value, path)
        kind = value["type"]
        if kind in kinds and value.get(kind) is None:
            raise missing(f"{path}.{kind}")
        return value

    return checked


def array_of(inner: Validator, min_length: int = 0, max_length: int | None = None) -> Validator:
    """An array each item of which passes."""

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if not is_array(value):
            raise wrong_type(path, "an array", value)
        _sized(value, path, min_length, max_length)
        return [inner(item, f"{path}[{at}]") for at, item in enumerate(value)]

    return check


def _sized(value: list[Any], path: str, shortest: int, longest: int | None) -> None:
    if len(value) < shortest:
        why = f"empty array. Expected an array with minimum length {shortest}."
        raise invalid(path, why, "empty_array")
    if longest is not None and len(value) > longest:
        why = f"array too long. Expected an array with maximum length {longest}, but got {len(value)} items."
        raise invalid(path, why, "array_above_max_length")


def map_of(inner: Validator, max_entries: int | None = None, max_name_length: int | None = None) -> Validator:
    """An object with any names, each value of which passes."""

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if not is_object(value):
            raise wrong_type(path, "an object", value)
        if max_entries is not None and len(value) > max_entries:
            why = f"too many properties. Expected at most {max_entries}, but got {len(value)}."
            raise invalid(path, why, "object_above_max_properties")
        for name, item in value.items():
            if max_name_length is not None and len(name) > max_name_length:
                why = f"name too long. Expected at most {max_name_length} characters."
                raise invalid(path, why, "string_above_max_length")
            inner(item, f"{path}.{shown_name(name)}")
        return value

    return check


def either(expected: str, **by_type: Validator) -> Validator:
    """A value of one of several types, each with its check: `string=`, `array=`, `object=`."""
    types: dict[type, Validator] = {
        kind: by_type[name]
        for kind, name in ((str, "string"), (list, "array"), (dict, "object"))
        if name in by_type
    }

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        inner = next((found for kind, found in types.items() if type(value) is kind), None)
        if inner is None:
            raise wrong_type(path, expected, value)
        return inner(value, path)

    return check


_TEXTS = "a string, or an array of strings, of tokens or of arrays of tokens"


def texts_or_tokens(min_length: int = 0, max_length: int | None = None) -> Validator:
    """What is completed or embedded: a text, texts, tokens, or arrays of tokens; never mixed."""
    text = string(min_length=min_length)

    def tokens(value: Any, path: str) -> None:  # noqa: ANN401 -- JSON in, JSON out
        if set(map(type, value)) != {int} or min(value) < 0:
            raise wrong_type(path, "an array of tokens (integers from 0)", value)

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if type(value) is str:
            return text(value, path)
        if not is_array(value):
            raise wrong_type(path, _TEXTS, value)
        kinds: set[type] = set(map(type, value))
        if kinds == {int}:
            _sized(value, path, 1, None)
            tokens(value, path)
            return value
        _sized(value, path, 1, max_length)
        if kinds not in ({str}, {list}):
            raise wrong_type(path, _TEXTS, value)
        for at, item in enumerate(value):
            (text if type(item) is str else tokens)(item, f"{path}[{at}]")
        return value

    return check


def anything(value: Any, _path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    """Anything."""
    return value


def shown_name(name: str) -> str:
    """A field's name as a message may show it: printable and short."""
    if len(name) <= 64 and name.isprintable():
        return name
    printable = "".join(sign if sign.isprintable() else "?" for sign in name[:64])
    return printable + "..." if len(name) > 64 else printable


def _shown(value: object) -> str:
    return f"'{shown_name(value)}'" if type(value) is str else _kind(value)


_KINDS: dict[type, str] = {
    dict: "an object", list: "an array", str: "a string", bool: "a boolean",
    int: "an integer", float: "a decimal", type(None): "null",
}  # fmt: skip


def _kind(value: object) -> str:
    return _KINDS[type(value)]
