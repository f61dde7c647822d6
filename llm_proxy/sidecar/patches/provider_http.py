"""Checks every provider's HTTP response in the HTTP client, before LiteLLM's or OpenAI's code parses it.

Invariants: a failure stated with status 200, in a body or in a stream's first event, becomes a response with
the stated status, so that retries and fallbacks apply; streams are split into events here only; a complete
answer in OpenAI's format is repaired and its original kept for the caller; all JSON is valid.
"""

import json
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from typing import Any, NoReturn

from llm_proxy.json_access import as_list, as_object
from llm_proxy.sidecar import call_outcome, openai_repair
from llm_proxy.sidecar.event_stream import BOM, MAX_EVENT_BYTES, EventDecoder, EventTooLong, ServerSentEvent
from llm_proxy.sidecar.json_repair import repair_body, repair_frame_data
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.provider_answers import check_response
from llm_proxy.sidecar.provider_errors import StatedFailure, find_failure_in_text

STATED_FAILURE_MARK = "_llmp_stated"
MAX_BYTES_BEFORE_EVENT = 2 * MAX_EVENT_BYTES
"""Of a body before its first event ends: comments, and the event with its line ends."""
STREAM_CONTENT_TYPES = ("text/event-stream", "application/x-ndjson")


def install() -> None:
    """Patch the client every provider is reached with; before the first call."""
    http = import_module("httpx")
    client, response = http.AsyncClient, http.Response
    send: Callable[..., Any] = client.send
    make: Callable[..., Any] = response.__init__

    def make_with_ascii(self: Untyped, *words: Untyped, headers: Untyped = None, **options: Untyped) -> None:
        make(self, *words, headers=headers and _in_ascii(headers), **options)

    async def send_and_check(self: Untyped, request: Untyped, **options: Untyped) -> Untyped:
        answer = await send(self, request, **options)
        if request.method != "POST" or not call_outcome.in_call():
            return answer
        if answer.status_code != 200:
            answer._content = repair_body(await answer.aread())  # noqa: SLF001 -- there is no other way
            return answer
        return await _check_first_event(answer) if options.get("stream") else _check_complete(answer)

    async def lines(self: Untyped) -> AsyncIterator[str]:
        decoder = EventDecoder()
        async for chunk in self.aiter_bytes():
            for event in decoder.feed(chunk):
                yield _event_line(event)
        for event in decoder.flush():
            yield _event_line(event)

    response.__init__ = make_with_ascii
    client.send = send_and_check
    response.aiter_lines = lines


def raise_stated_failure(failure: StatedFailure) -> NoReturn:
    """Raise what a provider stated within a stream, as LiteLLM raises an answer with that status."""
    base = import_module("litellm.llms.base_llm.chat.transformation").BaseLLMException
    answer = _failure_response(failure, import_module("httpx").Request("POST", "https://provider.invalid"))
    error = base(
        status_code=failure.status,
        message=failure.message,
        headers=answer.headers,
        response=answer,
        body=failure.body,
    )
    setattr(error, STATED_FAILURE_MARK, True)
    raise error


def _in_ascii(headers: Untyped) -> Untyped:
    """Headers as LiteLLM and httpx can send them on; they fail on others."""
    pairs = list(headers.items() if hasattr(headers, "items") else headers)
    if all(value.isascii() for _, value in pairs):
        return headers
    return [(name, _ascii(value)) for name, value in pairs]


def _ascii(value: str | bytes) -> bytes:
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return text.encode("ascii", "replace")


def _event_line(event: ServerSentEvent) -> str:
    """An event as the one line that LiteLLM's readers expect; raises the failure it states."""
    failure = find_failure_in_text(event.data, error_event=event.name == "error")
    if failure is not None:
        raise_stated_failure(failure)
    data = repair_frame_data(event.data)
    return data if event.is_json_line else f"data: {data}"


async def _check_first_event(answer: Untyped) -> Untyped:
    """The answer, or the failure that its first event states; what was read of it can be read again."""
    headers = answer.headers
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in STREAM_CONTENT_TYPES or headers.get("content-encoding", "identity") != "identity":
        return answer
    raw = answer.aiter_raw()
    try:
        kept, first, problem = await _read_first_event(raw)
    except BaseException:
        await answer.aclose()
        raise
    failure = find_failure_in_text(first.data, error_event=first.name == "error") if first else None
    if failure is not None:
        await answer.aclose()
        return _failure_response(failure, answer.request)

    async def again(chunk_size: int | None = None) -> AsyncIterator[bytes]:  # noqa: ARG001 -- httpx's signature
        yield kept.removeprefix(BOM)  # OpenAI's SDK would take it for a part of the first event
        if problem is not None:
            raise problem
        async for chunk in raw:
            yield chunk

    answer.aiter_raw = again
    return answer


async def _read_first_event(
    raw: AsyncIterator[bytes],
) -> tuple[bytes, ServerSentEvent | None, Exception | None]:
    """A body's bytes up to its first event, the event, and what broke the body before it."""
    decoder, kept, kept_bytes = EventDecoder(), list[bytes](), 0
    try:
        async for chunk in raw:
            kept.append(chunk)
            kept_bytes += len(chunk)
            if kept_bytes > MAX_BYTES_BEFORE_EVENT:
                raise EventTooLong(f"no event in {MAX_BYTES_BEFORE_EVENT} bytes")  # noqa: TRY301 -- as the decoder does
            found = decoder.feed(chunk)
            if found:
                return b"".join(kept), found[0], None
        found = decoder.flush()
    except Exception as problem:  # noqa: BLE001 -- whoever reads the body is to hear of it, whatever it is
        return b"".join(kept), None, problem
    return b"".join(kept), found[0] if found else None, None


def _check_complete(answer: Untyped) -> Untyped:
    checked = check_response(str(answer.request.url.path), answer.content, answer.request.content)
    call_outcome.record_response(checked.original, counted=checked.states_tokens)
    for choice in map(as_object, as_list(as_object(checked.original).get("choices"))):
        call_outcome.record_finish_reason(
            openai_repair.informative_finish_reason(choice.get("finish_reason"))
        )
    if checked.failure is not None:
        return _failure_response(checked.failure, answer.request)
    if checked.body is not None:
        answer._content = checked.body  # noqa: SLF001 -- there is no other way to change what was read
    return answer


def _failure_response(failure: StatedFailure, request: Untyped) -> Untyped:
    """The answer a provider would have given that states its failures by status."""
    headers = {"content-type": "application/json"}
    if failure.retry_after is not None and failure.retry_after.isprintable():
        headers["retry-after"] = failure.retry_after
    raw = json.dumps(failure.body).encode()
    return import_module("httpx").Response(failure.status, headers=headers, content=raw, request=request)
