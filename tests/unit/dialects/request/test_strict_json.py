"""Bytes become an object of known depth, or an error."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.dialects.request.strict_json import (
    MAX_CONTAINERS,
    MAX_VALUES,
    MAX_WRITTEN_DEPTH,
    parse_object,
)
from llm_proxy.errors import BadRequest

names = st.text(max_size=4) | st.sampled_from(["a", '":', "\\", '\\":', "a\\", " :"])
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)
objects = st.dictionaries(names, json_values, max_size=4)


@given(
    objects,
    st.booleans(),
    st.sampled_from([None, 1]),
    st.sampled_from([(",", ":"), (", ", ": "), (",", " :")]),
    st.sampled_from([1, 200]),
)
def test_any_object_is_read_as_it_was_written(
    value: Any,
    ascii_only: bool,  # noqa: FBT001 -- drawn
    indent: int | None,
    separators: tuple[str, str],
    times: int,
) -> None:
    """In any spelling and length; text is never taken for structure."""
    value = {"many": [value] * times}
    written = json.dumps(value, ensure_ascii=ascii_only, indent=indent, separators=separators)
    try:
        body = written.encode()
    except UnicodeEncodeError:
        return
    if "\\ud" in written:
        return
    assert json.loads(written) == parse_object(body, 64)


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_an_object_or_an_api_error(body: bytes) -> None:
    """Never another exception."""
    assert isinstance(_outcome(body), dict) or _outcome(body)


def _outcome(body: bytes) -> dict[str, Any] | str | None:
    """The object, or the code of the error."""
    try:
        return parse_object(body, 64)
    except BadRequest as error:
        return error.code


@given(
    objects,
    names,
    st.sampled_from(['"{}":1', '"{}" :1', '"{}"\n: 1', '"{}":"{}"', '"{}":"\\\\"']),
    st.integers(0, 5),
)
def test_a_duplicate_name_is_rejected(value: Any, name: str, spelling: str, depth: int) -> None:
    """At any depth, in any spelling, beside any text."""
    quoted = json.dumps(name)[1:-1]
    twice = "{" + spelling.replace("{}", quoted) + "," + spelling.replace("{}", quoted) + "}"
    nested = '{"x":[' * depth + twice + "]}" * depth
    body = ('{"first":' + json.dumps(value) + ',"rest":' + nested + "}").encode()
    with pytest.raises(BadRequest):
        parse_object(body, 64)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        (b'{"a":"\xff"}', "invalid_json"),
        (b'{"a":NaN}', "invalid_json"),
        (b'{"a":1e999}', "invalid_json"),
        (b'{"a":"\\ud800"}', "invalid_json"),
        (b'{"a":"\x00"}', "invalid_json"),
        (b'{"a":1}x', "invalid_json"),
        (b"[]", "invalid_type"),
        (b"null", "invalid_type"),
        (b'"a"', "invalid_type"),
        (b'{"a":1,"a":2}', "duplicate_parameter"),
        (b'{"a":1,"\\u0061":2}', "duplicate_parameter"),
    ],
)
def test_anything_but_a_plain_json_object_is_rejected(body: bytes, code: str) -> None:
    """Each with a code of its own."""
    with pytest.raises(BadRequest) as error:
        parse_object(body, 64)
    assert error.value.code == code


def test_a_nul_is_text() -> None:
    """Agents paste binary files: in values and in names."""
    body = b'{"messages":[{"content":"a\\u0000b"}],"\\u0000":1}'
    assert parse_object(body, 64) == {"messages": [{"content": "a\0b"}], "\0": 1}
    with pytest.raises(BadRequest):
        parse_object(b'{"\\u0000":1,"\\u0000":2}', 64)


@pytest.mark.parametrize("depth", [4, 64, MAX_WRITTEN_DEPTH, MAX_WRITTEN_DEPTH + 1, 400])
def test_depth_is_bounded_exactly(depth: int) -> None:
    """The allowed depth passes, one more does not, and no depth exhausts the stack."""
    nested = b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
    assert parse_object(nested, depth)
    with pytest.raises(BadRequest, match="deeply"):
        parse_object(nested, depth - 1)
    with pytest.raises(BadRequest):
        parse_object(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", depth)


@pytest.mark.parametrize("depth", [4, 64, MAX_WRITTEN_DEPTH, MAX_WRITTEN_DEPTH + 1, 400])
@pytest.mark.parametrize("level", [("[", "]"), ('{"a":', "}"), ('[1,{"a":', '},"b"]')])
@pytest.mark.parametrize("text", ["", "long " * 300])
@pytest.mark.parametrize("space", ["", " "])
def test_depth_is_bounded_in_any_shape(depth: int, level: tuple[str, str], text: str, space: str) -> None:
    """Of objects and arrays, short and long, however they are written; a name that comes twice is found."""
    begin, end = level
    levels = begin.count("{") + begin.count("[")
    times, rest = divmod(depth - 1, levels)
    inner = space + "[" * rest + begin * times + "0" + end * times + "]" * rest
    body = f'{{"text":"{text}","a":{inner}}}'.encode()
    assert parse_object(body, depth) == json.loads(body)
    with pytest.raises(BadRequest, match="deeply"):
        parse_object(body, depth - 1)
    with pytest.raises(BadRequest, match="twice"):
        parse_object(body[:-1] + b',"text":""}', depth)


def test_integers_of_any_length_are_doubles_or_rejected() -> None:
    """Python's limit on digits is never met."""
    assert parse_object(b'{"a":12345678901234567890123}', 64)["a"] == float(12345678901234567890123)
    with pytest.raises(BadRequest):
        parse_object(b'{"a":' + b"9" * 5000 + b',"b":1,"b":2}', 64)
    assert orjson.dumps(parse_object(b'{"a":-0}', 64)) == b'{"a":0}'


def _array_of(item: bytes, times: int) -> bytes:
    return b'{"a":[' + b",".join([item] * times) + b"]}"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(_array_of(b"[]", MAX_CONTAINERS), id="arrays"),
        pytest.param(_array_of(b'{"":0}', MAX_CONTAINERS), id="objects"),
        pytest.param(_array_of(b'["\\"",{"[":"}"}]', MAX_CONTAINERS // 2), id="among strings"),
        pytest.param(_array_of(b"7", MAX_VALUES + 1), id="numbers"),
        pytest.param(_array_of(b'""', MAX_VALUES + 1), id="strings"),
        pytest.param(b'{"a":[' + b"[]," * MAX_CONTAINERS, id="without an end"),
    ],
)
def test_too_many_values_are_rejected_before_they_are_parsed(body: bytes) -> None:
    """In any shape."""
    assert _outcome(body) == "json_too_many_values"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('[{,"' * MAX_VALUES, id="signs"),
        pytest.param('\\"[' * MAX_CONTAINERS * 2, id="quotes and backslashes"),
        pytest.param("1,2,3\n" * MAX_VALUES, id="a table"),
    ],
)
def test_brackets_and_commas_in_a_text_are_not_values(text: str) -> None:
    """A long text of code or numbers is one string."""
    assert parse_object(json.dumps({"a": text}).encode(), 64) == {"a": text}


def test_the_allowed_number_of_values_is_read() -> None:
    """Both bounds are inclusive."""
    assert len(parse_object(_array_of(b"[]", MAX_CONTAINERS - 2), 64)["a"]) == MAX_CONTAINERS - 2
    assert len(parse_object(_array_of(b"7", MAX_VALUES), 64)["a"]) == MAX_VALUES


@pytest.mark.parametrize("end", ["", "\\", '"', '\\"'])
def test_an_unterminated_string_is_invalid_json(end: str) -> None:
    """It is scanned once."""
    assert _outcome(('{"a":"' + '\\"[{' * MAX_CONTAINERS + end).encode()) == "invalid_json"
