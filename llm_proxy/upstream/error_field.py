"""Finds which field of a request an error message is about, for providers that name it in words only.

Pure. Invariant: only a field that the request has is named; a word of ordinary English counts only in quotes
or at the head of the message.
"""

import re
from collections.abc import Collection

_ORDINARY = frozenset(
    {
        *("audio", "echo", "functions", "input", "messages", "metadata", "modalities", "model", "n"),
        *("prediction", "prompt", "stop", "store", "stream", "suffix", "thinking", "tools", "user"),
    }
)
_PATH = re.compile(r"^[A-Za-z_]\w*(?:\.\w+|\[\d+\]){0,12}")
_LONGEST_PATH = 100
_WHOLE = frozenset({"contents", "input", "inputs", "messages", "model", "prompt"})
"""Fields that are the whole prompt, and what is said of them is said of it."""
_PARTS = frozenset(
    {
        *("function_call", "functions", "instructions", "logit_bias", "metadata", "modalities", "name"),
        *("prompt_cache_key", "response_format", "safety_identifier", "stop", "stop_sequences", "suffix"),
        *("system", "tool_choice", "tools", "user"),
    }
)
_QUOTED = re.compile(r"['\"`#/]([A-Za-z_]\w*)((?:\.\w+|\[\d+\]|/\w+){0,12})(?==|:|['\"`])")
_HEAD = re.compile(r"^(?:Invalid )?([A-Za-z_]\w*)((?:\.\w+|\[\d+\]){0,12}):")
_OUTPUT_TOKENS = re.compile(r"^\W*max\w*_tokens\b(?!.*\b(?:context|input|prompt)\b)", re.DOTALL)


def named_field(message: str, fields: Collection[str]) -> str | None:
    """The field, with its path where the message has one; None when none of the request's is named."""
    path = _PATH.match(message)
    if path is not None and message[path.end() : path.end() + 1] == ":":
        top = re.split(r"[.\[]", path[0], maxsplit=1)[0]
        if top in fields:
            return path[0][:_LONGEST_PATH]
    found = [place for name in fields if (place := _mentioned(message, name)) is not None]
    return min(found)[1] if found else None


def is_about_a_part(message: str, param: str | None, fields: Collection[str]) -> bool:
    """Whether an error is about one named field that is not the whole prompt."""
    named = _PATH.match(param) if param else None
    if named is not None and _is_part(_split(named[0]), None):
        return True
    known = _PARTS | _WHOLE | frozenset(fields)
    places: list[tuple[str, str]] = [*_QUOTED.findall(message), *_HEAD.findall(message)]
    return bool(_OUTPUT_TOKENS.search(message)) or any(_is_part(place, known) for place in places)


def _split(path: str) -> tuple[str, str]:
    top = re.split(r"[.\[]", path, maxsplit=1)[0]
    return top, path[len(top) :]


def _is_part(place: tuple[str, str], known: Collection[str] | None) -> bool:
    top, below = place
    if known is not None and top not in known:
        return False
    return bool(below) or not (top in _WHOLE or top.endswith("tokens"))


def _mentioned(message: str, name: str) -> tuple[int, str] | None:
    """Where a message speaks of a field, and the field's path as it is written there."""
    quoted = re.search(rf"['\"`]({re.escape(name)}(?:\.\w+|\[\d+\]){{0,12}})(?==|['\"`])", message)
    if quoted is not None:
        return quoted.start(), quoted[1][:_LONGEST_PATH]
    if name in _ORDINARY:
        return None
    plain = re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", message)
    return (plain.start(), name) if plain is not None else None
