"""Frames that differ in their texts alone: what LiteLLM made of one event is made of the next.

Pure. Invariants: an event is translated only if all its bytes but texts, padding and counts are those of one
that LiteLLM translated, and after a second event has confirmed the rule; any other event ends that. A rule
that was confirmed in an earlier stream is used from the second event on, if no text waits for its rest.
LiteLLM gets the texts it has not seen as one event, so log, count and price stay its own.
"""

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from llm_proxy.json_access import Json, is_array, is_object, read_object
from llm_proxy.sidecar.json_repair import encode

TEXTS = ("content", "text", "reasoning_content", "reasoning", "thinking", "arguments", "partial_json")
"""Names of the texts of a delta, in the formats of OpenAI, Anthropic and Google."""
PADDING = ("obfuscation", "p")
"""Names of texts without a meaning, of OpenAI and Mistral."""
COUNTS = (
    *("created", "prompt_tokens", "completion_tokens", "total_tokens", "promptTokenCount"),
    *("candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount"),
)
"""Names of numbers that change from frame to frame; the last one holds."""
MAX_HOLES, MAX_TEMPLATES, MAX_KNOWN = 8, 4, 2
MAX_PENDING_BYTES = 256 * 1024
MAX_OUTLINES = 4
"""Of one template: one for each event is not worth it, where a count changes with each event."""
MAX_REPEATED_CHARS = 2
"""LiteLLM ends a stream that repeats a longer text too often; it must see each of them."""
_TEXT = rb'[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*'
"""Of a JSON string, without surrogates."""
_NAMES = "|".join((*TEXTS, *PADDING, *COUNTS)).encode()
_HOLE = re.compile(
    rb'"(?P<name>'
    + _NAMES
    + rb')"[ \t]*:[ \t]*(?:"(?P<text>'
    + _TEXT
    + rb')"|(?P<number>0|[1-9][0-9]{0,15})\b)'
)
_TEXT_BEGIN = re.compile(rb'"(?:%b)"[ \t]*:[ \t]*"[^"]' % "|".join(TEXTS).encode())
_TEXT_VALUE = re.compile(rb'(?!"|data:|\Z)' + _TEXT)
"""Not empty; LiteLLM takes Google's texts that begin so for sounds."""
_PADDING_VALUE = re.compile(_TEXT)
_COUNT_VALUE = re.compile(rb"0|[1-9][0-9]{0,15}")
_PATTERNS = (
    dict.fromkeys(TEXTS, _TEXT_VALUE)
    | dict.fromkeys(PADDING, _PADDING_VALUE)
    | dict.fromkeys(COUNTS, _COUNT_VALUE)
)
_ID = re.compile(rb'"id"[ \t]*:[ \t]*"(?P<id>[^"\\\x00-\x1f]{8,200})"')
"""Of a stream: one that is too short to be anything else's value."""
_MARK = secrets.token_hex(8)
_MARKED = re.compile(rb'"%b-([0-9]+)"' % _MARK.encode())


@dataclass(frozen=True, slots=True)
class _Hole:
    """A part of an event that may differ.

    Attributes:
        name: Its name in the event.
        value: Its value in the event that the template was learned from.
        after: The bytes from its end to the next hole.
    """

    name: str
    value: str | int
    after: bytes


@dataclass(frozen=True, slots=True)
class _Outline:
    """A template whose counts are those of the latest event: only texts and padding may differ.

    Attributes:
        head: The bytes of an event before the first hole that is left.
        left: The holes that are left: what matches a value, and the bytes from its end to the next.
        numbers: The holes' numbers.
        latest: What fills all holes of the latest event.
        frame: The frame that LiteLLM makes, with `%b` for each hole that is left.
        order: The holes of the frame, as places in `left`; empty if they are all in their order.
    """

    head: bytes
    left: tuple[tuple[Callable[[bytes], re.Match[bytes] | None], bytes], ...]
    numbers: tuple[int, ...]
    latest: list[bytes]
    frame: bytes
    order: tuple[int, ...]

    def match(self, data: bytes) -> list[bytes] | None:
        """Return what fills the holes, event by event; None for anything but whole events of this outline."""
        at, head = 0, self.head
        found: list[bytes] = []  # `list[bytes]()` raises within, and takes ten times as long
        while data.startswith(head, at):
            at += len(head)
            for matches, after in self.left:
                end = data.find(after, at)
                value = data[at:end]
                if end < 0 or not matches(value):
                    return None
                found.append(value)
                at = end + len(after)
        return found if at == len(data) and (data.isascii() or _is_utf8(data)) else None

    def render(self, found: list[bytes]) -> bytes:
        """Return the frames that LiteLLM would make."""
        begins = range(0, len(found), len(self.left))
        filled = [found[at + one] for at in begins for one in self.order] if self.order else found
        return self.frame * len(begins) % tuple(filled)


@dataclass(slots=True)
class FrameTemplate:
    """An event of a provider with holes, and the frame LiteLLM makes of it, with the same holes."""

    head: bytes
    holes: tuple[_Hole, ...]
    same: tuple[tuple[int, int], ...]
    made: tuple[bytes | int, ...]
    trusted: bool = False
    is_known: bool = False
    latest: list[bytes] = field(default_factory=list[bytes])
    outline: _Outline | None = None
    kept: tuple[list[bytes], ...] = ()
    _outlines: int = 0

    def __post_init__(self) -> None:
        """Keep nothing of any hole yet."""
        self.kept = tuple([list[bytes]() for _ in self.holes])

    def match(self, block: bytes) -> list[bytes] | None:
        """Return what fills the holes; None if the event differs elsewhere."""
        if not block.startswith(self.head):
            return None
        at = len(self.head)
        found: list[bytes] = []
        for hole in self.holes:
            value = _PATTERNS[hole.name].match(block, at)
            if value is None or not block.startswith(hole.after, value.end()):
                return None
            found.append(value.group())
            at = value.end() + len(hole.after)
        if at != len(block) or any(found[one] != found[other] for one, other in self.same):
            return None
        return found if block.isascii() or _is_utf8(block) else None

    def render(self, found: list[bytes]) -> bytes:
        """Return the frame that LiteLLM would make."""
        return b"".join([part if isinstance(part, bytes) else found[part] for part in self.made])

    def make_outline(self, separator: bytes) -> None:
        """Make the next events with the counts of the latest cheaper, unless that was done too often."""
        if self._outlines == MAX_OUTLINES or self.same:
            return
        self._outlines += 1
        between, left = [self.head], list[int]()
        for at, hole in enumerate(self.holes):
            if hole.name in COUNTS:
                between[-1] += self.latest[at] + hole.after
            else:
                left.append(at)
                between.append(hole.after)
        between[-1] += separator
        patterns = [_PATTERNS[self.holes[at].name].fullmatch for at in left]
        order = [left.index(part) for part in self.made if part in left]
        filled = [
            b"%b"
            if part in left
            else self.latest[part]
            if isinstance(part, int)
            else part.replace(b"%", b"%%")
            for part in self.made
        ]
        self.outline = _Outline(
            head=between[0],
            left=tuple(zip(patterns, between[1:], strict=True)),
            numbers=tuple(left),
            latest=self.latest.copy(),
            frame=b"".join(filled),
            order=() if order == [*range(len(left))] else tuple(order),
        )

    def keep(self, found: list[bytes]) -> None:
        """Keep what fills an event's holes."""
        self.latest = found
        for values, value in zip(self.kept, found, strict=True):
            values.append(value)

    def keep_alike(self, outline: _Outline, found: list[bytes]) -> None:
        """Keep what fills the holes of events."""
        size = len(outline.numbers)
        self.latest = outline.latest
        for at, hole in enumerate(outline.numbers):
            self.kept[hole].extend(found[at::size])
            outline.latest[hole] = found[at - size]

    def merged(self) -> bytes:
        """Return one event with all that was kept: texts joined, and the last of anything else."""
        parts = [self.head]
        for hole, values, latest in zip(self.holes, self.kept, self.latest, strict=True):
            parts += [b"".join(values) if hole.name in TEXTS else latest, hole.after]
            values.clear()
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class KnownTemplate:
    """A template that was confirmed in a stream, for streams whose events differ in their id.

    Attributes:
        before: The bytes of an event before the id.
        after: The bytes from the id to the first hole.
        made: The bytes of a frame up to the id, and from there to the first hole.
        template: The rest of it, without a text.
    """

    before: bytes
    after: bytes
    made: tuple[bytes, bytes]
    template: FrameTemplate

    def template_for(self, block: bytes) -> FrameTemplate | None:
        """Return the template for the stream of an event; None if the event does not fit."""
        end = block.find(b'"', len(self.before))
        stream_id = block[len(self.before) : end]
        if not block.startswith(self.before) or end < 0 or b"\\" in stream_id:
            return None
        head, (before, after) = b"".join((self.before, stream_id, self.after)), self.made
        made = (b"".join((before, stream_id, after)), *self.template.made[1:])
        found = FrameTemplate(
            head, self.template.holes, self.template.same, made, trusted=True, is_known=True
        )
        latest = found.match(block)
        if latest is None:
            return None
        found.latest = latest
        return found


def know(template: FrameTemplate) -> KnownTemplate | None:
    """Return a confirmed template for other streams; None if its id stands not once before the first hole."""
    stated, made = _ID.search(template.head), template.made[0]
    if stated is None or not isinstance(made, bytes):
        return None
    stream_id, (start, end) = stated["id"], stated.span("id")
    rest = [*(hole.after for hole in template.holes), *template.made[1:]]
    others = [one for one in rest if isinstance(one, bytes)]
    if (
        template.head.count(stream_id) != 1
        or made.count(stream_id) != 1
        or any(stream_id in one for one in others)
    ):
        return None
    before, _, after = made.partition(stream_id)
    holes = tuple(replace(hole, value="") for hole in template.holes)  # no text outlives its stream
    kept = FrameTemplate(b"", holes, template.same, template.made)
    return KnownTemplate(template.head[:start], template.head[end:], (before, after), kept)


class FrameTranslation:
    """The templates of one stream."""

    def __init__(
        self, *, sees_repeats: bool, known: list[KnownTemplate] | None = None, recalls: bool = False
    ) -> None:
        """Create it without templates.

        Args:
            sees_repeats: LiteLLM gets every event whose text is that of the event before.
            known: Templates of earlier streams of the same form; those of this one are added.
            recalls: The first event that is given may be translated by one of those.
        """
        self._templates: list[FrameTemplate] = []
        self._known = known
        self._sees_repeats = sees_repeats
        self._pending_bytes = 0
        self._merging: FrameTemplate | None = None
        self.trusts = recalls and bool(known)

    @property
    def is_full(self) -> bool:
        """Whether LiteLLM should get what it has not seen."""
        return self._pending_bytes > MAX_PENDING_BYTES

    def observe(self, block: bytes | None, made: bytes) -> None:
        """Learn from an event and the frame that LiteLLM made of it; None for anything else."""
        for template in self._templates if block is not None else ():
            found = template.match(block) if block is not None else None
            if found is not None:
                template.latest = found
                template.trusted = _is_same_data(template.render(found), made)
                if not template.trusted:
                    self._templates.remove(template)
                elif not template.is_known:
                    self._note_known(template)
                self.trusts = any(one.trusted for one in self._templates)
                return
        for template in self._templates:
            template.trusted = False
        form = _form_of(block) if block is not None else None
        learned = (self._confirm(block, made) or _learn(form, made)) if block is not None and form else None
        self.trusts = learned is not None and learned.trusted
        if learned is not None:
            self._templates = [learned, *self._templates[: MAX_TEMPLATES - 1]]

    def _confirm(self, block: bytes, made: bytes) -> FrameTemplate | None:
        """Return the template of an earlier stream, if it makes the same frame of this event."""
        for template in self._recall(block):
            if _is_same_data(template.render(template.latest), made):
                return template
        return None

    def _recall(self, block: bytes) -> list[FrameTemplate]:
        """Return the templates of earlier streams that fit an event."""
        made = [known.template_for(block) for known in self._known or ()]
        return [one for one in made if one is not None]

    def _note_known(self, template: FrameTemplate) -> None:
        template.is_known = True
        known = know(template) if self._known is not None else None
        if known is not None and self._known is not None:
            self._known[:] = [known, *self._known[: MAX_KNOWN - 1]]

    def translate_alike(self, data: bytes) -> bytes | None:
        """Return the frames for whole events like the last one, and keep their texts; None for others."""
        template = self._merging
        outline = template.outline if template is not None else None
        if outline is None or template is None or self.is_full:
            return None
        found = outline.match(data)
        if not found or (self._sees_repeats and _has_repeat(template, outline, found)):
            return None
        self._pending_bytes += len(data)
        template.keep_alike(outline, found)
        return outline.render(found)

    def translate(self, block: bytes, separator: bytes = b"\n\n") -> bytes | None:
        """Return the frame for an event, and keep its texts; None if LiteLLM must translate it."""
        alike = self.translate_alike(block + separator)
        if alike is not None:
            return alike
        merging = self._merging
        self._templates = self._templates or self._recall(block)[:1]
        for template in self._templates:
            found = template.match(block) if template.trusted else None
            if found is None:
                continue
            if (merging is not None and template is not merging) or self._is_repeat(template, found):
                return None  # LiteLLM must see the texts in their order
            self._merging = template
            template.keep(found)
            self._pending_bytes += len(block)
            template.make_outline(separator)
            return template.render(found)
        return None

    def _is_repeat(self, template: FrameTemplate, found: list[bytes]) -> bool:
        is_same = self._sees_repeats and found == template.latest
        return is_same and max(map(len, found)) > MAX_REPEATED_CHARS

    def take_merged(self) -> bytes | None:
        """Return the event for LiteLLM that stands for those it has not seen; None if it has seen all."""
        merging, self._merging, self._pending_bytes = self._merging, None, 0
        return merging.merged() if merging is not None else None


def _has_repeat(template: FrameTemplate, outline: _Outline, found: list[bytes]) -> bool:
    """Whether an event may have the texts of the one before."""
    size = len(outline.numbers)
    values = [*(template.latest[hole] for hole in outline.numbers), *found]
    return any(
        values[at : at + size] == values[at + size : at + 2 * size] for at in range(0, len(found), size)
    )


def _learn(form: tuple[bytes, tuple[_Hole, ...]], made: bytes) -> FrameTemplate | None:
    """Return the template of an event; None if its frame does not follow from it in a plain way."""
    head, holes = form
    texts = {at for at, hole in enumerate(holes) if hole.name in TEXTS}
    frame = _data_of(made)
    if not frame or frame.get("usage"):
        return None
    used = set[int]()
    marked = b"data: " + encode(_with_marks("", frame, holes, used)) + b"\n\n"
    groups = [[at for at, hole in enumerate(holes) if _is_alike(hole, holes[first])] for first in used]
    if not texts <= {at for group in groups for at in group}:
        return None
    same = tuple((group[0], other) for group in groups for other in group[1:])
    return FrameTemplate(head, holes, same, _parts_of(marked, holes))


def _is_alike(one: _Hole, other: _Hole) -> bool:
    """Whether two values are always the same: a text may stand in an event under two names."""
    return one.value == other.value and (one.name == other.name or one.name not in COUNTS)


def _parts_of(marked: bytes, holes: tuple[_Hole, ...]) -> tuple[bytes | int, ...]:
    """Return a frame's bytes between marks, and the marks' numbers; texts keep their quotation marks."""
    parts: list[bytes | int] = []
    for at, part in enumerate(_MARKED.split(marked)):
        if at % 2 == 0:
            parts.append(part)
            continue
        is_text = isinstance(holes[int(part)].value, str)
        parts += [b'"', int(part), b'"'] if is_text else [int(part)]
    return tuple(parts)


def _form_of(block: bytes) -> tuple[bytes, tuple[_Hole, ...]] | None:
    """Return the bytes before the first hole, and the holes; None without a text, or with too many."""
    if _TEXT_BEGIN.search(block) is None:
        return None
    found: list[tuple[str, str | int, int, int]] = []
    for hit in _HOLE.finditer(block):
        name, kind = hit["name"].decode(), "number" if hit["number"] else "text"
        value = _value(hit[kind], kind)
        if value is not None and (kind == "number") == (name in COUNTS) and (value or name in COUNTS):
            found.append((name, value, *hit.span(kind)))
    if len(found) > MAX_HOLES or not any(name in TEXTS for name, *_ in found):
        return None
    ends = [start for _, _, start, _ in found[1:]] + [len(block)]
    holes = [
        _Hole(name, value, block[end:until])
        for (name, value, _, end), until in zip(found, ends, strict=False)
    ]
    return block[: found[0][2]], tuple(holes)


def _value(raw: bytes, kind: str) -> str | int | None:
    try:
        value: str | int = json.loads(raw if kind == "number" else b'"' + raw + b'"')
    except ValueError:
        return None
    return value


def _with_marks(name: str, value: object, holes: tuple[_Hole, ...], used: set[int]) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    """Return a frame with a mark for each value that an event's hole has; add their numbers to `used`."""
    if is_object(value):
        return {key: _with_marks(key, one, holes, used) for key, one in value.items()}
    if is_array(value):
        return [_with_marks("", one, holes, used) for one in value]
    wanted = str if name in TEXTS or name in PADDING else int if name in COUNTS else None
    if type(value) is wanted and value != "":
        for at, hole in enumerate(holes):
            if hole.value == value and (wanted is str or hole.name == name):
                used.add(at)
                return f"{_MARK}-{at}"
    return value


def _data_of(frame: bytes) -> Json:
    """Return the data of a single event; empty for anything else."""
    return read_object(frame[6:]) if frame.startswith(b"data: {") and frame.endswith(b"\n\n") else {}


def _is_same_data(one: bytes, other: bytes) -> bool:
    data = _data_of(one)
    return bool(data) and (one == other or data == _data_of(other))


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
