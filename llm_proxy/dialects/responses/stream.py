"""The events of a Responses stream: those of a chat's frames, and a native provider's own.

Pure. Invariants: any chunking of the same frames gives the same events; numbers ascend by one from 0 to the
last event; a stream that breaks ends in `response.failed` with the next number, and nothing follows.
"""

import re

import orjson

from llm_proxy.dialects.dialect import ResponseMeta
from llm_proxy.dialects.responses.answer import ResponseBuilder, failure
from llm_proxy.dialects.responses.output_items import Event
from llm_proxy.dialects.responses.request import in_the_callers_terms
from llm_proxy.dialects.translation.chat_answer import ChatAnswerReader, ChatDelta
from llm_proxy.errors import APIError
from llm_proxy.json_access import as_object
from llm_proxy.sse import SSEDecoder, encode_event, parse_event

_NUMBER = re.compile(rb'"sequence_number"\s*:\s*([0-9]{1,9})')
_NUMBERED = b'"sequence_number"'
_FIRST_EVENTS = (b"response.created", b"response.in_progress", b"response.queued")


class TranslatedStream:
    """Renders a chat's frames as a response's events."""

    __slots__ = ("_answer", "_builder", "_number")

    def __init__(self, builder: ResponseBuilder) -> None:
        self._builder = builder
        self._answer = ChatAnswerReader()
        self._number = 0

    def feed(self, chunk: bytes) -> bytes:
        """Takes OpenAI's frames, any chunking, without `[DONE]`; returns the events of those complete."""
        text, message = self._answer.text_of(chunk), self._builder.open_text
        if text is not None and message is not None:
            self._number += 1
            return message.add_text(text, self._number - 1)
        deltas = self._answer.feed(chunk) if text is None else [ChatDelta(text)]
        out = b""
        if not self._number and self._answer.frames:
            out = self._encode(self._builder.start())
        for delta in deltas:
            out += self._encode(self._builder.add(delta))
        return out

    def end(self, meta: ResponseMeta) -> bytes:
        """The events that end a complete answer."""
        begun = [] if self._number else self._builder.start()
        events, _ = self._builder.finish(self._answer, meta.latency_ms)
        return self._encode([*begun, *events])

    def fail(self, error: APIError) -> bytes:
        """`response.failed`, with what was done before."""
        begun = [] if self._number else self._builder.start()
        _, message = in_the_callers_terms(error)
        return self._encode([*begun, *self._builder.fail(error, message)])

    def ping(self) -> bytes:
        """Nothing: OpenAI's streams have no such event."""
        return b""

    def _encode(self, events: list[Event]) -> bytes:
        out: list[bytes] = []
        for name, fields in events:
            event = {"type": name, **fields, "sequence_number": self._number}
            out.append(b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(event)))
            self._number += 1
        return b"".join(out)


class NativeStream:
    """Passes a provider's own events; ends them where the provider's stream broke."""

    __slots__ = ("_decoder", "_first", "_numbered")

    def __init__(self) -> None:
        self._decoder = SSEDecoder()
        self._first: bytes = b""
        self._numbered = b""  # the last events with a number

    def feed(self, chunk: bytes) -> bytes:
        """Returns the complete events, unchanged."""
        if self._first and not self._decoder.rest and chunk.endswith(b"\n\n"):
            if chunk.find(_NUMBERED) >= 0:
                self._numbered = chunk
            return chunk
        frames = self._decoder.feed(chunk)
        for frame in frames:
            if _NUMBERED in frame:
                self._numbered = frame
            if not self._first and any(name in frame[:64] for name in _FIRST_EVENTS):
                self._first = frame
        return b"".join(frames)

    def end(self, meta: ResponseMeta) -> bytes:  # noqa: ARG002 -- the provider ended its stream itself
        """Nothing more."""
        return b""

    def fail(self, error: APIError) -> bytes:
        """`response.failed`, of the response that the provider began."""
        first = parse_event(self._first).data
        response = as_object(as_object(orjson.loads(first)).get("response")) if first else {}
        failed = response | {"status": "failed", "error": failure(error, error.message)}
        numbers = _NUMBER.findall(self._numbered)
        number = int(numbers[-1]) + 1 if numbers else 0
        event = {"type": "response.failed", "response": failed, "sequence_number": number}
        return encode_event(orjson.dumps(event), b"response.failed")

    def ping(self) -> bytes:
        """Nothing: OpenAI's streams have no such event."""
        return b""
