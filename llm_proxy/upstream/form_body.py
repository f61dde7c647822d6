"""The multipart body of a call with files, as a sidecar gets it: built anew, its files read from the disk.

Invariants: the boundary is random and the gateway's; names, types and filenames hold no character that ends
a head; the length is known before the first byte. Source: RFC 7578.
"""

import secrets
from collections.abc import AsyncIterator, Iterator

import orjson

from llm_proxy.json_access import Json, is_array, is_object
from llm_proxy.uploads import UploadedFile

_METADATA = "metadata"
"""Ours, for LiteLLM, which reads it as JSON."""


class FormBody:
    """One body; it can be sent again.

    Attributes:
        content_type: Its media type, with the boundary.
        size_bytes: Its length.
    """

    def __init__(self, fields: Json, files: tuple[UploadedFile, ...]) -> None:
        """Takes the fields of the call and its files; numbers, booleans and objects become text."""
        boundary = f"llm-proxy-{secrets.token_hex(16)}"
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._separator = f"--{boundary}\r\n".encode()
        self._last = f"--{boundary}--\r\n".encode()
        self._fields = b"".join(
            self._separator + f'Content-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode()
            for name, text in _texts(fields)
        )
        self._files = tuple((self._separator + _head_of(one), one) for one in files)
        self.size_bytes = len(self._fields) + len(self._last)
        self.size_bytes += sum(len(head) + one.size_bytes + 2 for head, one in self._files)

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yields the body; raises `OSError`."""
        yield self._fields
        for head, file in self._files:
            yield head
            async for block in file.blocks():
                yield block
            yield b"\r\n"
        yield self._last


def _head_of(file: UploadedFile) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{file.name}"; filename="{file.filename}"'
    return f"{disposition}\r\nContent-Type: {file.content_type}\r\n\r\n".encode()


def _texts(fields: Json) -> Iterator[tuple[str, str]]:
    """Yields the fields as a form has them: arrays and objects one by one, the rest as text."""
    for name, value in fields.items():
        if name == _METADATA:
            yield name, orjson.dumps(value).decode()
        else:
            yield from _texts_of(name, value)


def _texts_of(name: str, value: object) -> Iterator[tuple[str, str]]:
    if is_array(value):
        yield from ((f"{name}[]", _text(one)) for one in value)
    elif is_object(value):
        for key, one in value.items():
            yield from _texts_of(f"{name}[{key}]", one)
    elif value is not None:
        yield name, _text(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
