"""Anthropic's wire: `/v1/messages`, whole and streamed."""

import json

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
        **({"cache_creation": split} if written else {}),
        "cache_read_input_tokens": script.cached_tokens,
        "output_tokens": script.completion_tokens,
    }


def _tools(body: Json) -> list[Json]:
    name = (body.get("tools") or [{"name": "look_up"}])[0]["name"]
    return [
        {"type": "tool_use", "id": f"toolu_{at}", "name": name, "input": {"city": city}}
        for at, city in enumerate(("Oslo", "Turku"))
    ]


def _finish(script: Script) -> str:
    if script.do == "tools":
        return "tool_use"
    return {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}.get(
        script.finish, "end_turn"
    )


def message(script: Script, body: Json, number: int) -> Json:
    """A whole message."""
    content = _tools(body) if script.do == "tools" else [{"type": "text", "text": "".join(script.words())}]
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": _finish(script),
        "stop_sequence": None,
        "usage": _usage(script),
    }


def count(script: Script, body: Json, number: int) -> Json:  # noqa: ARG001 -- a door's signature
    """The tokens of a prompt, as Anthropic counts them; the script's, and one for each message."""
    return {"input_tokens": script.prompt_tokens + len(body["messages"])}


def _event(kind: str, **data: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | data)}\n\n".encode()


def frames(script: Script, body: Json, number: int) -> tuple[list[bytes], list[bytes]]:
    """The content events and the closing events of a streamed message."""
    opening: Json = message(script, body, number) | {
        "content": [],
        "stop_reason": None,
        "usage": _usage(script) | {"output_tokens": 1},
    }
    content = [_event("message_start", message=opening)]
    last, nothing = 0, dict[str, object]()
    if script.do == "tools":
        for last, tool in enumerate(_tools(body)):
            content.append(_event("content_block_start", index=last, content_block=tool | {"input": nothing}))
            pieces = (json.dumps(tool["input"])[:7], json.dumps(tool["input"])[7:])
            content += [
                _event(
                    "content_block_delta", index=last, delta={"type": "input_json_delta", "partial_json": p}
                )
                for p in pieces
            ]
            if last == 0:
                content.append(_event("content_block_stop", index=last))
    else:
        content.append(_event("content_block_start", index=0, content_block={"type": "text", "text": ""}))
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
