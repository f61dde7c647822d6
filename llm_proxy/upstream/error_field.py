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


def named_field(message: str, fields: Collection[str]) -> str | None:
    """The field, with its path where the message has one; None when none of the request's is named."""
    path = _PATH.match(message)
    if path is not None and message[path.end() : path.end() + 1] == ":":
        top = re.split(r"[.\[]", path[0], maxsplit=1)[0]
        if top in fields:
            return path[0][:_LONGEST_PATH]
    found = [place for name in fields if (place := _mentioned(message, name)) is not None]
    return min(found)[1] if found else None


def _mentioned(message: str, name: str) -> tuple[int, str] | None:
    """Where a message speaks of a field, and the field's path as it is written there."""
    quoted = re.search(rf"['\"`]({re.escape(name)}(?:\.\w+|\[\d+\]){{0,12}})(?==|['\"`])", message)
    if quoted is not None:
        return quoted.start(), quoted[1][:_LONGEST_PATH]
    if name in _ORDINARY:
        return None
    plain = re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", message)
    return (plain.start(), name) if plain is not None else None
