"""A multipart form as the edge read it, and the body in the endpoint's schema that its fields stand for.

Invariants: every field of a form is text, and is converted where the endpoint's schema says so; `name[]` is
an array, `name[key]` an object, `name[key][key]` one in it, as OpenAI's SDKs write them; a name that is no
array comes once.
"""

import re
from typing import NamedTuple

from llm_proxy.dialects.request.validators import invalid, shown_name
from llm_proxy.json_access import Json, is_array, is_object
from llm_proxy.uploads import UploadedFile

_NAME = re.compile(r"([A-Za-z][A-Za-z0-9_.-]{0,63})((?:\[[A-Za-z0-9_.-]{1,64}\]){0,8})(\[\])?")
_KEY = re.compile(r"\[([^]]+)\]")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?(?:[eE][+-]?[0-9]{1,2})?")
_BOOLEANS = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}
_TYPES = {
    "stream": "boolean",
    "disable_fallbacks": "boolean",
    "temperature": "number",
    "n": "integer",
    "partial_images": "integer",
    "output_compression": "integer",
    "frame_count": "integer",
    "frame_duration_ms": "integer",
}
"""The published fields of forms that are no text."""


class Form(NamedTuple):
    """A form.

    Attributes:
        fields: Its text fields, in the order they came.
        files: Its files.
        size_bytes: The size of the text fields' values together.
    """

    fields: tuple[tuple[str, str], ...]
    files: tuple[UploadedFile, ...]
    size_bytes: int


def form_body(form: Form) -> Json:
    """Returns the body that the fields stand for; raises `BadRequest` naming the field at fault."""
    body: Json = {}
    for name, text in form.fields:
        match = _NAME.fullmatch(name)
        if match is None:
            raise invalid(shown_name(name), "this is no name of a field.")
        *outer, last = match[1], *_KEY.findall(match[2])
        fields: object = body
        for key in outer:
            fields = fields.setdefault(key, {}) if is_object(fields) else None
        if not is_object(fields):
            raise invalid(name, "given twice.", "duplicate_parameter")
        if match[3] is None:
            if last in fields:
                raise invalid(name, "given twice.", "duplicate_parameter")
            fields[last] = text if outer else _value(name, text)
        else:
            items: object = fields.setdefault(last, [])
            if not is_array(items):
                raise invalid(name, "given twice.", "duplicate_parameter")
            items.append(text)
    return body


def _value(name: str, text: str) -> object:
    kind = _TYPES.get(name)
    if kind is None or not text:
        return text or None
    if kind == "boolean" and text in _BOOLEANS:
        return _BOOLEANS[text]
    if kind == "integer" and _INTEGER.fullmatch(text):
        return int(text)
    if kind == "number" and _NUMBER.fullmatch(text):
        return float(text)
    raise invalid(name, f"expected {'an' if kind == 'integer' else 'a'} {kind}.", "invalid_type")
