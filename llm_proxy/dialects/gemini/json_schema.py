"""Google's `Schema` message as a JSON schema.

Pure. Invariants: types leave in lower case, `nullable` as a type beside `null`, `propertyOrdering` as the
order of the properties; names of properties, values of `enum`, `default` and `example` are the caller's.
Source: https://ai.google.dev/api/caching#Schema, https://json-schema.org/draft/2020-12.
"""

from typing import Any

from llm_proxy.dialects.gemini.fields import (
    Message,
    anything,
    flag,
    invalid,
    joined,
    list_of,
    number,
    struct,
    text,
    whole,
    word_of,
)
from llm_proxy.dialects.request.validators import Validator, shown_name
from llm_proxy.json_access import Json, is_array

_FARTHEST = 1e300
_count = whole(0, 2**53)
_bound = number(-_FARTHEST, _FARTHEST)
_KINDS = ("TYPE_UNSPECIFIED", "STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL")
_FORMATS_OF_GOOGLE = frozenset({"enum"})
"""Formats that say nothing beyond the other fields; JSON schema does not have them."""


def read_schema(value: Any, path: str) -> Json:  # noqa: ANN401 -- unchecked JSON
    """Returns the JSON schema of a `Schema`; raises `BadRequest` for the field at fault."""
    schema = _schema(value, path)
    kind = schema.pop("type", _KINDS[0])
    converted: Json = {} if kind == _KINDS[0] else {"type": kind.lower()}
    if schema.get("format") in _FORMATS_OF_GOOGLE:
        del schema["format"]
    order = schema.pop("propertyOrdering", None)
    if order and "properties" in schema:
        schema["properties"] = _ordered(schema["properties"], order)
    if "example" in schema:
        schema["examples"] = [schema.pop("example")]
    for google, standard in (("defs", "$defs"), ("ref", "$ref")):
        if google in schema:
            schema[standard] = schema.pop(google)
    is_nullable = schema.pop("nullable", False)
    converted |= schema
    return _nullable(converted) if is_nullable else converted


def _nullable(schema: Json) -> Json:
    if "type" in schema:
        schema["type"] = [schema["type"], "null"]
    elif "anyOf" in schema:
        schema["anyOf"] = [*schema["anyOf"], {"type": "null"}]
    if "enum" in schema and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]
    return schema


def _ordered(properties: Json, order: list[str]) -> Json:
    first = {name: properties[name] for name in order if name in properties}
    return first | properties


def _schemas(value: Any, path: str) -> Json:  # noqa: ANN401 -- unchecked JSON
    return {
        name: read_schema(one, joined(path, shown_name(name))) for name, one in struct(value, path).items()
    }


def _open_or_schema(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    return value if isinstance(value, bool) else read_schema(value, path)


def _enum(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    if not is_array(value):
        raise invalid(path, "expected an array.", "invalid_type")
    return value


_FIELDS: dict[str, Validator] = {
    "type": word_of(*_KINDS),
    "format": text,
    "title": text,
    "description": text,
    "nullable": flag,
    "enum": _enum,
    "maxItems": _count,
    "minItems": _count,
    "properties": _schemas,
    "required": list_of(text),
    "minProperties": _count,
    "maxProperties": _count,
    "minLength": _count,
    "maxLength": _count,
    "pattern": text,
    "example": anything,
    "anyOf": list_of(read_schema),
    "propertyOrdering": list_of(text),
    "default": anything,
    "items": read_schema,
    "minimum": _bound,
    "maximum": _bound,
    "additionalProperties": _open_or_schema,
    "defs": _schemas,
    "ref": text,
}
_schema = Message(_FIELDS)
