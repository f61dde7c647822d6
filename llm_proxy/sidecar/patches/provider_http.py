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
from llm_proxy.sidecar.event_stream import BOM, MAX_EVENT_BYTES, Event, EventDecoder, EventTooLong
from llm_proxy.sidecar.json_repair import sound_body, sound_frame
from llm_proxy.sidecar.litellm_internals import Theirs
from llm_proxy.sidecar.provider_answers import check
from llm_proxy.sidecar.provider_errors import Failure, failure_in_text

STATED = "_llmp_stated"
MAX_BEFORE_EVENT_BYTES = 2 * MAX_EVENT_BYTES
"""Of a body before its first event ends: comments, and the event with its line ends."""
STREAMED = ("text/event-stream", "application/x-ndjson")


def install() -> None:
    """Patch the client every provider is reached with; before the first call."""
    http = import_module("httpx")
    client, response = http.AsyncClient, http.Response
    send: Callable[..., Any] = client.send
    make: Callable[..., Any] = response.__init__

    def make_with_ascii(self: Theirs, *words: Theirs, headers: Theirs = None, **options: Theirs) -> None:
        make(self, *words, headers=headers and _in_ascii(headers), **options)

    async def send_and_check(self: Theirs, request: Theirs, **options: Theirs) -> Theirs:
        answer = await send(self, request, **options)
        if request.method != "POST" or not call_outcome.is_known():
            return answer
        if answer.status_code != 200:
            answer._content = sound_body(await answer.aread())  # noqa: SLF001 -- there is no other way
            return answer
        return await _first_checked(answer) if options.get("stream") else _whole_checked(answer)

    async def lines(self: Theirs) -> AsyncIterator[str]:
        decoder = EventDecoder()
        async for chunk in self.aiter_bytes():
            for event in decoder.feed(chunk):
                yield _line(event)
        for event in decoder.flush():
            yield _line(event)

    response.__init__ = make_with_ascii
    client.send = send_and_check
    response.aiter_lines = lines


def raise_stated(failure: Failure) -> NoReturn:
    """Raise what a provider stated within a stream, as LiteLLM raises an answer with that status."""
    base = import_module("litellm.llms.base_llm.chat.transformation").BaseLLMException
    answer = _as_answer(failure, import_module("httpx").Request("POST", "https://provider.invalid"))
    error = base(
        status_code=failure.status,
        message=failure.message,
        headers=answer.headers,
        response=answer,
        body=failure.body,
    )
    setattr(error, STATED, True)
    raise error


def _in_ascii(headers: Theirs) -> Theirs:
    """Headers as LiteLLM and httpx can send them on; they fail on others."""
    pairs = list(headers.items() if hasattr(headers, "items") else headers)
    if all(value.isascii() for _, value in pairs):
        return headers
    return [(name, _ascii(value)) for name, value in pairs]


def _ascii(value: str | bytes) -> bytes:
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return text.encode("ascii", "replace")


def _line(event: Event) -> str:
    """An event as the one line that LiteLLM's readers expect; raises the failure it states."""
    failure = failure_in_text(event.data, error_event=event.name == "error")
    if failure is not None:
        raise_stated(failure)
    data = sound_frame(event.data)
    return data if event.plain else f"data: {data}"


async def _first_checked(answer: Theirs) -> Theirs:
    """The answer, or the failure that its first event states; what was read of it can be read again."""
    headers = answer.headers
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in STREAMED or headers.get("content-encoding", "identity") != "identity":
        return answer
    raw = answer.aiter_raw()
    try:
        kept, first, problem = await _first_event(raw)
    except BaseException:
        await answer.aclose()
        raise
    failure = failure_in_text(first.data, error_event=first.name == "error") if first else None
    if failure is not None:
        await answer.aclose()
        return _as_answer(failure, answer.request)

    async def again(chunk_size: int | None = None) -> AsyncIterator[bytes]:  # noqa: ARG001 -- httpx's signature
        yield kept.removeprefix(BOM)  # OpenAI's SDK would take it for a part of the first event
        if problem is not None:
            raise problem
        async for chunk in raw:
            yield chunk

    answer.aiter_raw = again
    return answer


async def _first_event(raw: AsyncIterator[bytes]) -> tuple[bytes, Event | None, Exception | None]:
    """A body's bytes up to its first event, the event, and what broke the body before it."""
    decoder, kept, kept_bytes = EventDecoder(), list[bytes](), 0
    try:
        async for chunk in raw:
            kept.append(chunk)
            kept_bytes += len(chunk)
            if kept_bytes > MAX_BEFORE_EVENT_BYTES:
                raise EventTooLong(f"no event in {MAX_BEFORE_EVENT_BYTES} bytes")  # noqa: TRY301 -- as the decoder does
            found = decoder.feed(chunk)
            if found:
                return b"".join(kept), found[0], None
        found = decoder.flush()
    except Exception as problem:  # noqa: BLE001 -- whoever reads the body is to hear of it, whatever it is
        return b"".join(kept), None, problem
    return b"".join(kept), found[0] if found else None, None


def _whole_checked(answer: Theirs) -> Theirs:
    checked = check(str(answer.request.url.path), answer.content, answer.request.content)
    call_outcome.answered(checked.said, counted=checked.counted)
    for choice in map(as_object, as_list(as_object(checked.said).get("choices"))):
        call_outcome.finished(openai_repair.telling_reason(choice.get("finish_reason")))
    if checked.failure is not None:
        return _as_answer(checked.failure, answer.request)
    if checked.body is not None:
        answer._content = checked.body  # noqa: SLF001 -- there is no other way to change what was read
    return answer


def _as_answer(failure: Failure, request: Theirs) -> Theirs:
    """The answer a provider would have given that states its failures by status."""
    headers = {"content-type": "application/json"}
    if failure.retry_after is not None and failure.retry_after.isprintable():
        headers["retry-after"] = failure.retry_after
    raw = json.dumps(failure.body).encode()
    return import_module("httpx").Response(failure.status, headers=headers, content=raw, request=request)
