"""A multipart form, read as it arrives: text fields into memory, files onto the disk.

Invariants: a boundary, a part's head and its names have one reading, or the form is rejected; what a part
may be is known before its bytes are kept; fields, parts and heads are bounded; nothing is decoded but names.
Source: RFC 7578; RFC 2046, 5.1; for names in quotes also WHATWG's form submission, which writes `%22`.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError

from llm_proxy.dialects.form import Form
from llm_proxy.dialects.request.validators import missing, shown_name
from llm_proxy.edge.request import ClientDisconnected, Receive
from llm_proxy.endpoints import FilePart
from llm_proxy.errors import BadRequest, BodyTooLarge, UnsupportedMediaType
from llm_proxy.uploads import BLOCK_BYTES, HEAD_BYTES, UnnamedFile, UploadedFile, Uploads

MAX_PARTS = 128
MAX_FIELD_BYTES = 2**20
"""Of all text fields together."""
MAX_PART_HEADERS, MAX_PART_HEADER_BYTES = 8, 4096
_MAX_FILENAME_CHARS = 100
_FORM = b"multipart/form-data"
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[^"\\\r\n\0]|\\[^\r\n\0])*"'
_PARAMETER = re.compile(rb"[ \t]*;[ \t]*(%b)=(%b|%b)" % (_TOKEN, _TOKEN, _QUOTED))
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_MEDIA_TYPE = re.compile(rb"(%b/%b)[ \t]*(?:;.*)?" % (_TOKEN, _TOKEN))
_PLAIN_ENCODINGS = frozenset({b"7bit", b"8bit", b"binary"})
_UNSAFE = re.compile(r"[^0-9A-Za-z._-]")

logging.getLogger("python_multipart").disabled = True  # its log lines repeat what callers sent


def is_json(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request states that its body is JSON."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    return kind == b"application/json"


def form_boundary(headers: Mapping[bytes, bytes]) -> bytes:
    """Returns the boundary of a form; raises `UnsupportedMediaType`, or `BadRequest` where it states none."""
    kind = headers.get(b"content-type", b"")
    if kind.partition(b";")[0].strip().lower() != _FORM:
        raise UnsupportedMediaType("The request's `Content-Type` must be `multipart/form-data`.")
    if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
        raise UnsupportedMediaType("A form's `Content-Encoding` must be identity; compress the file itself.")
    boundary = _parameters(kind[kind.index(b";") :] if b";" in kind else b"", "Content-Type").get(b"boundary")
    if boundary is None or _BOUNDARY.fullmatch(boundary) is None:
        raise _invalid("the `Content-Type` states no valid boundary.")
    return boundary


async def read_form(
    receive: Receive,
    headers: Mapping[bytes, bytes],
    takes: tuple[FilePart, ...],
    uploads: Uploads,
    *,
    max_bytes: int,
    on_progress: Callable[[int], None],
) -> Form:
    """Returns the form of a request.

    Args:
        receive: ASGI's.
        headers: Of the request.
        takes: The files that the endpoint takes.
        uploads: Where they are kept.
        max_bytes: The most bytes of the body.
        on_progress: Called with the bytes received so far.

    Raises:
        BadRequest: It is no such form, naming the part at fault.
        BodyTooLarge: More than `max_bytes`, by `Content-Length` before anything is read.
        UnsupportedMediaType: Another body, or one that is compressed.
        Overloaded: There is no room for its files.
        ClientDisconnected: The client disconnected before its end.
    """
    boundary = form_boundary(headers)
    length = headers.get(b"content-length")
    if length is not None and length.isdigit():
        if int(length) > max_bytes:
            raise _too_large(max_bytes)
        uploads.expect(int(length))
    form = _FormReader(boundary, takes, uploads)
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        on_progress(size)
        await form.feed(part)
    return form.end()


@dataclass(slots=True)
class _OpenFile:
    name: str
    filename: str
    content_type: str
    stored: UnnamedFile
    size_bytes: int = 0
    head: bytearray = field(default_factory=bytearray)
    pending: bytearray = field(default_factory=bytearray)


class _FormReader:
    """The parts of one form as the parser finds them."""

    def __init__(self, boundary: bytes, takes: tuple[FilePart, ...], uploads: Uploads) -> None:
        self._takes = {one.name: one for one in takes}
        self._uploads = uploads
        self._head: dict[bytes, bytes] = {}
        self._field, self._value = bytearray(), bytearray()
        self._text: bytearray | None = None
        self._name = ""
        self._pending_bytes = self._parts = self._text_bytes = 0
        self._ended = False
        self._fields: list[tuple[str, str]] = []
        self._files: list[_OpenFile] = []
        self._file: _OpenFile | None = None
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_field,
                "on_header_value": self._on_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_body,
                "on_part_data": self._on_data,
                "on_part_end": self._end_part,
                "on_end": self._end_form,
            },
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_PART_HEADER_BYTES,
        )

    async def feed(self, data: bytes) -> None:
        """Takes some of the body; raises `BadRequest`, `BodyTooLarge` or `Overloaded`."""
        try:
            self._parser.write(data)
        except FormParserError:
            raise _invalid("it is not `multipart/form-data` with the boundary of its head.") from None
        if self._pending_bytes >= BLOCK_BYTES or (self._pending_bytes and self._ended):
            self._pending_bytes = 0
            for file in self._files:
                if file.pending:
                    data, file.pending = bytes(file.pending), bytearray()
                    await self._uploads.append(file.stored, data)

    def end(self) -> Form:
        """Returns the form; raises `BadRequest` where its end or a required file is missing."""
        if not self._ended:
            raise _invalid("it ends before its last boundary.")
        files = tuple(
            UploadedFile(
                one.name, one.filename, one.content_type, one.size_bytes, bytes(one.head), one.stored
            )
            for one in self._files
        )
        for part in self._takes.values():
            if part.required and not any(one.name in (part.name, f"{part.name}[]") for one in files):
                raise missing(part.name)
        return Form(tuple(self._fields), files, self._text_bytes)

    # Called by the parser

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _invalid(f"it has more than {MAX_PARTS} parts.")
        self._head = {}

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        name, value = bytes(self._field).lower(), bytes(self._value).strip(b" \t")
        self._field.clear()
        self._value.clear()
        if name in self._head:
            raise _invalid(f"a part has two `{shown_name(name.decode('latin-1'))}` headers.")
        if any(byte < 0x20 and byte != 0x09 for byte in value):
            raise _invalid("a part's head has a control character.")
        self._head[name] = value

    def _begin_body(self) -> None:
        name, filename = _disposition(self._head)
        _check_transfer(self._head, name)
        content_type = _content_type(self._head, name)
        if filename is None:
            if name.removesuffix("[]") in self._takes:
                raise BadRequest(
                    f"Invalid '{shown_name(name)}': expected a file, with a filename.",
                    param=shown_name(name),
                    code="invalid_type",
                )
            self._text, self._file = bytearray(), None
            self._name = name
            return
        self._text, self._file = None, self._open_file(name, filename, content_type)

    def _open_file(self, name: str, filename: str, content_type: str) -> "_OpenFile":
        part = self._takes.get(name.removesuffix("[]"))
        if part is None or (name.endswith("[]") and part.max_count == 1):
            shown = shown_name(name)
            raise BadRequest(f"Unknown file: '{shown}'.", param=shown, code="unknown_parameter")
        same = sum(one.name.removesuffix("[]") == part.name for one in self._files)
        if same >= part.max_count:
            why = "given twice." if part.max_count == 1 else f"expected at most {part.max_count} files."
            raise BadRequest(f"Invalid '{part.name}': {why}", param=part.name, code="invalid_value")
        opened = _OpenFile(name, filename, content_type, self._uploads.create())
        self._files.append(opened)
        return opened

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.size_bytes += end - start
            self._file.pending += data[start:end]
            if (missing_bytes := HEAD_BYTES - len(self._file.head)) > 0:
                self._file.head += data[start : min(end, start + missing_bytes)]
            self._pending_bytes += end - start
            return
        self._text_bytes += end - start
        if self._text_bytes > MAX_FIELD_BYTES:
            raise BodyTooLarge(f"The form's text fields are larger than {MAX_FIELD_BYTES} bytes.")
        assert self._text is not None  # noqa: S101 -- its head was read
        self._text += data[start:end]

    def _end_part(self) -> None:
        if self._text is None:
            return
        try:
            self._fields.append((self._name, self._text.decode()))
        except UnicodeDecodeError:
            shown = shown_name(self._name)
            raise BadRequest(
                f"Invalid '{shown}': it is not UTF-8.", param=shown, code="invalid_value"
            ) from None
        self._text = None

    def _end_form(self) -> None:
        self._ended = True


def _disposition(head: Mapping[bytes, bytes]) -> tuple[str, str | None]:
    """Returns the name of a part, and its file's; None for a text field."""
    value = head.get(b"content-disposition")
    if value is None:
        raise _invalid("a part has no `Content-Disposition`.")
    kind, _, _ = value.partition(b";")
    if kind.strip().lower() != b"form-data":
        raise _invalid("a part's `Content-Disposition` is not `form-data`.")
    found = _parameters(value[len(kind) :], "Content-Disposition")
    name = _decode_name(found.get(b"name", b""))
    if not name:
        raise _invalid("a part has no name.")
    if b"name*" in found:
        raise _invalid(f"the part '{shown_name(name)}' has two names.")
    filename = found.get(b"filename")
    if b"filename*" in found:
        filename = found[b"filename*"].rpartition(b"'")[2]
    return name, None if filename is None else _safe_filename(filename, name)


def _parameters(rest: bytes, header: str) -> dict[bytes, bytes]:
    """Returns the parameters of a header's value, unquoted; raises `BadRequest` for any other reading."""
    found: dict[bytes, bytes] = {}
    at, rest = 0, rest.rstrip(b" \t")
    while at < len(rest):
        match = _PARAMETER.match(rest, at)
        if match is None:
            raise _invalid(f"a `{header}` cannot be read.")
        name, value = match[1].lower(), match[2]
        if name in found:
            raise _invalid(f"a `{header}` has a parameter twice.")
        found[name] = re.sub(rb"\\(.)", rb"\1", value[1:-1]) if value.startswith(b'"') else value
        at = match.end()
    return found


def _decode_name(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _invalid("a part's name is not UTF-8.") from None


def _safe_filename(raw: bytes, name: str) -> str:
    """Returns a file's name without a path and without a character that could mean something elsewhere."""
    last = re.split(r"[/\\]", unquote_to_bytes(raw).decode("utf-8", "replace"))[-1]
    stem, dot, suffix = _UNSAFE.sub("_", last).rpartition(".")
    stem, suffix = (stem, suffix) if dot else (suffix, "")
    room = max(_MAX_FILENAME_CHARS - len(suffix) - len(dot), 0)
    safe = f"{stem[:room]}{dot}{suffix}"[:_MAX_FILENAME_CHARS].lstrip(".")
    return safe or name.removesuffix("[]")


def _content_type(head: Mapping[bytes, bytes], name: str) -> str:
    value = head.get(b"content-type")
    if value is None:
        return "application/octet-stream"
    match = _MEDIA_TYPE.fullmatch(value)
    if match is None:
        raise _invalid_part(name, "its `Content-Type` is no media type.")
    kind = match[1].lower()
    if kind.startswith((b"multipart/", b"message/")):
        raise _invalid_part(name, "a part cannot be a multipart itself.")
    return kind.decode("ascii")


def _check_transfer(head: Mapping[bytes, bytes], name: str) -> None:
    """Rejects a part whose bytes are not what they stand for (RFC 7578, 4.7)."""
    encoding = head.get(b"content-transfer-encoding", b"binary").strip().lower()
    if encoding not in _PLAIN_ENCODINGS or b"content-encoding" in head:
        raise _invalid_part(name, "its content is encoded; send the bytes as they are.")


def _invalid(why: str) -> BadRequest:
    return BadRequest(f"The request's form is invalid: {why}", code="invalid_form")


def _invalid_part(name: str, why: str) -> BadRequest:
    shown = shown_name(name)
    return BadRequest(f"Invalid '{shown}': {why}", param=shown, code="invalid_form")


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request's body is larger than {max_bytes} bytes.")
