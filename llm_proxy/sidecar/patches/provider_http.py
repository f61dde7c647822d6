"""Checks every provider's HTTP response in the HTTP client, before LiteLLM's or OpenAI's code parses it.

Invariants: a failure stated with status 200, in a body or in a stream's first event, becomes a response with
the stated status, so that retries and fallbacks apply; streams are split into events here only; a complete
answer in OpenAI's format is repaired and its original kept for the caller; all JSON is valid.
"""

import json
from collections.abc import AsyncIterator
from importlib import import_module
from typing import NoReturn

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar import call_outcome, openai_repair
from llm_proxy.sidecar.event_stream import (
    BOM,
    EVENT_STREAM,
    MAX_EVENT_BYTES,
    EventDecoder,
    EventTooLong,
    ServerSentEvent,
    media_type,
)
from llm_proxy.sidecar.json_repair import repair_body, repair_frame_data
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches import provider_connections
from llm_proxy.sidecar.patches.patch import replace
from llm_proxy.sidecar.provider_answers import CheckedResponse, check_response
from llm_proxy.sidecar.provider_errors import StatedFailure, find_failure_in_text
from llm_proxy.sidecar.provider_lines import ProviderLines

STATED_FAILURE_MARK = "_llmp_stated"
MAX_BYTES_BEFORE_EVENT = 2 * MAX_EVENT_BYTES
"""Of a body, up to the end of its first event: comments, the event, line ends."""
STREAM_CONTENT_TYPES = (EVENT_STREAM, "application/x-ndjson")


def install() -> None:
    """Patch httpx, the client LiteLLM reaches every provider with; before the first call."""
    provider_connections.install()
    http = import_module("httpx")
    client, response_class = http.AsyncClient, http.Response

    def make_with_ascii(self: Untyped, *args: Untyped, headers: Untyped = None, **options: Untyped) -> None:
        make(self, *args, headers=headers and in_ascii(headers), **options)

    async def send_and_check(self: Untyped, request: Untyped, **options: Untyped) -> Untyped:
        added, own = call_outcome.added_fields(), call_outcome.provider_body()
        if added or own is not None:
            request = with_fields(request, added, own)
        response = await _answer_at_hand(self, request) or await send(self, request, **options)
        if request.method != "POST" or call_outcome.running() is None:
            return response
        if response.status_code != 200:
            response._content = repair_body(await response.aread())  # noqa: SLF001 -- httpx has no setter
            return response
        return await _check_answer(response, streams=bool(options.get("stream")))

    def lines(self: Untyped) -> ProviderLines:
        found = ProviderLines(self.aiter_bytes(), event_line)
        outcome = call_outcome.running()
        if outcome is not None:
            outcome.lines = found
        return found

    make = replace(response_class, "__init__", make_with_ascii)
    send = replace(client, "send", send_and_check)
    replace(response_class, "aiter_lines", lines)


async def _answer_at_hand(client: Untyped, request: Untyped) -> Untyped:
    """Return the answer that the provider gave to a direct call, or raise what it failed with; else None."""
    direct = call_outcome.direct_attempt()
    if direct is None or request.method != "POST":
        return None
    answer, direct.answer = direct.answer, None
    if answer is None:
        direct.client, direct.request = client, request
        return None
    return await answer(request)


def with_fields(request: Untyped, fields: Json, own: Json | None = None) -> Untyped:
    """Return a provider's request with fields that LiteLLM left out, or its own body, with LiteLLM's model.

    A false or null of LiteLLM's counts as left out. Only an unsigned object in JSON is changed.
    """
    headers = request.headers
    signed = headers.get("authorization", "").startswith("AWS4-")
    if request.method != "POST" or signed or "json" not in headers.get("content-type", ""):
        return request
    try:
        body: object = json.loads(request.content)
    except (ValueError, RecursionError):
        return request
    sent = as_object(body)
    if not sent:
        return request
    missing = {name: value for name, value in fields.items() if sent.get(name, False) in (None, False)}
    changed = {"model": sent.get("model"), **own} if own is not None else sent | missing
    if changed == sent:
        return request
    kept = [pair for pair in headers.raw if pair[0].lower() != b"content-length"]
    raw = json.dumps(changed).encode()
    made = import_module("httpx").Request
    return made(request.method, request.url, headers=kept, content=raw, extensions=request.extensions)


def raise_stated_failure(failure: StatedFailure) -> NoReturn:
    """Raise the exception LiteLLM raises for a response with the failure's status."""
    base = import_module("litellm.llms.base_llm.chat.transformation").BaseLLMException
    response = failure_response(failure, import_module("httpx").Request("POST", "https://provider.invalid"))
    error = base(
        status_code=failure.status,
        message=failure.message,
        headers=response.headers,
        response=response,
        body=failure.body,
    )
    setattr(error, STATED_FAILURE_MARK, True)
    raise error


def in_ascii(headers: Untyped) -> Untyped:
    """Return the headers in ASCII: LiteLLM and httpx fail to send others."""
    pairs = list(headers.items() if hasattr(headers, "items") else headers)
    if all(value.isascii() for _, value in pairs):
        return headers
    return [(name, _ascii(value)) for name, value in pairs]


def _ascii(value: str | bytes) -> bytes:
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return text.encode("ascii", "replace")


def event_line(event: ServerSentEvent) -> str:
    """Return an event as the single line that LiteLLM's parsers expect; raise the failure it states."""
    failure = find_failure_in_text(event.data, error_event=event.name == "error")
    if failure is not None:
        raise_stated_failure(failure)
    data = repair_frame_data(event.data)
    return data if event.is_json_line else f"data: {data}"


async def _check_answer(response: Untyped, *, streams: bool) -> Untyped:
    if call_outcome.image_call() is not None:
        return response  # `image_calls` checks it, without parsing pictures
    return await _check_first_event(response) if streams else _check_complete(response)


async def _check_first_event(response: Untyped) -> Untyped:
    """Return the streamed response with its body unread, or one for the failure its first event states."""
    headers = response.headers
    if (
        media_type(headers.get("content-type", "")) not in STREAM_CONTENT_TYPES
        or headers.get("content-encoding", "identity") != "identity"
    ):
        return response
    raw = response.aiter_raw()
    try:
        read, first, error = await _read_first_event(raw)
    except BaseException:
        await response.aclose()
        raise
    failure = find_failure_in_text(first.data, error_event=first.name == "error") if first else None
    if failure is not None:
        await response.aclose()
        return failure_response(failure, response.request)

    async def aiter_raw(chunk_size: int | None = None) -> AsyncIterator[bytes]:  # noqa: ARG001 -- httpx's signature
        yield read.removeprefix(BOM)  # OpenAI's SDK would parse it as a part of the first event
        if error is not None:
            raise error
        async for chunk in raw:
            yield chunk

    response.aiter_raw = aiter_raw
    return response


async def _read_first_event(
    raw: AsyncIterator[bytes],
) -> tuple[bytes, ServerSentEvent | None, Exception | None]:
    """Return the bytes read, the first event, and the exception that ended the body before it."""
    decoder, chunks, read_bytes = EventDecoder(), list[bytes](), 0
    try:
        async for chunk in raw:
            chunks.append(chunk)
            read_bytes += len(chunk)
            if read_bytes > MAX_BYTES_BEFORE_EVENT:
                raise EventTooLong(f"no event in {MAX_BYTES_BEFORE_EVENT} bytes")  # noqa: TRY301 -- as the decoder does
            events = decoder.feed(chunk)
            if events:
                return b"".join(chunks), events[0], None
        events = decoder.flush()
    except Exception as error:  # noqa: BLE001 -- the reader of the body gets it, whatever it is
        return b"".join(chunks), None, error
    return b"".join(chunks), events[0] if events else None, None


def _check_complete(response: Untyped) -> Untyped:
    """Return the response, repaired, or one for the failure its body states; record the answer."""
    request = response.request
    sent = request.content if hasattr(request, "_content") else b""  # a form with files is not kept
    checked = check_response(str(request.url.path), response.content, sent)
    record_answer(checked)
    if checked.failure is not None:
        return failure_response(checked.failure, request)
    call_outcome.record_native_answer(response.content)
    if checked.repaired is not None:
        response._content = json.dumps(checked.repaired).encode()  # noqa: SLF001 -- httpx has no setter
    return response


def record_answer(checked: CheckedResponse) -> None:
    """Record a provider's complete answer to the running call, and what its finish reasons say."""
    call_outcome.record_response(checked.original, states_tokens=checked.states_tokens)
    for choice in map(as_object, as_list(as_object(checked.original).get("choices"))):
        call_outcome.record_finish_reason(
            openai_repair.informative_finish_reason(choice.get("finish_reason"))
        )


def failure_response(failure: StatedFailure, request: Untyped) -> Untyped:
    """Return the response of a provider that states its failures by status, as this failure."""
    headers = {"content-type": "application/json"}
    if failure.retry_after is not None and failure.retry_after.isprintable():
        headers["retry-after"] = failure.retry_after
    raw = json.dumps(failure.body).encode()
    return import_module("httpx").Response(failure.status, headers=headers, content=raw, request=request)
