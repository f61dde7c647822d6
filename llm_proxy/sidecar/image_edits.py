"""An image edit as the gateway sent it: a form with files, or JSON with links.

Invariants: a provider that speaks OpenAI's format gets the caller's fields and files, and no other; any
other provider gets the pictures themselves, read from the form or decoded from `data:` links.
Source: https://platform.openai.com/docs/api-reference/images/createEdit.
"""

import binascii
import json
import re
from base64 import b64decode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from urllib.parse import parse_qs

from llm_proxy.json_access import Json, as_list, as_object, is_object
from llm_proxy.sidecar import litellm_internals
from llm_proxy.sidecar.forms import CONTROLS, FilePartOfForm, FormFile, named_texts, read_form
from llm_proxy.sidecar.litellm_internals import Untyped

OPERATION = "/images/edits"
FORM_TYPE = "multipart/form-data"
DATA_LINK = re.compile(r"data:(image/[a-z0-9.+-]+);base64,(.*)", re.DOTALL)
OF_LITELLM = ("model", "prompt")
"""Fields that LiteLLM sets or a guardrail may have changed."""
REPLACED_HEADERS = frozenset({b"content-type", b"content-length", b"transfer-encoding"})


class UnreadableLink(ValueError):  # noqa: N818 -- named for the state
    """A picture is named by a link that only OpenAI's format takes."""


@dataclass(frozen=True, slots=True)
class SentEdit:
    """One edit.

    Attributes:
        fields: The caller's fields: of a form texts, else JSON, the links among them.
        files: The files of a form.
        is_form: Whether it is one.
    """

    fields: Json
    files: tuple[FilePartOfForm, ...] = ()
    is_form: bool = False

    @property
    def streams(self) -> bool:
        """Whether the caller requested events."""
        return self.fields.get("stream") in (True, "true")

    def upload(self, name: str) -> list[FormFile] | None:
        """Return the files of a field as LiteLLM's endpoint takes them; None without any."""
        return [FormFile(one, OPERATION) for one in self.files if one.name.removesuffix("[]") == name] or None

    def pictures(self) -> dict[str, list[BytesIO]]:
        """Return the pictures by field, for a provider of another format; raises `UnreadableLink`."""
        found: dict[str, list[BytesIO]] = {}
        for one in self.files:
            found.setdefault(one.name.removesuffix("[]"), []).append(_named(one.file().read(), one.filename))
        links = [("image", one) for one in as_list(self.fields.get("images"))]
        links += [
            (name, self.fields[name]) for name in ("mask", "markup") if is_object(self.fields.get(name))
        ]
        for name, link in links:
            found.setdefault(name, []).append(_decoded(as_object(link)))
        return found

    def request(self, request: Untyped) -> Untyped:
        """Return a request of LiteLLM's for a provider of OpenAI's format, with the edit as it was sent.

        Args:
            request: Of httpx, its body read.
        """
        made, own = import_module("httpx").Request, _fields_of(request)
        headers = [pair for pair in request.headers.raw if pair[0].lower() not in REPLACED_HEADERS]
        options: dict[str, Untyped] = {"headers": headers, "extensions": request.extensions}
        if not self.is_form:
            return made(request.method, request.url, json=self.fields | own, **options)
        texts, files = named_texts(self.fields | own), [one.part() for one in self.files]
        return made(request.method, request.url, data=texts, files=files, **options)


def _fields_of(request: Untyped) -> dict[str, str]:
    """Return the fields of LiteLLM's in a form, which is urlencoded where it has no files."""
    kind, content = str(request.headers.get("content-type") or ""), request.content
    if not kind.startswith(FORM_TYPE):
        found = parse_qs(content.decode("latin-1"), keep_blank_values=True)
        return {name: found[name][0] for name in OF_LITELLM if name in found}
    end = b"\r\n--" + kind.partition("boundary=")[2].strip('"').encode()
    fields: dict[str, str] = {}
    for name in OF_LITELLM:
        _, found_it, rest = content.partition(f'name="{name}"\r\n\r\n'.encode())
        if found_it:
            fields[name] = rest.partition(end)[0].decode("utf-8", "replace")
    return fields


def _named(data: bytes, name: str) -> BytesIO:
    opened = BytesIO(data)
    opened.name = name
    return opened


def _decoded(link: Json) -> BytesIO:
    match = DATA_LINK.fullmatch(str(link.get("image_url") or ""))
    if match is None:
        raise UnreadableLink
    try:
        return _named(b64decode(match[2], validate=True), f"image.{match[1].removeprefix('image/')}")
    except binascii.Error:
        raise UnreadableLink from None


@asynccontextmanager
async def read_edit(request: Untyped) -> AsyncGenerator[SentEdit]:
    """Read a starlette request, and show LiteLLM its fields without stream and links; files end after it."""
    if not str(request.headers.get("content-type") or "").startswith(FORM_TYPE):
        body = as_object(json.loads(await request.body()))
        controls = {name: body[name] for name in (*CONTROLS, "cache") if name in body}
        edit = SentEdit({name: value for name, value in body.items() if name not in controls})
        _show(request, edit, controls)
        yield edit
        return
    async with read_form(request, OPERATION) as form:
        edit = SentEdit(form.fields, form.files, is_form=True)
        sent = await request.form()
        controls = {name: sent[name] for name in CONTROLS if name in sent}
        if "metadata" in controls:
            controls["metadata"] = json.loads(controls["metadata"])
        _show(request, edit, controls)
        yield edit


def _show(request: Untyped, edit: SentEdit, controls: Json) -> None:
    """Show LiteLLM the fields that it sees of a request."""
    hidden = ("stream", "images", "mask", "markup")
    seen = {name: value for name, value in edit.fields.items() if name not in hidden}
    litellm_internals.show_fields(request, seen | controls)
