"""A chat stream as Google's: chunks of a response, as events or as the items of one JSON array.

Invariants: any chunking of the same frames gives the same chunks; text leaves as it comes, function calls
whole, in the last chunk of their candidate; the last chunk alone has `finishReason` and usage; a stream that
fails ends in an `error` object in place of it. Source: https://ai.google.dev/api/generate-content.
"""

from typing import Protocol

import orjson

from llm_proxy import sse
from llm_proxy.dialects.dialect import ResponseMeta
from llm_proxy.dialects.gemini.answer import (
    CandidateState,
    candidate_of,
    citations,
    closing_parts,
    ending,
    head,
    is_blocked,
    logprobs_of,
    open_readers,
    response,
    shown_parts,
)
from llm_proxy.dialects.gemini.error_body import render_error
from llm_proxy.dialects.gemini.request import GeminiContext
from llm_proxy.dialects.gemini.structured import Unwrapper
from llm_proxy.dialects.translation.chat_answer import ChatDelta
from llm_proxy.errors import APIError
from llm_proxy.json_access import Json


class Framing(Protocol):
    """How the chunks of a stream stand in its bytes."""

    def chunk(self, document: bytes) -> bytes:
        """The bytes of one chunk."""
        ...

    def end(self) -> bytes:
        """The bytes after the last chunk."""
        ...


class EventFraming:
    """Server-sent events, as `?alt=sse` asks for."""

    __slots__ = ()

    def chunk(self, document: bytes) -> bytes:
        """An event."""
        return sse.encode_event(document)

    def end(self) -> bytes:
        """Nothing: Google has no closing event."""
        return b""


class ArrayFraming:
    """One JSON array, which Google streams unless events are requested."""

    __slots__ = ("_is_open",)

    def __init__(self) -> None:
        self._is_open = False

    def chunk(self, document: bytes) -> bytes:
        """An item, after the bracket or a comma."""
        before = b",\r\n" if self._is_open else b"["
        self._is_open = True
        return before + document

    def end(self) -> bytes:
        """The closing bracket."""
        return b"]" if self._is_open else b"[]"


def framing_of(context: GeminiContext) -> Framing:
    """Returns the framing of a stream that begins."""
    return ArrayFraming() if context.is_array else EventFraming()


class GeminiStream:
    """Renders one translated stream."""

    __slots__ = ("_context", "_framing", "_model", "_readers", "_states", "_unwrappers")

    def __init__(self, model: str, context: GeminiContext) -> None:
        self._model = model
        self._context = context
        self._framing = framing_of(context)
        self._readers = open_readers(context)
        self._states = [CandidateState() for _ in self._readers]
        self._unwrappers = [Unwrapper(context.unwraps) for _ in self._readers]

    def feed(self, chunk: bytes) -> bytes:
        """Takes OpenAI's frames, any chunking, without `[DONE]`; returns Google's."""
        out: list[bytes] = []
        for index, reader in enumerate(self._readers):
            for raw in reader.feed(chunk):
                delta = raw._replace(text=self._unwrappers[index].feed(raw.text)) if raw.text else raw
                self._states[index].add(delta)
                candidate = self._candidate(delta, index)
                if candidate is not None:
                    document = {"candidates": [candidate], **head(reader.answer_id, self._model)}
                    out.append(self._framing.chunk(orjson.dumps(document)))
        return b"".join(out)

    def _candidate(self, delta: ChatDelta, index: int) -> Json | None:
        """What a delta shows; None for one that shows later, or not."""
        parts = shown_parts(delta, self._context)
        own = logprobs_of(delta.logprobs)
        if delta.annotations:
            own["citationMetadata"] = citations(delta.annotations)
        return candidate_of(parts, index) | own if parts or own else None

    def end(self, meta: ResponseMeta) -> bytes:  # noqa: ARG002 -- headers name the provider
        """The chunk that ends a complete stream."""
        reader = self._readers[0]
        if is_blocked(reader, self._states[0]):
            document: Json = {"promptFeedback": {"blockReason": "SAFETY"}}
        else:
            document = {"candidates": [*map(self._last, range(len(self._readers)))]}
        last = orjson.dumps(response(document, self._readers, self._model))
        return self._framing.chunk(last) + self._framing.end()

    def _last(self, index: int) -> Json:
        reader, state = self._readers[index], self._states[index]
        rest = self._unwrappers[index].end()
        parts = [*([{"text": rest}] if rest else []), *closing_parts(state, self._context)]
        parts = parts or [{"text": ""}]
        return candidate_of(parts, index) | ending(reader, state)

    def fail(self, error: APIError) -> bytes:
        """The object that ends a stream that failed."""
        return failed(error, self._framing)

    def ping(self) -> bytes:
        """Nothing: Google has no such frame."""
        return b""


class NativeGeminiStream:
    """A provider's own chunks: events pass as they are, or become the items of an array."""

    __slots__ = ("_decoder", "_framing", "_passes")

    def __init__(self, context: GeminiContext) -> None:
        self._framing = framing_of(context)
        self._passes = not context.is_array
        self._decoder = sse.SSEDecoder()

    def feed(self, chunk: bytes) -> bytes:
        """The frames, in the requested framing."""
        if self._passes:
            return chunk
        data = (sse.parse_event(frame).data for frame in self._decoder.feed(chunk))
        return b"".join(self._framing.chunk(one) for one in data if one)

    def end(self, meta: ResponseMeta) -> bytes:  # noqa: ARG002 -- the provider ended it
        """What ends the framing."""
        return self._framing.end()

    def fail(self, error: APIError) -> bytes:
        """The object that ends a stream that failed."""
        return failed(error, self._framing)

    def ping(self) -> bytes:
        """Nothing: Google has no such frame."""
        return b""


def failed(error: APIError, framing: Framing) -> bytes:
    """The last item of a stream that failed."""
    return framing.chunk(orjson.dumps(render_error(error))) + framing.end()
