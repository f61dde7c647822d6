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
    """The error of a body without a required field."""
    return BadRequest(f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter")


def wrong_type(path: str, expected: str, value: object) -> BadRequest:
    """The error of a value of another type."""
    return BadRequest(
        f"Invalid type for '{path}': expected {expected}, but got {_type_name(value)} instead.",
        param=path,
        code="invalid_type",
    )


def wrong_value(path: str, value: object, supported: Collection[str]) -> BadRequest:
    """The error of a value outside a closed set."""
    listed = ", ".join(f"'{word}'" for word in sorted(supported))
    return BadRequest(
        f"Invalid value for '{path}': {_quote_value(value)}. Supported values are: {listed}.",
        param=path,
        code="invalid_value",
    )


def invalid(path: str, reason: str, code: str = "invalid_value") -> BadRequest:
    """Any other error of a field."""
    return BadRequest(f"Invalid '{path}': {reason}", param=path, code=code)


def string(max_length: int | None = None, min_length: int = 0) -> Validator:
    """A string of bounded length."""

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if type(value) is not str:
            raise wrong_type(path, "a string", value)
        if len(value) < min_length:
            raise invalid(path, "empty string. Expected a longer one.", "empty_string")
        if max_length is not None and len(value) > max_length:
            reason = f"string too long. Expected at most {max_length} characters, but got {len(value)}."
            raise invalid(path, reason, "string_above_max_length")
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
        whole = int(value) if type(value) is float and value.is_integer() else value
        if type(whole) is not int:
            raise wrong_type(path, "an integer", value)
        _check_range(value, path, minimum, maximum, "integer")
        return whole

    return check


def number(minimum: float, maximum: float) -> Validator:
    """A number within bounds."""

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if type(value) not in (int, float):
            raise wrong_type(path, "a number", value)
        _check_range(value, path, minimum, maximum, "decimal")
        return int(value) if type(value) is float and value.is_integer() else value

    return check


def _check_range(value: float, path: str, minimum: float, maximum: float, kind: str) -> None:
    if value < minimum:
        reason = f"{kind} below minimum value. Expected a value >= {minimum}{_but_got(value)}."
        raise invalid(path, reason, f"{kind}_below_min_value")
    if value > maximum:
        reason = f"{kind} above maximum value. Expected a value <= {maximum}{_but_got(value)}."
        raise invalid(path, reason, f"{kind}_above_max_value")


def _but_got(value: float) -> str:
    if type(value) is float and abs(value) > MAX_INTEGER:  # the parser rounded it
        return ""
    return f", but got {int(value) if value == int(value) else value} instead"


def one_of(*words: str) -> Validator:
    """One of a closed set of strings."""
    allowed = frozenset(words)

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if type(value) is not str:
            raise wrong_type(path, "a string", value)
        if value not in allowed:
            raise wrong_value(path, value, allowed)
        return value

    return check


def object_with(**fields: Validator) -> Validator:
    """An object whose present fields are valid; a validator named `x_required` makes `x` required."""
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
    """An array with valid items."""

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if not is_array(value):
            raise wrong_type(path, "an array", value)
        _check_length(value, path, min_length, max_length)
        return [inner(item, f"{path}[{at}]") for at, item in enumerate(value)]

    return check


def _check_length(value: list[Any], path: str, min_length: int, max_length: int | None) -> None:
    if len(value) < min_length:
        reason = f"empty array. Expected an array with minimum length {min_length}."
        raise invalid(path, reason, "empty_array")
    if max_length is not None and len(value) > max_length:
        reason = (
            f"array too long. Expected an array with maximum length {max_length}, but got {len(value)} items."
        )
        raise invalid(path, reason, "array_above_max_length")


def map_of(inner: Validator, max_entries: int | None = None, max_name_length: int | None = None) -> Validator:
    """An object with any names and valid values."""

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if not is_object(value):
            raise wrong_type(path, "an object", value)
        if max_entries is not None and len(value) > max_entries:
            reason = f"too many properties. Expected at most {max_entries}, but got {len(value)}."
            raise invalid(path, reason, "object_above_max_properties")
        for name, item in value.items():
            if max_name_length is not None and len(name) > max_name_length:
                reason = f"name too long. Expected at most {max_name_length} characters."
                raise invalid(path, reason, "string_above_max_length")
            inner(item, f"{path}.{shown_name(name)}")
        return value

    return check


def either(expected: str, **by_type: Validator) -> Validator:
    """A value of one of several types, each with its validator: `string=`, `array=`, `object=`."""
    types: dict[type, Validator] = {
        kind: by_type[name]
        for kind, name in ((str, "string"), (list, "array"), (dict, "object"))
        if name in by_type
    }

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        inner = types.get(value.__class__)
        if inner is None:
            raise wrong_type(path, expected, value)
        return inner(value, path)

    return check


_TEXTS_OR_TOKENS = "a string, or an array of strings, of tokens or of arrays of tokens"


def texts_or_tokens(min_length: int = 0, max_length: int | None = None) -> Validator:
    """The input of completions and embeddings: a text, texts, tokens, or arrays of tokens; never mixed."""
    text = string(min_length=min_length)

    array_of_tokens = array_of(integer(0), 1)

    def tokens(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if is_array(value) and set(map(type, value)) == {int} and min(value) >= 0:
            return value
        return array_of_tokens(value, path)  # names the first at fault

    inner_of: dict[type, Validator] = {str: text, list: tokens}

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if type(value) is str:
            return text(value, path)
        if not is_array(value):
            raise wrong_type(path, _TEXTS_OR_TOKENS, value)
        _check_length(value, path, 1, None)
        kind: type[object] = value[0].__class__
        if kind in (int, float):
            return tokens(value, path)
        _check_length(value, path, 1, max_length)
        if kind not in inner_of:
            raise wrong_type(f"{path}[0]", "a string, a token or an array of tokens", value[0])
        return [inner_of[kind](item, f"{path}[{at}]") for at, item in enumerate(value)]

    return check


def anything(value: Any, _path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    """Anything."""
    return value


def shown_name(name: str) -> str:
    """A field's name as messages show it: printable and short."""
    if len(name) <= 64 and name.isprintable():
        return name
    printable = "".join(sign if sign.isprintable() else "?" for sign in name[:64])
    return printable + "..." if len(name) > 64 else printable


def _quote_value(value: object) -> str:
    return f"'{shown_name(value)}'" if type(value) is str else _type_name(value)


_TYPE_NAMES: dict[type, str] = {
    dict: "an object", list: "an array", str: "a string", bool: "a boolean",
    int: "an integer", float: "a decimal", type(None): "null",
}  # fmt: skip


def _type_name(value: object) -> str:
    return _TYPE_NAMES[type(value)]
