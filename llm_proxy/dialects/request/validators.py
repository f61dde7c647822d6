"""Validators of one JSON value: value and path in, the value to send out, or BadRequest with the path.

Invariants: raises BadRequest only; `true` is never a number; a number without a fraction leaves as an
integer, so that `1` and `1.0` are one cache entry.
"""

from collections.abc import Callable, Collection
from typing import Any

from llm_proxy.errors import BadRequest
from llm_proxy.json_access import is_array, is_object

Check = Callable[[Any, str], Any]
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


def refused(path: str, why: str, code: str = "invalid_value") -> BadRequest:
    """Any other refusal of a field."""
    return BadRequest(f"Invalid '{path}': {why}", param=path, code=code)


def string(longest: int | None = None, shortest: int = 0) -> Check:
    """A string of so many characters."""

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if type(value) is not str:
            raise wrong_type(path, "a string", value)
        if len(value) < shortest:
            raise refused(path, "empty string. Expected a longer one.", "empty_string")
        if longest is not None and len(value) > longest:
            why = f"string too long. Expected at most {longest} characters, but got {len(value)}."
            raise refused(path, why, "string_above_max_length")
        return value

    return check


def boolean(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    """True or false."""
    if type(value) is not bool:
        raise wrong_type(path, "a boolean", value)
    return value


def integer(least: int = -MAX_INTEGER, most: int = MAX_INTEGER) -> Check:
    """A whole number within bounds; `4.0` is one."""

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise wrong_type(path, "an integer", value)
        return _bounded(value, path, least, most, "integer")

    return check


def number(least: float, most: float) -> Check:
    """A number within bounds."""

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if type(value) is float:
            value = int(value) if value.is_integer() else value
        elif type(value) is not int:
            raise wrong_type(path, "a number", value)
        return _bounded(value, path, least, most, "decimal")

    return check


def _bounded(value: float, path: str, least: float, most: float, kind: str) -> float:
    if value < least:
        why = f"{kind} below minimum value. Expected a value >= {least}, but got {value} instead."
        raise refused(path, why, f"{kind}_below_min_value")
    if value > most:
        why = f"{kind} above maximum value. Expected a value <= {most}, but got {value} instead."
        raise refused(path, why, f"{kind}_above_max_value")
    return value


def one_of(*words: str) -> Check:
    """One word of a closed set."""
    allowed = frozenset(words)

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if type(value) is not str:
            raise wrong_type(path, "a string", value)
        if value not in allowed:
            raise wrong_value(path, value, allowed)
        return value

    return check


def object_with(**fields: Check) -> Check:
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


def tagged(check: Check, *kinds: str) -> Check:
    """The same object, which must have the field its `type` names when that is one of these."""

    def checked(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        value = check(value, path)
        kind = value["type"]
        if kind in kinds and value.get(kind) is None:
            raise missing(f"{path}.{kind}")
        return value

    return checked


def array_of(inner: Check, shortest: int = 0, longest: int | None = None) -> Check:
    """An array each item of which passes."""

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if not is_array(value):
            raise wrong_type(path, "an array", value)
        _sized(value, path, shortest, longest)
        return [inner(item, f"{path}[{at}]") for at, item in enumerate(value)]

    return check


def _sized(value: list[Any], path: str, shortest: int, longest: int | None) -> None:
    if len(value) < shortest:
        why = f"empty array. Expected an array with minimum length {shortest}."
        raise refused(path, why, "empty_array")
    if longest is not None and len(value) > longest:
        why = f"array too long. Expected an array with maximum length {longest}, but got {len(value)} items."
        raise refused(path, why, "array_above_max_length")


def map_of(inner: Check, most: int | None = None, longest_name: int | None = None) -> Check:
    """An object with any names, each value of which passes."""

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if not is_object(value):
            raise wrong_type(path, "an object", value)
        if most is not None and len(value) > most:
            why = f"too many properties. Expected at most {most}, but got {len(value)}."
            raise refused(path, why, "object_above_max_properties")
        for name, item in value.items():
            if longest_name is not None and len(name) > longest_name:
                why = f"name too long. Expected at most {longest_name} characters."
                raise refused(path, why, "string_above_max_length")
            inner(item, f"{path}.{shown_name(name)}")
        return value

    return check


def either(expected: str, **by_type: Check) -> Check:
    """A value of one of several types, each with its check: `string=`, `array=`, `object=`."""
    types: dict[type, Check] = {
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


def texts_or_tokens(shortest: int = 0, longest: int | None = None) -> Check:
    """What is completed or embedded: a text, texts, tokens, or arrays of tokens; never mixed."""
    text = string(shortest=shortest)

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
        _sized(value, path, 1, longest)
        if kinds not in ({str}, {list}):
            raise wrong_type(path, _TEXTS, value)
        for at, item in enumerate(value):
            (text if type(item) is str else tokens)(item, f"{path}[{at}]")
        return value

    return check


def as_it_is(value: Any, _path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
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
