"""A chat stream as Anthropic's events.

Invariants: any chunking of the same frames gives the same events; one block is open at a time, indices rise
by one; calls that a provider interleaves leave one after another, none lost; a stream that fails ends in an
`error` event, never in `message_stop`. Source: https://platform.claude.com/docs/en/build-with-claude/streaming.
"""

from dataclasses import dataclass, field

import orjson

from llm_proxy import sse
from llm_proxy.dialects.dialect import ResponseMeta
from llm_proxy.dialects.messages.answer import (
    context_edits,
    estimated_usage,
    image_text,
    message_head,
    render_usage,
    stop,
    text_block,
    tool_use_block,
)
from llm_proxy.dialects.messages.error_body import error_event
from llm_proxy.dialects.messages.request import MessagesContext
from llm_proxy.dialects.translation.chat_answer import (
    ChatAnswerReader,
    ChatDelta,
    ThinkingPiece,
    ToolCallPiece,
)
from llm_proxy.dialects.translation.usage import ChatUsage
from llm_proxy.errors import APIError
from llm_proxy.json_access import Json

PING = sse.encode_event(b'{"type":"ping"}', b"ping")
_STOP = sse.encode_event(b'{"type":"message_stop"}', b"message_stop")
_DELTA = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}\n\n'
)
_TEXT_DELTA = _DELTA.removesuffix(b"%b}}\n\n")
_BLOCK_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'


@dataclass(slots=True)
class _PendingCall:
    """A tool call as far as it was read.

    Attributes:
        unsent: Arguments that did not leave yet.
    """

    call_id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])
    unsent: list[str] = field(default_factory=list[str])

    def is_complete(self) -> bool:
        """Whether the arguments are a JSON object, so that nothing can follow."""
        if not self.arguments or not self.arguments[-1].rstrip().endswith("}"):
            return False
        try:
            orjson.loads("".join(self.arguments))
        except orjson.JSONDecodeError:
            return False
        return True


class MessagesStream:
    """Renders one stream."""

    __slots__ = (
        "_answer_bytes", "_at", "_calls", "_context", "_kind", "_late", "_model", "_next", "_open_call",
        "_reader", "_refusal", "_started", "_text_start",
    )  # fmt: skip

    def __init__(self, model: str, context: MessagesContext) -> None:
        self._model = model
        self._context = context
        self._reader = ChatAnswerReader()
        self._started = False
        self._kind = ""
        self._at = -1
        self._calls: list[_PendingCall] = []
        self._next = 0
        self._open_call: _PendingCall | None = None
        self._late: list[ChatDelta] = []
        self._refusal = ""
        self._answer_bytes = 0
        self._text_start: bytes = b""  # of the open text's deltas

    def feed(self, chunk: bytes) -> bytes:
        """Takes OpenAI's frames, any chunking, without `[DONE]`; returns Anthropic's."""
        text = self._reader.text_of(chunk)
        if text is not None and self._text_start:
            return self._text_event(text)
        deltas = self._reader.feed(chunk) if text is None else [ChatDelta(text)]
        if not deltas and not self._reader.answer_id:
            return b""
        out: list[bytes] = []
        self._start(out)
        for delta in deltas:
            self._add(delta, out)
        return b"".join(out)

    def _text_event(self, text: str) -> bytes:
        """Returns the event of a text's delta, which begins as the block's others."""
        written = orjson.dumps(text)
        self._answer_bytes += len(written) - 2
        return b"%b%b}}\n\n" % (self._text_start, written)

    def end(self, meta: ResponseMeta) -> bytes:  # noqa: ARG002 -- headers name the provider
        """The events that end a complete stream."""
        out: list[bytes] = []
        self._start(out)
        self._finish_calls(out)
        self._say_late(out)
        self._close(out)
        usage = self._reader.usage or estimated_usage(self._context, self._answer_bytes)
        ended: Json = {
            "type": "message_delta",
            "delta": stop(self._reader, self._refusal, has_calls=bool(self._calls), context=self._context),
            "usage": render_usage(usage, self._reader.service_tier),
            **context_edits(self._context),
        }
        out += (sse.encode_event(orjson.dumps(ended), b"message_delta"), _STOP)
        return b"".join(out)

    def fail(self, error: APIError) -> bytes:
        """The event that ends a stream that failed."""
        return error_event(error)

    def ping(self) -> bytes:
        """The event for a caller who waits."""
        return PING

    def _start(self, out: list[bytes]) -> None:
        if self._started:
            return
        self._started = True
        message: Json = {
            **message_head(self._reader.answer_id, self._model),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "container": None,
            "usage": render_usage(ChatUsage(prompt=self._context.input_tokens), None),
        }
        started = orjson.dumps({"type": "message_start", "message": message})
        out += (sse.encode_event(started, b"message_start"), PING)

    def _add(self, delta: ChatDelta, out: list[bytes]) -> None:
        said = delta
        if delta.tool_calls:
            said = ChatDelta(*delta[:3], (), *delta[4:])
        if self._open_call is not None and any(said) and not self._open_call.is_complete():
            self._late.append(said)
        elif any(said):
            self._say_late(out)
            self._say(said, out)
        for call in delta.tool_calls:
            self._add_call(call, out)

    def _say_late(self, out: list[bytes]) -> None:
        """Sends the text that came while a call was open."""
        for delta in self._late:
            self._say(delta, out)
        self._late.clear()

    def _say(self, delta: ChatDelta, out: list[bytes]) -> None:
        if delta.thinking and self._context.wants_thinking:
            for piece in delta.thinking:
                self._add_thinking(piece, out)
        for text in (delta.text, delta.refusal, *map(image_text, delta.images)):
            if text:
                self._add_text(text, out)
        self._refusal += delta.refusal

    def _add_text(self, text: str, out: list[bytes]) -> None:
        if self._kind != "text":
            self._open("text", text_block(""), out)
            self._text_start = _TEXT_DELTA % (self._at, b"text_delta", b"text")
        self._delta(b"text_delta", b"text", text, out)

    def _add_thinking(self, piece: ThinkingPiece, out: list[bytes]) -> None:
        if piece.redacted:
            self._open("redacted", {"type": "redacted_thinking", "data": piece.redacted}, out)
            self._close(out)
            return
        text = "" if self._context.omits_thinking else piece.text
        if self._kind != "thinking" and (text or piece.signature):
            self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""}, out)
        if text:
            self._delta(b"thinking_delta", b"thinking", text, out)
        if piece.signature:
            self._delta(b"signature_delta", b"signature", piece.signature, out)
            self._close(out)

    def _add_call(self, piece: ToolCallPiece, out: list[bytes]) -> None:
        if piece.position == len(self._calls):
            self._calls.append(_PendingCall())
        call = self._calls[piece.position]
        call.call_id = call.call_id or piece.call_id
        call.name = call.name or piece.name
        if piece.text:
            call.arguments.append(piece.text)
            call.unsent.append(piece.text)
        self._send_calls(out)

    def _send_calls(self, out: list[bytes]) -> None:
        """Sends the open call as far as it is known; the next one opens when that is complete."""
        while True:
            call = self._open_call
            if call is not None:
                if call.unsent:
                    self._delta(b"input_json_delta", b"partial_json", "".join(call.unsent), out)
                    call.unsent.clear()
                if self._next >= len(self._calls) or not call.is_complete():
                    return
            if self._next >= len(self._calls) or not self._calls[self._next].name:
                return
            self._open_next(out)

    def _open_next(self, out: list[bytes]) -> None:
        call = self._calls[self._next]
        self._next += 1
        block = tool_use_block(call.call_id, call.name, {}, self._context)
        self._open("tool_use", block, out)
        self._open_call = call
        self._delta(b"input_json_delta", b"partial_json", "", out)

    def _finish_calls(self, out: list[bytes]) -> None:
        """Sends what is left of every call, complete or not."""
        while self._open_call is not None or self._next < len(self._calls):
            call = self._open_call
            if call is None:
                self._open_next(out)
                continue
            left = "".join(call.unsent)
            if left:
                self._delta(b"input_json_delta", b"partial_json", left, out)
                call.unsent.clear()
            self._close(out)

    def _open(self, kind: str, block: Json, out: list[bytes]) -> None:
        self._close(out)
        self._kind = kind
        self._at += 1
        event = {"type": "content_block_start", "index": self._at, "content_block": block}
        out.append(sse.encode_event(orjson.dumps(event), b"content_block_start"))

    def _delta(self, kind: bytes, name: bytes, value: str, out: list[bytes]) -> None:
        written = orjson.dumps(value)
        self._answer_bytes += len(written) - 2
        out.append(_DELTA % (self._at, kind, name, written))

    def _close(self, out: list[bytes]) -> None:
        if not self._kind:
            return
        if self._open_call is not None and not any(map(str.strip, self._open_call.arguments)):
            self._delta(b"input_json_delta", b"partial_json", "{}", out)
        out.append(_BLOCK_STOP % self._at)
        self._kind, self._text_start = "", b""
        self._open_call = None
