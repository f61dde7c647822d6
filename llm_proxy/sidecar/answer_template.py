"""AnswerTemplate: the body that LiteLLM makes of answers that differ in ids, times, texts and counts alone.

Pure. Invariants: a template is used after it made the body that LiteLLM made of a second answer, and only for
answers of which all other bytes are the same. It is learned from an answer whose values are replaced by
marks, so it holds no value of any answer.
"""

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from llm_proxy.json_access import Json, as_list, as_object, is_array, is_object, read_object
from llm_proxy.sidecar.flat_prices import COUNTS, PARTS

TOP_NAMES = ("id", "created", "system_fingerprint")
TEXTS = ("content", "reasoning_content", "reasoning")
DETAILS = ("cached_tokens", "reasoning_tokens")
CONSTANT_NAMES = frozenset({"finish_reason", "model", "object", "role", "service_tier"})
"""Names of texts that are part of a template."""
MAX_TEMPLATES, MAX_UNKNOWN, MAX_HOLES = 8, 64, 99
"""Of one deployment: the templates kept, the answers they are learned from; of one answer: its values."""
_TEXT = rb'("(?!"|<|fp_ollama|\\u)[^"\\]*(?:\\.[^"\\]*)*")'
"""Not empty; LiteLLM acts on texts that begin with a tag, and on Ollama's fingerprint."""
_COUNT = rb"(0|[1-9][0-9]{0,14})(?![0-9.eE])"
_NAMES = "|".join((*TOP_NAMES, *TEXTS, *COUNTS, *DETAILS)).encode()
_HOLE = re.compile(rb'(?<=")(?:%b)"\s*:\s*(?:%b|%b)' % (_NAMES, _TEXT, _COUNT))
_PREFIX = 10**12 + secrets.randbelow(8 * 10**12)
_MARK = re.compile(rb'"?%d([0-9]{2})"?' % _PREFIX)


@dataclass(slots=True)
class AnswerTemplate:
    """An answer with holes.

    Attributes:
        pattern: Matches one like it; its groups are the values.
        body: LiteLLM's, with `%b` for each value.
        order: Which value each is.
        trusted: Whether a second answer confirmed it.
    """

    pattern: re.Pattern[bytes]
    body: bytes
    order: tuple[int, ...]
    trusted: bool = False

    def fill(self, raw: bytes) -> bytes | None:
        """Return the body that LiteLLM would make of an answer; None of one that is not like it."""
        found = self.pattern.fullmatch(raw)
        if found is None:
            return None
        try:
            values = [orjson.dumps(orjson.loads(one)) for one in found.groups()]
        except ValueError:
            return None
        return self.body % tuple([values[one] for one in self.order])


class KnownAnswers:
    """The templates of one deployment's answers."""

    def __init__(self) -> None:
        """Create it without templates."""
        self._templates: list[AnswerTemplate] = []
        self._unknown = 0

    def find(self, raw: bytes) -> bytes | None:
        """Return the body that LiteLLM would make of an answer; None if it has to."""
        bodies = (one.fill(raw) for one in self._templates if one.trusted)
        return next((body for body in bodies if body is not None), None)

    def note_unknown(self, document: Json) -> bool:
        """Count an answer that LiteLLM reads, unless it calls a tool; return whether to learn from it."""
        messages = [as_object(as_object(one).get("message")) for one in as_list(document.get("choices"))]
        if any(message.get("tool_calls") for message in messages):
            return False
        self._unknown += 1
        return self._unknown <= MAX_UNKNOWN

    def observe(self, raw: bytes, body: bytes, make: Callable[[bytes], bytes]) -> None:
        """Learn from an answer and its body; `make` lets LiteLLM make the body of another."""
        for template in self._templates:
            found = template.fill(raw)
            if found is not None:
                template.trusted = found == body
                if not template.trusted:
                    self._templates.remove(template)
                return
        learned = _learn(raw, make) if len(self._templates) < MAX_TEMPLATES else None
        if learned is not None and learned.fill(raw) == body:
            self._templates.append(learned)


def _learn(raw: bytes, make: Callable[[bytes], bytes]) -> AnswerTemplate | None:
    """Return the template of an answer; None if its values do not all stand where they are known."""
    pattern, marked, at, marks = b"", b"", 0, list[str]()
    for hit in _HOLE.finditer(raw):
        start, end = hit.span(hit.lastindex or 0)
        mark = f"{_PREFIX}{len(marks):02}"
        kind = (_TEXT, b'"%b"') if raw[start : start + 1] == b'"' else (_COUNT, b"%b")
        pattern += re.escape(raw[at:start]) + kind[0]
        marked += raw[at:start] + kind[1] % mark.encode()
        marks.append(mark)
        at = end
    pattern, marked = pattern + re.escape(raw[at:]), marked + raw[at:]
    if len(marks) > MAX_HOLES or not _are_known(read_object(marked), set(marks)):
        return None
    parts = _MARK.split(make(marked))
    body, order = b"%b".join([one.replace(b"%", b"%%") for one in parts[::2]]), tuple(map(int, parts[1::2]))
    if max(order, default=0) >= len(marks):
        return None  # LiteLLM calculated with a mark
    return AnswerTemplate(re.compile(pattern, re.DOTALL), body, order)


def _are_known(document: Json, marks: set[str]) -> bool:
    """Whether all marks of an answer stand where values are known, and it has no other texts."""
    choices, usage = as_list(document.get("choices")), as_object(document.get("usage"))
    message = as_object(as_object(choices[0]).get("message")) if len(choices) == 1 else {}
    details = [(as_object(usage.get(part)), DETAILS) for part in PARTS]
    places = [(document, TOP_NAMES), (message, TEXTS), (usage, COUNTS), *details]
    found = {str(part.get(name)) for part, names in places for name in names}
    invented = {str(document.get("id")), str(document.get("created"))}  # by LiteLLM where they are missing
    return marks <= found and invented <= marks and _has_only(document, marks)


def _has_only(value: object, marks: set[str], name: str = "") -> bool:
    """Whether each text is a mark, empty or part of the template, and each list one of objects."""
    if is_object(value):
        return all(_has_only(one, marks, key) for key, one in value.items())
    if is_array(value):
        return all(is_object(one) and _has_only(one, marks) for one in value)
    return not isinstance(value, str) or not value or value in marks or name in CONSTANT_NAMES
