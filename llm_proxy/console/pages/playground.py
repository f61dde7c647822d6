"""The playground: any model and endpoint, streamed, with admission's explanation of the call and its code.

Invariants: a call goes through the gateway's public port and is admitted, limited and recorded as any; it is
made with the viewer's own virtual key, or with an admin's key of an hour (`playground_keys`); no key is in a
page but on request.
"""

import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated
from urllib.parse import quote

import orjson
from fastapi import APIRouter, Depends
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from llm_proxy.console.access import GLOBAL, AnyViewer, Viewer, require_role
from llm_proxy.console.console import Console
from llm_proxy.console.gateway_api import GatewayRejected, GatewayResponse, MultipartForm
from llm_proxy.console.playground_call import CONVERSATIONS, PATHS, CallFile, PlaygroundCall, PlaygroundForm
from llm_proxy.console.playground_keys import PlaygroundKeys
from llm_proxy.console.playground_turns import parse_turns, text_of_answer, turns_text
from llm_proxy.console.snippets import KEY_VARIABLE, Snippet, shown_body, snippets_of
from llm_proxy.errors import APIError, Forbidden
from llm_proxy.identity.console_sessions import ViewerRole
from llm_proxy.json_access import Json, as_list, as_object, as_objects

ROLES: tuple[ViewerRole, ...] = ("owner", "operator", "tenant", "key")
"""Who may call: a viewer may not make a key."""
_NO_KEY = (
    "The playground makes a key for one hour, and a viewer may not create keys. Sign in with a virtual key"
    " of your own: its limits and budgets then hold for the calls."
)
CHAT_PATH = "/v1/chat/completions"
MAX_SHOWN_BYTES = 2**20
_PASSED_HEADERS = ("content-type", "x-request-id", "retry-after")
_PASSED_PREFIX = "x-llm-proxy-"
Caller = Annotated[Viewer, Depends(require_role(*ROLES))]


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """A model to choose; `paths` serve it, or all of them where that is unknown."""

    name: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlaygroundResult:
    """What a page shows below the form.

    Attributes:
        answer: The answer as it came, cut; None for no call.
        text: Its text in a conversation.
        images: Data URLs of the pictures in the answer.
        audio: A data URL of the answer as audio; empty for none.
        key: The key of this hour, shown on request.
    """

    status: int = 0
    request_id: str = ""
    answer: str | None = None
    text: str = ""
    images: tuple[str, ...] = ()
    audio: str = ""
    explanation: Json | None = None
    snippets: tuple[Snippet, ...] = ()
    request: str = ""
    key: str = field(default="", repr=False)
    error: str = ""
    error_field: str = ""


def router(console: Console) -> APIRouter:
    """Returns the pages' routes."""
    routes, keys = APIRouter(), PlaygroundKeys()

    page = partial(_page, console)

    @routes.get("/playground")
    async def blank(request: Request, viewer: AnyViewer, model: str = "") -> Response:
        if not viewer.may(*ROLES):
            raise Forbidden(_NO_KEY)
        models, problem = await _models(viewer, keys)
        chosen = model or next((one.name for one in models if CHAT_PATH in one.paths), "")
        form = PlaygroundForm(CHAT_PATH, chosen, stream=True)
        return page(request, viewer, models, form, PlaygroundResult(error=problem))

    @routes.post("/playground")
    async def act(request: Request, viewer: Caller) -> Response:
        sent = await request.form()
        form, status, action = await _form_of(sent), 200, str(sent.get("action") or "call")
        try:
            form = replace(form, turns=parse_turns(str(sent.get("turns") or "")))
            result = await _act(viewer, keys, form, action)
            form = replace(form, turns=()) if action == "fresh" else form.with_answer(result.text)
        except APIError as error:
            result = PlaygroundResult(error=error.message, error_field=error.param or "")
            status = error.status
        models, problem = await _models(viewer, keys)
        result = replace(result, error=result.error or problem)
        return page(request, viewer, models, form, result, status)

    @routes.post("/playground/stream")
    async def stream(request: Request, viewer: Caller) -> Response:
        try:
            sent = await request.form()
            turns = parse_turns(str(sent.get("turns") or ""))
            call = replace(await _form_of(sent), turns=turns).call()
            key = await _key(viewer, keys)
            return await _passed_on(viewer, call, key)
        except APIError as error:
            return PlainTextResponse(error.message, error.status)

    return routes


def _page(
    console: Console,
    request: Request,
    viewer: Viewer,
    models: list[OfferedModel],
    form: PlaygroundForm,
    result: PlaygroundResult,
    status: int = 200,
) -> Response:
    return console.render(
        request, viewer, "playground.html", status=status, form=form, result=result, models=models,
        paths=[*PATHS], key_variable=KEY_VARIABLE, has_key=viewer.role != "key",
        turns=turns_text(form.turns), conversations=" ".join(sorted(CONVERSATIONS)),
    )  # fmt: skip


async def _act(viewer: Viewer, keys: PlaygroundKeys, form: PlaygroundForm, action: str) -> PlaygroundResult:
    if action == "fresh":
        return PlaygroundResult()
    if action == "key" and viewer.role != "key":
        return PlaygroundResult(key=(await keys.get(viewer)).text)
    call = form.call()
    if action == "code":
        snippets = snippets_of(call, viewer.api.base_url)
        return PlaygroundResult(snippets=snippets, request=shown_body(call.body))
    key = await _key(viewer, keys)
    if action == "explain":
        path = f"/v1/explain?path={quote(call.path, safe='')}"
        async with viewer.api.stream("POST", path, call.body, key=key) as response:
            found = as_object(orjson.loads(await response.aread()))
        return PlaygroundResult(explanation=found, request=shown_body(call.body))
    async with viewer.api.stream(*_request(call), key=key, form=_multipart(call)) as response:
        return await _result(response)


class _PassedOnResponse(StreamingResponse):
    """An answer of the gateway, passed on; it is closed also if the browser has left before its start."""

    def __init__(
        self, opened: AsyncExitStack, chunks: AsyncIterator[bytes], status: int, headers: dict[str, str]
    ) -> None:
        super().__init__(chunks, status, headers)
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._opened:
            await super().__call__(scope, receive, send)


async def _passed_on(viewer: Viewer, call: PlaygroundCall, key: str | None) -> Response:
    """Returns the gateway's answer as it arrives; the connection ends with the browser's."""
    stack = AsyncExitStack()
    response = await stack.enter_async_context(
        viewer.api.stream(*_request(call), key=key, form=_multipart(call))
    )

    headers = {
        name: value
        for name, value in response.headers.items()
        if name in _PASSED_HEADERS or name.startswith(_PASSED_PREFIX)
    }
    headers["cache-control"] = "no-store"
    return _PassedOnResponse(stack, response.aiter_bytes(), response.status_code, headers)


async def _key(viewer: Viewer, keys: PlaygroundKeys) -> str | None:
    """Returns the key of a call; None for the session's own."""
    return None if viewer.role == "key" else (await keys.get(viewer)).text


def _request(call: PlaygroundCall) -> tuple[str, str, Json | None]:
    return "POST", call.path, None if call.file is not None else call.body


def _multipart(call: PlaygroundCall) -> MultipartForm | None:
    if call.file is None:
        return None
    file = call.file
    return MultipartForm(call.form_fields(), {call.file_field: (file.name, file.data, file.content_type)})


async def _form_of(sent: FormData) -> PlaygroundForm:
    text = {name: value for name, value in sent.items() if isinstance(value, str)}
    upload, file = sent.get("file"), None
    if isinstance(upload, UploadFile) and upload.filename:
        kind = upload.content_type or "application/octet-stream"
        file = CallFile(upload.filename, kind, await upload.read())
    return PlaygroundForm(
        path=text.get("path", ""),
        model=text.get("model", "").strip(),
        system=text.get("system", ""),
        prompt=text.get("prompt", ""),
        max_tokens=text.get("max_tokens", "").strip(),
        temperature=text.get("temperature", "").strip(),
        tools=text.get("tools", "").strip(),
        more=text.get("more", ""),
        stream=text.get("stream") == "on",
        file=file,
    )


async def _models(viewer: Viewer, keys: PlaygroundKeys) -> tuple[list[OfferedModel], str]:
    """Returns the models to choose from, by name, and why there are none; no key is made to list them."""
    try:
        found = await _served(viewer, keys)
    except GatewayRejected as fault:
        return [], f"Which models are served is not known. {fault.message}"
    offered = (
        OfferedModel(str(one["id"]), tuple(as_list(one.get("endpoints"))) or tuple(PATHS))
        for one in found
        if not one.get("wildcard")
    )
    return sorted(offered, key=lambda one: one.name), ""


async def _served(viewer: Viewer, keys: PlaygroundKeys) -> list[Json]:
    if viewer.may(*GLOBAL):
        return as_objects((await viewer.api.get("/admin/models"))["data"])
    if viewer.role == "key":
        return as_objects((await viewer.api.get("/v1/models"))["data"])
    key = keys.find(viewer)
    if key is None:
        return []
    async with viewer.api.stream("GET", "/v1/models", key=key.text) as response:
        return as_objects(as_object(orjson.loads(await response.aread())).get("data"))


async def _result(response: GatewayResponse) -> PlaygroundResult:
    """Returns an answer for a page without scripts; a long one is cut."""
    data, status = bytearray(), response.status_code
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > 16 * MAX_SHOWN_BYTES:
            break
    kind, request_id = response.headers.get("content-type", ""), response.headers.get("x-request-id", "")
    if kind.startswith("audio/"):
        audio = f"data:{kind.partition(';')[0]};base64,{base64.b64encode(data).decode()}"
        return PlaygroundResult(status, request_id, "", audio=audio)
    text = text_of_answer(kind, bytes(data)) if response.is_success else ""
    if kind.startswith("application/json"):
        body = as_object(orjson.loads(data))
        pictures = (one.get("b64_json") for one in as_objects(body.get("data")))
        images = tuple(f"data:image/png;base64,{one}" for one in pictures if isinstance(one, str))
        return PlaygroundResult(status, request_id, shown_body(body), text, images)
    return PlaygroundResult(status, request_id, data[:MAX_SHOWN_BYTES].decode(errors="replace"), text)
