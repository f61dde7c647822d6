"""Multipart forms of the gateway, and the calls that bring them to a provider: files stay on the disk.

Invariants: a file is read from the disk in pieces, on its way in and on its way out; what LiteLLM sees of the
form is its fields, and a file only where it has to translate one. Source: starlette's form parser.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from llm_proxy.json_access import Json, is_array, is_object
from llm_proxy.sidecar.litellm_internals import Untyped

MAX_FILES, MAX_FIELDS = 64, 256
MAX_FIELD_BYTES = 2 * 2**20
"""Above the gateway's own bounds, which hold before."""


class NamedFile:
    """An open file with the name it was uploaded under, as LiteLLM and OpenAI's client read files.

    Attributes:
        name: The name.
    """

    def __init__(self, name: str, opened: Untyped) -> None:
        self.name = name
        self._opened = opened

    def __getattr__(self, name: str) -> Untyped:
        return getattr(self._opened, name)


_sent_from_disk: set[str] = set()
"""Operations whose patch is installed; at any other LiteLLM reads files itself, whole."""


def enable_sending_from_disk(*operations: str) -> None:
    """Declare that providers' requests of these operations are made from the disk."""
    _sent_from_disk.update(operations)


class FormFile:
    """A file as LiteLLM's endpoints take one.

    Attributes:
        filename: The name it was uploaded under.
        content_type: Its media type.
        size: None: not known.
    """

    def __init__(self, part: "FilePartOfForm", operation: str) -> None:
        self._is_sent = operation in _sent_from_disk
        self.filename = part.filename
        self.content_type = part.content_type
        self.size = None
        self._part = part

    async def read(self, size: int = -1) -> bytes:
        """Return nothing where the provider's request is made from the disk, else the bytes."""
        return b"" if self._is_sent else self._part.file().read(size)


@dataclass(frozen=True, slots=True)
class FilePartOfForm:
    """One file of a form, spooled to the disk."""

    name: str
    filename: str
    content_type: str
    opened: Untyped

    def file(self) -> NamedFile:
        """Return the file, to be read from its beginning."""
        self.opened.seek(0)
        return NamedFile(self.filename, self.opened)

    def part(self) -> tuple[str, tuple[str, NamedFile, str]]:
        """Return the file as httpx takes it."""
        return self.name, (self.filename, self.file(), self.content_type)


@dataclass(slots=True)
class SentForm:
    """A form, and its provider's answer.

    Attributes:
        operation: The path of the operation below a provider's address, such as `/audio/transcriptions`.
        fields: The caller's fields as JSON: `name[]` as arrays, `name[key]` as objects, texts.
        files: The files.
        answer: The provider's whole answer, once it has come as it is to be passed on.
        document: That answer as the provider sent it, parsed; empty for one that is no object in JSON.
        content_type: The answer's.
        stream: The provider's response whose events are to be passed on; None for a whole answer.
        is_judged: A guardrail sees the text before it is sent.
        masked: The text as guardrails changed it; None if they did not.
    """

    operation: str
    fields: Json
    files: tuple[FilePartOfForm, ...]
    answer: bytes | None = None
    document: Json = field(default_factory=dict[str, Any])
    content_type: str = ""
    stream: Untyped = None
    is_judged: bool = False
    masked: str | None = None

    @property
    def streams(self) -> bool:
        """Whether the caller requested events."""
        return self.fields.get("stream") == "true"

    def forget_answer(self) -> None:
        """Start another attempt."""
        self.answer, self.document, self.content_type, self.stream = None, {}, "", None


CONTROLS = frozenset({"model", "metadata", "disable_fallbacks"})
"""Fields of the gateway's for LiteLLM."""
_BOOLEANS = {"true": True, "false": False}
"""Of a form; LiteLLM heeds `disable_fallbacks` only as a boolean."""


@asynccontextmanager
async def read_form(request: Untyped, operation: str) -> AsyncGenerator[SentForm]:
    """Read the form of a starlette request; its files are deleted as the block is left."""
    parsed = await request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
    try:
        fields: Json = {}
        files: list[FilePartOfForm] = []
        for name, value in parsed.multi_items():
            if not isinstance(value, str):
                kind = value.content_type or "application/octet-stream"
                files.append(FilePartOfForm(name, value.filename or "file", kind, value.file))
            elif name not in CONTROLS:
                _add(fields, name, value)
        request._form = type(parsed)(  # noqa: SLF001 -- what LiteLLM reads again
            (name, _BOOLEANS.get(value, value) if name == "disable_fallbacks" else value)
            for name, value in parsed.multi_items()
            if name != "stream"
        )
        yield SentForm(operation, fields, tuple(files))
    finally:
        await parsed.close()


def _add(fields: dict[str, Any], name: str, value: str) -> None:
    base, *keys = name.replace("]", "").split("[")
    is_array = keys[-1:] == [""]
    *outer, last = [base, *keys[: len(keys) - is_array]]
    for key in outer:
        fields = fields.setdefault(key, {})
    if is_array:
        fields.setdefault(last, []).append(value)
    else:
        fields[last] = value


def named_texts(fields: Json, outer: str = "") -> dict[str, Untyped]:
    """Return the fields of a form as httpx takes them: under the names they were sent by."""
    found: dict[str, Untyped] = {}
    for key, value in fields.items():
        name = f"{outer}[{key}]" if outer else key
        if is_object(value):
            found |= named_texts(value, name)
        else:
            found[f"{name}[]" if is_array(value) else name] = value
    return found
