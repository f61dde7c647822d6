"""Anthropic's wire: `/v1/messages`, whole and streamed."""

import json

from scripted.openai_wire import THOUGHT
from scripted.script import Json, Script

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
DIRECT = {"type": "direct"}
MESSAGES = {
    "context": "prompt is too long: 210000 tokens > 200000 maximum",
    "quota": "Your credit balance is too low to access the Anthropic API.",
    "policy": "Output blocked by content filtering policy",
}


def _usage(script: Script) -> Json:
    written, an_hour = script.cache_write_tokens, script.cache_write_1h_tokens
    split = {"ephemeral_5m_input_tokens": written - an_hour, "ephemeral_1h_input_tokens": an_hour}
    return {
        "input_tokens": script.prompt_tokens - script.cached_tokens - written,
        "cache_creation_input_tokens": written,
        "cache_creation": split,
        "cache_read_input_tokens": script.cached_tokens,
        "output_tokens": script.completion_tokens,
        "output_tokens_details": {"thinking_tokens": script.reasoning_tokens},
        "server_tool_use": None,
        "service_tier": "standard",
        "inference_geo": "global",
    }


def _text(text: str) -> Json:
    return {"type": "text", "text": text, "citations": None}


def _tools(script: Script, body: Json, number: int) -> list[Json]:
    name = (body.get("tools") or [{"name": "look_up"}])[0]["name"]
    cities = [(name, {"city": city}) for city in ("Oslo", "Turku")]
    mark = f"{number}_" if script.calls else ""  # an agent's turns have calls of their own
    uses = [
        {"type": "tool_use", "id": f"toolu_{mark}{at}", "name": name, "input": given, "caller": DIRECT}
        for at, (name, given) in enumerate(script.calls or cities)
    ]
    return [_text(THOUGHT), *uses] if script.calls else uses


def _finish(script: Script) -> str:
    if script.do == "tools":
        return "tool_use"
    return {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}.get(
        script.finish, "end_turn"
    )


def message(script: Script, body: Json, number: int) -> Json:
    """A whole message."""
    content = _tools(script, body, number) if script.do == "tools" else [_text("".join(script.words()))]
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": _finish(script),
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "usage": _usage(script),
    }


def count(script: Script, body: Json, number: int) -> Json:  # noqa: ARG001 -- a door's signature
    """The tokens of a prompt, as Anthropic counts them; the script's, and one for each message."""
    return {"input_tokens": script.prompt_tokens + len(body["messages"])}


def _event(kind: str, **data: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | data)}\n\n".encode()


def _block(index: int, block: Json) -> list[bytes]:
    """A block's start and deltas."""
    empty: Json = {"text": ""} if block["type"] == "text" else {"input": {}}
    begun, key, kind, text = block | empty, "text", "text_delta", str(block.get("text"))
    if block["type"] == "tool_use":
        key, kind, text = "partial_json", "input_json_delta", json.dumps(block["input"])
    deltas = ({"type": kind, key: piece} for piece in (text[:7], text[7:]))
    return [
        _event("content_block_start", index=index, content_block=begun),
        *(_event("content_block_delta", index=index, delta=delta) for delta in deltas),
    ]


def frames(script: Script, body: Json, number: int) -> tuple[list[bytes], list[bytes]]:
    """The content events and the closing events of a streamed message."""
    opening: Json = message(script, body, number) | {
        "content": [],
        "stop_reason": None,
        "usage": _usage(script) | {"output_tokens": 1},
    }
    content = [_event("message_start", message=opening)]
    last = 0
    if script.do == "tools":
        blocks = _tools(script, body, number)
        for last, block in enumerate(blocks):
            content += _block(last, block)
            if last < len(blocks) - 1:
                content.append(_event("content_block_stop", index=last))
    else:
        content.append(_event("content_block_start", index=0, content_block=_text("")))
        content.append(_event("ping"))
        content += [
            _event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
            for word in script.words()
        ]
    delta = {"stop_reason": _finish(script), "stop_sequence": None}
    closing = [
        _event("content_block_stop", index=last),
        _event("message_delta", delta=delta, usage={"output_tokens": script.completion_tokens}),
        _event("message_stop"),
    ]
    return content, closing


def error(status: int, kind: str) -> Json:
    """An error body."""
    said = MESSAGES.get(kind, f"Scripted status {status}.")
    return {
        "type": "error",
        "error": {"type": TYPES.get(status, "api_error"), "message": said},
        "request_id": "req_scripted",
    }


def error_frame() -> bytes:
    """An error where a stream's event should be."""
    return _event("error", error={"type": "overloaded_error", "message": "Overloaded"})
