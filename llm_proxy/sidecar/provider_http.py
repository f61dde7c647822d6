"""Providers' HTTP answers, checked where they come in, before any reader of LiteLLM's or OpenAI's sees them.

Invariants: a failure stated with status 200, in a body or as a stream's first event, is an answer with the
status it states, so that retries and fallbacks act on it; streams are cut into events in one place; a whole
answer on OpenAI's wire is repaired, and what it said is kept for the caller.
"""

import json
import re
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from typing import Any, NoReturn

from llm_proxy.sidecar import openai_wire, outcome
from llm_proxy.sidecar.event_stream import BOM, Event, EventDecoder
from llm_proxy.sidecar.provider_answers import check
from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.shapes import items, mapping
from llm_proxy.sidecar.stated_failures import Failure, failure_in_text

STATED = "_llmp_stated"
CONTROL = re.compile(r"[\x00-\x1f]")
STREAMED = ("text/event-stream", "application/x-ndjson")


def apply() -> None:
    """Patch the client every provider is reached with; before the first call."""
    http = import_module("httpx")
    client, response = http.AsyncClient, http.Response
    send: Callable[..., Any] = client.send

    async def send_and_check(self: Theirs, request: Theirs, **options: Theirs) -> Theirs:
        answer = await send(self, request, **options)
        if request.method != "POST" or answer.status_code != 200 or not outcome.is_known():
            return answer
        return await _first_checked(answer) if options.get("stream") else _whole_checked(answer)

    async def lines(self: Theirs) -> AsyncIterator[str]:
        decoder = EventDecoder()
        async for chunk in self.aiter_bytes():
            for event in decoder.feed(chunk):
                yield _line(event)
        for event in decoder.flush():
            yield _line(event)

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


def _line(event: Event) -> str:
    """An event as the one line that LiteLLM's readers expect; raises the failure it states."""
    failure = failure_in_text(event.data, error_event=event.name == "error")
    if failure is not None:
        raise_stated(failure)
    data = _readable(event.data)
    return data if event.plain else f"data: {data}"


def _readable(data: str) -> str:
    """JSON with control characters in its texts, which JSON forbids and providers send, as JSON."""
    if data.isprintable() or not CONTROL.search(data):
        return data
    try:
        return json.dumps(json.loads(data, strict=False), ensure_ascii=False)
    except ValueError:
        return data


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
    decoder, kept = EventDecoder(), list[bytes]()
    try:
        async for chunk in raw:
            kept.append(chunk)
            found = decoder.feed(chunk)
            if found:
                return b"".join(kept), found[0], None
        found = decoder.flush()
    except Exception as problem:  # noqa: BLE001 -- whoever reads the body is to hear of it, whatever it is
        return b"".join(kept), None, problem
    return b"".join(kept), found[0] if found else None, None


def _whole_checked(answer: Theirs) -> Theirs:
    checked = check(str(answer.request.url.path), answer.content)
    outcome.answered(checked.said, counted=checked.counted)
    for choice in map(mapping, items(mapping(checked.said).get("choices"))):
        outcome.finished(openai_wire.telling_reason(choice.get("finish_reason")))
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
