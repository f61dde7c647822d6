"""A sidecar's reply as it arrives: one JSON body, or a stream of frames.

Invariants: closed exactly once; closed unread, its connection is closed and the provider's call cancelled;
idle time counts only while waiting for the sidecar, never for the caller; the sidecar's headers never leave
this package. Required nulls that LiteLLM leaves out are put back (OpenAI's CreateChatCompletionResponse).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from time import monotonic
from typing import Protocol

import orjson

from llm_proxy.call_guard import NEVER, CallGuard
from llm_proxy.dialects import BYTES_PER_TOKEN, Call
from llm_proxy.endpoints import BYTE_ENDPOINTS, NATIVE_ENDPOINTS, OPAQUE_ENDPOINTS, TRANSCRIPTS
from llm_proxy.errors import ProviderFailed, UpstreamConnectionLost
from llm_proxy.json_access import Json, as_object, as_objects
from llm_proxy.sse import FrameTooLong
from llm_proxy.token_details import token_count
from llm_proxy.upstream.byte_stream import ByteStream, is_event_stream, media_type
from llm_proxy.upstream.content_stream import ContentStreamFilter
from llm_proxy.upstream.error_mapping import map_stream_error
from llm_proxy.upstream.http_client import HTTPConnection
from llm_proxy.upstream.litellm_protocol import RoutingInfo
from llm_proxy.upstream.media_stream import MediaStreamFilter
from llm_proxy.upstream.native_stream import NativeStreamFilter, ResumedStreamFilter
from llm_proxy.upstream.sealed_ids import SealedIds
from llm_proxy.upstream.stream_filter import StreamFilter, strip_additions
from llm_proxy.upstream.token_usage import (
    COUNTED_FIELD,
    NOTHING_USED,
    TokenUsage,
    UnreadUsage,
    estimate_usage,
    is_zero,
    read_usage,
    strip_usage_additions,
    usage_in_header,
    usage_of_content,
    usage_of_message,
    usage_of_responses,
)

_JSON, _PLAIN = b"application/json", b"text/plain; charset=utf-8"
_TEXT_TYPES = frozenset({b"text/plain", b"text/vtt", b"text/srt", b"application/x-subrip"})
"""Media types of transcripts; with any other a browser might run the text as a page."""
SIDECAR_HEADER = b"x-llmp-attempts"
"""A header that only our sidecars send."""


StreamFrames = StreamFilter | NativeStreamFilter | ContentStreamFilter | MediaStreamFilter | ByteStream
Write = Callable[[bytes], bool]
"""Writes to the caller at once; False: nothing was written, since it has to wait."""


class Reply(Protocol):
    """A reply on its way: either one JSON body or a stream of frames.

    Attributes:
        routing: Who answered.
        stream_filter: The stream's filter; None when the reply is one body.
    """

    routing: RoutingInfo
    stream_filter: StreamFrames | None

    @property
    def content_type(self) -> bytes:
        """The media type of a whole body."""
        ...

    async def json(self) -> tuple[bytes, TokenUsage | UnreadUsage | None]:
        """Returns the whole body without LiteLLM's additions, and its stated usage."""
        ...

    def chunks(self, write: Write | None = None) -> AsyncIterator[bytes]:
        """Yields what may go out as it comes (perhaps no bytes); raises what broke the stream.

        What `write` took is not yielded.
        """
        ...

    def close(self) -> None:
        """Releases the connection; unread, it is closed, and the provider's call cancelled."""
        ...


def add_required_nulls(document: Json) -> bool:
    """Adds the nulls that OpenAI's schema requires; returns whether any was missing."""
    kind, missing = document.get("object"), False
    if kind not in ("chat.completion", "text_completion"):
        return False
    for choice in as_objects(document.get("choices")):
        if "logprobs" not in choice:
            choice["logprobs"], missing = None, True
        message = as_object(choice.get("message"))
        for name in ("content", "refusal") if message else ():
            if name not in message:
                message[name], missing = None, True
    return missing


def connection_lost_error() -> UpstreamConnectionLost:
    """Returns the error of a call whose connection broke; the call may have run, and is not repeated."""
    return UpstreamConnectionLost("The connection to the model backend broke before an answer.")


def raise_if_truncated(frames: StreamFrames, call: Call) -> None:
    """Raises what broke a stream that has ended: the error it states, or its missing end."""
    if frames.error is not None:
        raise map_stream_error(
            frames.error, fields=call.body.keys(), sent_body=lambda: orjson.dumps(call.body)
        )
    if frames.is_malformed or not frames.done:
        raise map_stream_error({"code": "upstream_stream_cut"})


def is_ours(headers: Mapping[bytes, bytes]) -> bool:
    """Whether an answer with these headers (names in lower case) is one of our sidecar's."""
    return SIDECAR_HEADER in headers


def stream_frames(call: Call, headers: Mapping[bytes, bytes], ids: SealedIds | None = None) -> StreamFrames:
    """Returns the filter of a streamed answer, by its call and its headers (names in lower case)."""
    if call.endpoint == "generate_content":
        return ContentStreamFilter()
    if call.endpoint in NATIVE_ENDPOINTS:
        resumes = call.operation is not None and call.operation.resumes
        native = ResumedStreamFilter if resumes else NativeStreamFilter
        return native(call.endpoint, ids, is_free=_is_free(call))
    if call.endpoint in BYTE_ENDPOINTS and not is_event_stream(headers):
        return ByteStream(headers)
    if call.endpoint in OPAQUE_ENDPOINTS:
        return MediaStreamFilter()
    return StreamFilter(
        wants_usage=call.wants_usage,
        prompt_tokens=call.prompt_bytes // BYTES_PER_TOKEN,
        states_zeros=is_ours(headers),
    )


def _is_free(call: Call) -> bool:
    return call.operation is not None and call.operation.is_free


def _document(body: bytes) -> Json:
    """Returns the object that a body is; raises `ProviderFailed` for any other."""
    try:
        document = as_object(orjson.loads(body))
    except orjson.JSONDecodeError:
        document = {}
    if not document:
        raise ProviderFailed("The model's provider failed to answer.")
    return document


def _native_usage(call: Call, document: Json) -> TokenUsage | None:
    if _is_free(call):
        return NOTHING_USED
    if call.endpoint == "responses":
        return read_usage(usage_of_responses(document))
    if call.endpoint == "generate_content":
        return read_usage(usage_of_content(as_object(document.get("usageMetadata"))))
    return read_usage(usage_of_message(as_object(document.get("usage"))))


Send = Callable[[CallGuard, str | None], Awaitable[Reply]]
"""Sends a call, once, under its guard and with its `traceparent`; raises an `APIError` for its error."""


class SidecarReply:
    """A reply of a sidecar; see `Reply`."""

    __slots__ = (
        "_call",
        "_closed",
        "_connection",
        "_guard",
        "_idle_s",
        "_ids",
        "_on_close",
        "routing",
        "stream_filter",
    )  # fmt: skip

    def __init__(
        self,
        connection: HTTPConnection,
        routing: RoutingInfo,
        guard: CallGuard,
        call: Call,
        *,
        idle_s: float,
        on_close: Callable[[], None],
        ids: SealedIds | None = None,
    ) -> None:
        self._ids = ids
        self._connection = connection
        self._guard = guard
        self._idle_s = idle_s
        self._on_close = on_close
        self._closed = False
        self._call = call
        self.routing = routing
        self.stream_filter: StreamFrames | None = None

    @property
    def content_type(self) -> bytes:
        """The media type of a whole body: JSON, or a text of transcriptions."""
        if self._call.endpoint not in OPAQUE_ENDPOINTS:
            return _JSON
        stated = media_type(self._connection.headers)
        if stated in (b"", _JSON):
            return _JSON
        return stated + b"; charset=utf-8" if stated in _TEXT_TYPES else _PLAIN

    def begin_stream(self) -> None:
        """Makes this reply a stream of frames; a transcript that came as a whole stays one body."""
        headers = self._connection.headers
        if self._call.endpoint in TRANSCRIPTS and not is_event_stream(headers):
            return
        self.stream_filter = stream_frames(self._call, headers, self._ids)
        self._guard.phase = "idle"

    async def json(self) -> tuple[bytes, TokenUsage | UnreadUsage | None]:
        """Returns the body without LiteLLM's additions, and its usage; adds an estimate without one."""
        body = await self._read_all()
        if self._call.endpoint in OPAQUE_ENDPOINTS:
            return body, usage_in_header(self._connection.headers)
        document = _document(body)
        if self._call.endpoint in NATIVE_ENDPOINTS:
            if self._ids is not None:
                body = self._ids.in_body(body, document)
            return body, _native_usage(self._call, document)
        return self._complete_chat(body, document)

    async def _read_all(self) -> bytes:
        connection = self._connection
        try:
            body = await connection.read_all()
        except OSError as broken:
            raise connection_lost_error() from broken
        if not connection.is_complete:
            raise connection_lost_error()
        self._guard.idle_deadline = NEVER
        if not body:
            raise ProviderFailed("The model's provider failed to answer.")
        return body

    def _complete_chat(self, body: bytes, document: Json) -> tuple[bytes, TokenUsage | UnreadUsage | None]:
        usage, changed = as_object(document.get("usage")), add_required_nulls(document)
        has_additions = b"provider_specific" in body or "cost" in usage or COUNTED_FIELD in usage
        if not has_additions and token_count(usage.get("prompt_tokens")):
            return orjson.dumps(document) if changed else body, UnreadUsage(usage, document)
        found = self._stated_usage(usage, document)
        if found is None and ("choices" in document or "data" in document):
            document["usage"] = usage = estimate_usage(document, self._call.prompt_bytes // BYTES_PER_TOKEN)
            changed = True
        if has_additions:
            strip_additions(document)
            strip_usage_additions(usage)
            changed = True
        return orjson.dumps(document) if changed else body, found

    def _stated_usage(self, usage: Json, document: Json) -> TokenUsage | None:
        found = read_usage(usage, document)
        if found is not None and "cost" in usage:
            found = found._replace(cost_nano_usd=None)  # the provider's own figure; LiteLLM's is in a header
        if found is not None and is_zero(found) and not is_ours(self._connection.headers):
            return None
        return found

    async def chunks(self, write: Write | None = None) -> AsyncIterator[bytes]:
        """Yields what may go out as it comes (perhaps no bytes); raises what broke the stream.

        With `write`, data goes from the connection to the caller in one go, and wakes no task.
        """
        frames, call, guard, connection = self.stream_filter, self._call, self._guard, self._connection
        assert frames is not None  # noqa: S101 -- only streams come in chunks
        idle_s, unwritten = self._idle_s, b""

        def pass_on() -> bool:
            nonlocal unwritten
            guard.idle_deadline = monotonic() + idle_s
            guard.activity += 1
            out = frames.feed(connection.take_chunks())
            if not out or (write is not None and write(out)):
                return True
            unwritten = out
            return False

        try:
            while True:
                guard.idle_deadline = monotonic() + idle_s
                while not (connection.chunks or connection.is_complete or unwritten):
                    await (connection.wait_for_data() if write is None else connection.pass_on(pass_on))
                guard.idle_deadline = NEVER
                if unwritten:
                    out, unwritten = unwritten, b""
                    yield out
                    continue
                guard.activity += 1
                if not (data := connection.take_chunks()):
                    break
                yield frames.feed(data)
        except (OSError, FrameTooLong):
            frames.is_malformed, guard.idle_deadline = True, NEVER
        if rest := frames.close():
            yield rest
        raise_if_truncated(frames, call)

    def close(self) -> None:
        """Releases the connection; unread, it is closed, and the provider's call cancelled."""
        if not self._closed:
            self._closed = True
            self._on_close()
