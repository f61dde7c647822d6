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
_LONGEST_PATH, _LONGEST_MESSAGE = 100, 4_000
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
_QUOTED_NAME = re.compile(r"['\"`]([\w-]++)((?:\.\w++|\[\d++\]){0,12})(?==|['\"`])")
_NAME = re.compile(r"(?<![\w.-])[\w-]++")
_HEAD = re.compile(r"^(?:Invalid )?([A-Za-z_]\w*)((?:\.\w+|\[\d+\]){0,12}):")
_OUTPUT_TOKENS = re.compile(r"^\W*max\w*_tokens\b(?!.*\b(?:context|input|prompt)\b)", re.DOTALL)


def named_field(message: str, fields: Collection[str]) -> str | None:
    """The field, with its path where the message has one; None when none of the request's is named.

    The work grows with the message alone: a caller chooses how many fields a request has.
    """
    message = message[:_LONGEST_MESSAGE]
    path = _PATH.match(message)
    if path is not None and message[path.end() : path.end() + 1] == ":":
        top = re.split(r"[.\[]", path[0], maxsplit=1)[0]
        if top in fields:
            return path[0][:_LONGEST_PATH]
    places: dict[str, tuple[int, str]] = {}
    for quoted in _QUOTED_NAME.finditer(message):
        if quoted[1] in fields:
            places.setdefault(quoted[1], (quoted.start(), quoted[1] + quoted[2]))
    for word in _NAME.finditer(message):
        if word[0] in fields and word[0] not in _ORDINARY:
            places.setdefault(word[0], (word.start(), word[0]))
    return min(places.values())[1][:_LONGEST_PATH] if places else None


def is_about_a_part(message: str, param: str | None, fields: Collection[str]) -> bool:
    """Whether an error is about one named field that is not the whole prompt."""
    named = _PATH.match(param) if param else None
    if named is not None and _is_part(_split(named[0])):
        return True
    message = message[:_LONGEST_MESSAGE]
    places: list[tuple[str, str]] = [*_QUOTED.findall(message), *_HEAD.findall(message)]
    return bool(_OUTPUT_TOKENS.search(message)) or any(
        _is_known(place[0], fields) and _is_part(place) for place in places
    )


def _split(path: str) -> tuple[str, str]:
    top = re.split(r"[.\[]", path, maxsplit=1)[0]
    return top, path[len(top) :]


def _is_known(top: str, fields: Collection[str]) -> bool:
    return top in _PARTS or top in _WHOLE or top in fields


def _is_part(place: tuple[str, str]) -> bool:
    top, below = place
    return bool(below) or not (top in _WHOLE or top.endswith("tokens"))
