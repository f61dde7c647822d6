"""A chat's answer as a response: the items and events of each delta, the response, its end or failure.

Pure. Invariants: whole and streamed answers are built by the same steps, so a stream ends with the response
that a whole answer is; an item is done before the next begins, but for calls made side by side; a truncated
answer is incomplete with its reason, a broken one failed, never completed.
"""

from llm_proxy.dialects.responses.output_items import (
    Event,
    GrowingCall,
    GrowingMessage,
    GrowingReasoning,
    image_events,
    item_id,
    whole_message,
)
from llm_proxy.dialects.responses.reasoning import ReasoningSeal
from llm_proxy.dialects.responses.request import ResponseContext
from llm_proxy.dialects.responses.tools import restored_tool
from llm_proxy.dialects.translation.chat_answer import ChatAnswerReader, ChatDelta, ToolCallPiece
from llm_proxy.dialects.translation.usage import ChatUsage, finish_kind
from llm_proxy.errors import APIError
from llm_proxy.json_access import Json

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_TIERS = frozenset({"default", "flex", "scale", "priority", "fast", "ultrafast"})
"""Another provider's own tier (Groq's `on_demand`) is none of OpenAI's."""
_FAILURE_CODES = frozenset(
    {"context_length_exceeded", "insufficient_quota", "rate_limit_exceeded", "server_is_overloaded"}
)
"""Codes that clients act on; any other of a failed call is `server_error` or `invalid_prompt`."""


class ResponseBuilder:
    """Builds one response, delta by delta."""

    __slots__ = ("_calls", "_context", "_count", "_done", "_open", "_seal", "_unnamed")

    def __init__(self, context: ResponseContext, seal: ReasoningSeal | None) -> None:
        self._context = context
        self._seal = seal
        self._count = 0
        self._done: dict[int, Json] = {}
        self._open: GrowingMessage | GrowingReasoning | None = None
        self._calls: dict[int, GrowingCall] = {}
        self._unnamed: dict[int, ToolCallPiece] = {}

    def start(self) -> list[Event]:
        """The events that begin a stream."""
        response = self._response("in_progress")
        return [
            ("response.created", {"response": response}),
            ("response.in_progress", {"response": response}),
        ]

    @property
    def open_text(self) -> GrowingMessage | None:
        """The message that is open, if what it says last is a text."""
        message = self._open
        return message if type(message) is GrowingMessage and message.delta_start else None

    def add_whole(self, delta: ChatDelta, finish_reason: str | None) -> None:
        """Adds a whole answer, of whose events there is no reader."""
        if delta.text and not any(delta[1:]):
            status = "incomplete" if finish_kind(finish_reason) in _INCOMPLETE else "completed"
            self._done[self._count] = whole_message(self._item_id("msg"), delta.text, status)
            self._count += 1
        else:
            self.add(delta)

    def add(self, delta: ChatDelta) -> list[Event]:
        """Returns the events of a delta."""
        if delta.text and type(self._open) is GrowingMessage and not any(delta[1:]):  # the common delta
            return self._open.say(delta.text, ())
        events: list[Event] = []
        for piece in delta.thinking:
            reasoning = self._open
            if not isinstance(reasoning, GrowingReasoning):
                events += self._close_open()
                signed = self._context.is_signed
                reasoning = GrowingReasoning(self._item_id("rs"), self._count, self._seal, is_signed=signed)
                events += self._begin(reasoning)
            events += reasoning.think(piece)
        if delta.text or delta.logprobs or delta.refusal or delta.annotations:
            events += self._speak(delta)
        for call in delta.tool_calls:
            events += self._call(call)
        for link in delta.images:
            events += self._close_open()
            found, item = image_events(self._item_id("ig"), self._count, link)
            self._done[self._count] = item
            self._count += 1
            events += found
        return events

    def _speak(self, delta: ChatDelta, *, empty: bool = False) -> list[Event]:
        events: list[Event] = []
        message = self._open
        if not isinstance(message, GrowingMessage):
            events += self._close_open()
            message = GrowingMessage(self._item_id("msg"), self._count)
            events += self._begin(message)
        if delta.text or delta.logprobs or empty:
            events += message.say(delta.text, delta.logprobs)
        if delta.annotations:
            events += message.cite(delta.annotations)
        if delta.refusal:
            events += message.refuse(delta.refusal)
        return events

    def _begin(self, item: GrowingMessage | GrowingReasoning) -> list[Event]:
        self._open = item
        self._count += 1
        return item.open()

    def _call(self, piece: ToolCallPiece) -> list[Event]:
        known = self._calls.get(piece.position)
        if known is not None:
            return known.add(piece.text) if piece.text else []
        if (before := self._unnamed.pop(piece.position, None)) is not None:
            name, call_id = before.name or piece.name, before.call_id or piece.call_id
            piece = piece._replace(call_id=call_id, name=name, text=before.text + piece.text)
        if not piece.name:
            self._unnamed[piece.position] = piece
            return []
        return self._begin_call(piece)

    def _begin_call(self, piece: ToolCallPiece) -> list[Event]:
        events = self._close_open()
        for call in self._calls.values():
            if not call.is_done and call.is_complete:
                events += self._close_call(call, "completed")
        call_id = piece.call_id or f"call_{self._context.token[:16]}{len(self._calls):02x}"
        call = GrowingCall(call_id, restored_tool(self._context.callers, piece.name))
        self._calls[piece.position] = call
        if not call.opens_at_its_end:
            self._place(call)
            events += call.open()
        return events + call.add(piece.text) if piece.text else events

    def _place(self, call: GrowingCall) -> None:
        call.place(self._context.token, self._count)
        self._count += 1

    def _close_call(self, call: GrowingCall, status: str) -> list[Event]:
        if call.opens_at_its_end:
            self._place(call)
        events, self._done[call.index] = call.close(status)
        return events

    def _close_open(self, status: str = "completed") -> list[Event]:
        item, self._open = self._open, None
        if item is None:
            return []
        events, self._done[item.index] = item.close(status)
        return events

    def finish(self, answer: ChatAnswerReader, latency_ms: float) -> tuple[list[Event], Json]:
        """Ends the response; returns the last events, and the response."""
        reason = _INCOMPLETE.get(finish_kind(answer.finish_reason))
        status = "completed" if reason is None else "incomplete"
        events: list[Event] = []
        events += self._close_open(status)
        for piece in self._unnamed.values():
            if piece.text:  # a call without a name: the caller sees what the model wrote
                events += self._begin_call(piece)
        if not self._count and not self._calls and reason is None:
            events += [*self._speak(ChatDelta(), empty=True), *self._close_open(status)]
        for call in self._calls.values():
            if not call.is_done:
                is_cut = status == "incomplete" and not call.is_complete
                events += self._close_call(call, "incomplete" if is_cut else "completed")
        response = self._response(status)
        response["completed_at"] = (
            self._context.created_at + int(latency_ms / 1000) if reason is None else None
        )
        response["incomplete_details"] = {"reason": reason} if reason else None
        response["usage"] = _usage(answer.usage)
        response["service_tier"] = answer.service_tier if answer.service_tier in _TIERS else "default"
        return [*events, (f"response.{status}", {"response": response})], response

    def fail(self, error: APIError, message: str) -> list[Event]:
        """The event that ends a response that broke; its items are those that were done before."""
        response = self._response("failed") | {"error": failure(error, message)}
        return [("response.failed", {"response": response})]

    def _response(self, status: str) -> Json:
        context = self._context
        return {
            "id": context.response_id or f"resp_{context.token}",
            "object": "response",
            "created_at": context.created_at,
            "status": status,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "output": [self._done[at] for at in sorted(self._done)],
            "usage": None,
            **context.echo,
        }

    def _item_id(self, prefix: str) -> str:
        return item_id(prefix, self._context.token, self._count)


def render_answer(
    context: ResponseContext, seal: ReasoningSeal | None, reply: bytes, latency_ms: float
) -> Json:
    """Returns the response of a whole chat answer; raises `ProviderFailed` when it is none."""
    answer, builder = ChatAnswerReader(), ResponseBuilder(context, seal)
    builder.add_whole(answer.read_answer(reply), answer.finish_reason)
    _, response = builder.finish(answer, latency_ms)
    return response


def _usage(usage: ChatUsage | None) -> Json | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }


def failure(error: APIError, message: str) -> Json:
    """The `error` of a response that failed."""
    if error.code in _FAILURE_CODES:
        return {"code": error.code, "message": message}
    return {"code": "server_error" if error.status >= 500 else "invalid_prompt", "message": message}
