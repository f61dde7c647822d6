"""The input of a custom tool, read out of the arguments of the function that stands for it, as they arrive.

Pure. Invariants: any chunking of the same arguments gives the same input; what was returned before is never
taken back; arguments that are not the function's are the input themselves.
"""

import re
from collections import deque

import orjson

from llm_proxy.json_access import as_object

_HEAD = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_COMPACT_HEAD = '{"input":"'
_SPACE = re.compile(r"\s+")
_STRING = re.compile(r'(?:[^"\\]|\\(?:[^u]|u[0-9A-Fa-f]{4}))*', re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "/": "/"}
_HIGH_SURROGATE = re.compile("u[dD][89abAB]")


class FreeformInput:
    """One call's input."""

    __slots__ = ("_pieces", "_raw", "_starts")

    def __init__(self) -> None:
        self._raw = ""  # what was not returned yet
        self._pieces: list[str] = []
        self._starts: bool | None = None

    @property
    def value(self) -> str:
        """The input as far as it was returned; all of it after `end`."""
        return "".join(self._pieces)

    def feed(self, text: str) -> str:
        """Takes a piece of the arguments; returns what it adds to the input."""
        self._raw += text
        if self._starts is None:
            self._find_start()
        return self._take() if self._starts else ""

    def end(self) -> str:
        """Returns what is left of the input once the arguments are complete."""
        rest = self._raw
        if self._starts:
            rest = "" if rest.startswith('"') else rest  # the string never ended: the answer was cut
        else:
            try:
                found = as_object(orjson.loads(rest)).get("input")
                rest = found if isinstance(found, str) else rest
            except orjson.JSONDecodeError:
                pass
        self._pieces.append(rest)
        return rest

    def _find_start(self) -> None:
        match = _HEAD.match(self._raw)
        if match is not None:
            self._starts, self._raw = True, self._raw[match.end() :]
        elif not _COMPACT_HEAD.startswith(_SPACE.sub("", self._raw)):
            self._starts = False

    def _take(self) -> str:
        """Decodes what is complete of the string: no half of an escape, nor of a pair of surrogates."""
        match = _STRING.match(self._raw)
        piece = match[0] if match else ""
        if self._raw[len(piece) :][:1] in {"", "\\"}:  # more of the string may follow
            piece = _without_half_a_pair(piece)
        if not piece:
            return ""
        decoded = _ESCAPE.sub(_unescaped, piece)
        if "\\u" in piece:
            decoded = decoded.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        self._raw = self._raw[len(piece) :]
        self._pieces.append(decoded)
        return decoded


def _without_half_a_pair(piece: str) -> str:
    """The piece without a high surrogate at its end, whose low one may follow."""
    last = next(iter(deque(_ESCAPE.finditer(piece), maxlen=1)), None)
    if last is not None and last.end() == len(piece) and _HIGH_SURROGATE.match(last[1]):
        return piece[: last.start()]
    return piece


def _unescaped(escape: re.Match[str]) -> str:
    code = escape[1]
    return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPED.get(code, escape[0])
