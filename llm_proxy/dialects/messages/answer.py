"""A chat answer as Anthropic's message: content blocks, stop reason, usage.

Pure. Invariants: a model's text is in the content; arguments that are no JSON object stay readable
under `INVALID_JSON`, as Anthropic's documentation wraps them; tokens are counted in Anthropic's way, those
of the cache outside of `input_tokens`. Source: https://platform.claude.com/docs/en/api/messages.
"""

import re
from collections.abc import Iterator
from uuid import uuid4

import orjson

from llm_proxy.dialects.call import BYTES_PER_TOKEN
from llm_proxy.dialects.messages.request import MessagesContext
from llm_proxy.dialects.messages.tool_ids import shown_tool_id
from llm_proxy.dialects.translation.chat_answer import ChatAnswerReader, ChatDelta, ThinkingPiece
from llm_proxy.dialects.translation.chat_request import restored_name
from llm_proxy.dialects.translation.usage import ChatUsage, finish_kind
from llm_proxy.json_access import Json, is_object

INVALID_JSON = "INVALID_JSON"
_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_OWN_REASONS = frozenset({"pause_turn", "refusal", "model_context_window_exceeded", "stop_sequence"})
_ID_CHARS = re.compile(r"[^A-Za-z0-9_-]")
_PRIORITY = frozenset({"priority", "fast"})


def render_answer(reply: bytes, model: str, context: MessagesContext) -> Json:
    """Returns the message of a whole chat answer; raises `ProviderFailed` when it is none."""
    reader = ChatAnswerReader()
    delta = reader.read_answer(reply)
    content = [
        *_thinking_blocks(delta.thinking, context),
        *_text_blocks(delta),
        *_tool_blocks(delta, context),
    ]
    usage = reader.usage or estimated_usage(context, len(reply))
    return {
        **message_head(reader.answer_id, model),
        "content": content,
        **stop(reader, delta.refusal, has_calls=bool(delta.tool_calls), context=context),
        "usage": render_usage(usage, reader.service_tier),
        **context_edits(context),
    }


def message_head(answer_id: str, model: str) -> Json:
    """The fields that open a message."""
    own = _ID_CHARS.sub("", answer_id) or uuid4().hex
    message_id = own if own.startswith("msg_") else f"msg_{own}"
    return {"id": message_id, "type": "message", "role": "assistant", "model": model}


def stop(reader: ChatAnswerReader, refusal: str, *, has_calls: bool, context: MessagesContext) -> Json:
    """Why the answer ended: `stop_reason`, `stop_sequence` where it is known, `stop_details` of a refusal."""
    stopped_at = reader.stop_sequence if reader.stop_sequence in context.stop_sequences else None
    if reader.finish_reason in _OWN_REASONS:
        reason = reader.finish_reason
    else:
        reason = _STOP_REASONS[finish_kind(reader.finish_reason)]
    if reason == "end_turn":
        reason = "refusal" if refusal else "tool_use" if has_calls else reason
        if stopped_at is not None and not has_calls:
            reason = "stop_sequence"
    details = {"type": "refusal", "category": None, "explanation": refusal or None}
    return {
        "stop_reason": reason,
        "stop_sequence": stopped_at if reason == "stop_sequence" else None,
        "stop_details": details if reason == "refusal" else None,
        "container": None,
    }


def context_edits(context: MessagesContext) -> Json:
    """Which of the requested context edits were applied: none."""
    return {"context_management": {"applied_edits": []}} if context.has_edits else {}


def render_usage(usage: ChatUsage, service_tier: str | None) -> Json:
    """A chat's usage, counted in Anthropic's way."""
    written_1h = min(usage.cache_write_1h, usage.cache_write)
    return {
        "input_tokens": usage.uncached,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write - written_1h,
            "ephemeral_1h_input_tokens": written_1h,
        },
        "output_tokens": usage.completion,
        "output_tokens_details": {"thinking_tokens": usage.reasoning} if usage.reasoning else None,
        "server_tool_use": None,
        "service_tier": "priority" if service_tier in _PRIORITY else "standard",
        "inference_geo": None,
    }


def estimated_usage(context: MessagesContext, answer_bytes: int) -> ChatUsage:
    """The usage of an answer that states none, by its size."""
    return ChatUsage(prompt=context.input_tokens, completion=-(-answer_bytes // BYTES_PER_TOKEN))


def text_block(text: str) -> Json:
    """A text, of which a chat has no citations."""
    return {"type": "text", "text": text, "citations": None}


def tool_use_block(call_id: str, name: str, given: Json, context: MessagesContext) -> Json:
    """A call of a tool by the model itself."""
    return {
        "type": "tool_use",
        "id": shown_tool_id(call_id or uuid4().hex),
        "name": restored_name(context.tool_names, name),
        "input": given,
        "caller": {"type": "direct"},
    }


def image_text(link: str) -> str:
    """An image that the model made, for which Anthropic's answers have no block, as Markdown."""
    return f"![image]({link})"


def tool_input(arguments: str) -> Json:
    """The input of a call: an object, also where the model wrote none."""
    if not arguments.strip():
        return {}
    try:
        parsed = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {INVALID_JSON: arguments}
    if is_object(parsed):
        return parsed
    return {} if parsed is None else {INVALID_JSON: arguments}


def _thinking_blocks(pieces: tuple[ThinkingPiece, ...], context: MessagesContext) -> Iterator[Json]:
    if not context.wants_thinking:
        return
    text = ""
    for piece in pieces:
        if piece.redacted:
            yield {"type": "redacted_thinking", "data": piece.redacted}
            continue
        text += "" if context.omits_thinking else piece.text
        if piece.signature:
            yield {"type": "thinking", "thinking": text, "signature": piece.signature}
            text = ""
    if text:
        yield {"type": "thinking", "thinking": text, "signature": ""}


def _text_blocks(delta: ChatDelta) -> Iterator[Json]:
    for text in (delta.text, delta.refusal, *map(image_text, delta.images)):
        if text:
            yield text_block(text)


def _tool_blocks(delta: ChatDelta, context: MessagesContext) -> Iterator[Json]:
    for call in delta.tool_calls:
        yield tool_use_block(call.call_id, call.name, tool_input(call.text), context)
