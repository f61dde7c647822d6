"""Structured output whose root is no object: Google makes lists and words, OpenAI and Claude objects alone.

Pure. Such a schema is sent inside of an object with one field, and its value is taken out of the answer.
Invariants: any chunking of a text gives the same text; a text that is no such object passes as it is.
"""

import re
from typing import Literal

import orjson

from llm_proxy.json_access import Json, is_object

Unwraps = Literal["", "json", "word"]
"""What is taken out of an answer: nothing, the field's JSON, or the word that it is."""
_FIELD = "value"
_OPENING = re.compile(r'\s*\{\s*"' + _FIELD + r'"\s*:')
_CLOSING = "} \t\r\n"
_NO_OBJECTS = frozenset({"array", "string", "number", "integer", "boolean"})
_SHARED = ("$defs", "definitions")
"""What a schema refers to from its root."""


def is_no_object(schema: Json) -> bool:
    """Whether a schema says that its root is no object."""
    return isinstance(schema.get("type"), str) and schema["type"] in _NO_OBJECTS


def wrapped(schema: Json) -> Json:
    """Returns the schema of an object that holds the value."""
    shared = {name: schema[name] for name in _SHARED if name in schema}
    inner = {name: value for name, value in schema.items() if name not in _SHARED}
    return {
        "type": "object",
        "properties": {_FIELD: inner},
        "required": [_FIELD],
        "additionalProperties": False,
        **shared,
    }


class Unwrapper:
    """Takes the value out of one candidate's text, as it comes."""

    __slots__ = ("_has_begun", "_held", "_is_open", "_unwraps")

    def __init__(self, unwraps: Unwraps) -> None:
        self._unwraps = unwraps
        self._is_open = self._has_begun = False
        self._held = ""

    def feed(self, text: str) -> str:
        """Returns what of the value is known now."""
        if not self._unwraps or not text:
            return text
        self._held += text
        if self._unwraps == "word":
            return ""
        if not self._is_open:
            opening = _OPENING.match(self._held)
            if opening is None:
                return ""
            self._is_open = True
            self._held = self._held[opening.end() :]
        if not self._has_begun:
            self._held = self._held.lstrip()
        kept = len(self._held.rstrip(_CLOSING))
        ready, self._held = self._held[:kept], self._held[kept:]
        self._has_begun = self._has_begun or bool(ready)
        return ready

    def end(self) -> str:
        """Returns the rest."""
        held, self._held = self._held, ""
        if self._unwraps == "word":
            return _word(held)
        return held.rstrip().removesuffix("}").rstrip() if self._is_open else held


def _word(text: str) -> str:
    try:
        answer = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    word = answer.get(_FIELD) if is_object(answer) else answer
    return word if isinstance(word, str) else text
