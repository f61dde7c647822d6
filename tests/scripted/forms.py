"""A multipart form as a provider reads it: its fields as a body, and what came as files."""

import hashlib
import re
from typing import Any
from urllib.parse import parse_qsl

from scripted.script import Json

PART = re.compile(rb'Content-Disposition: form-data; name="([^"]*)"(?:; filename="([^"]*)")?(.*)', re.DOTALL)
TYPE = re.compile(rb"Content-Type: ([^\r\n]+)", re.IGNORECASE)


def read(content_type: str, raw: bytes) -> Json:
    """Fields by name, `name[]` as arrays; under `files` the name, type, size and digest of each file."""
    boundary = b"--" + content_type.partition("boundary=")[2].strip('"').encode()
    first, *parts, last = (b"\r\n" + raw).split(b"\r\n" + boundary)
    assert (first, last.strip()) == (b"", b"--"), "the form has no last boundary"
    body: Json = {}
    files: list[Any] = []
    for part in parts:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        found = PART.search(head)
        assert found is not None, head
        name, filename = found[1].decode(), found[2]
        if filename is not None:
            kind = TYPE.search(head)
            files.append(
                {
                    "name": name,
                    "filename": filename.decode(),
                    "type": kind[1].decode() if kind else "",
                    "size": len(content),
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
            )
        elif name.endswith("[]"):
            body.setdefault(name.removesuffix("[]"), []).append(content.decode())
        else:
            assert name not in body, name
            body[name] = content.decode()
    return {**body, "files": files}


def read_file(target: str, raw: bytes) -> Json:
    """A body that is a file itself, with its fields in the query, as Deepgram takes it."""
    file = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    return {**dict(parse_qsl(target.partition("?")[2])), "files": [file]}
