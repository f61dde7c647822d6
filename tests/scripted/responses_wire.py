"""OpenAI's Responses wire: `/v1/responses`, whole and streamed."""

import json

from scripted.openai_wire import MADE, THOUGHT
from scripted.script import Json, Script

STRICT = {"strict": True}
"""OpenAI's default for functions."""


def _usage(script: Script) -> Json:
    written = {"cache_write_tokens": script.cache_write_tokens} if script.cache_write_tokens else {}
    return {
        "input_tokens": script.prompt_tokens,
        "input_tokens_details": {"cached_tokens": script.cached_tokens} | written,
        "output_tokens": script.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": script.reasoning_tokens},
        "total_tokens": script.prompt_tokens + script.completion_tokens,
    }


def _call(body: Json, mark: str, name: str, arguments: Json) -> Json:
    named: Json = {"name": name, "arguments": json.dumps(arguments)}
    for tool in body.get("tools") or ():
        if tool.get("type") == "custom" and tool["name"] == name:
            made: Json = {"id": f"ctc_{mark}", "type": "custom_tool_call", "status": "completed"}
            return made | {"call_id": f"call_{mark}", "name": name, "input": arguments["input"]}
        if any(one.get("name") == name for one in tool.get("tools") or ()):
            named |= {"namespace": tool["name"]}
    call: Json = {"id": f"fc_{mark}", "type": "function_call", "status": "completed"}
    return call | {"call_id": f"call_{mark}"} | named


def _said(part: Json) -> Json:
    return {
        "id": "msg_0", "type": "message", "role": "assistant", "status": "completed", "content": [part],
    }  # fmt: skip


def _text(text: str) -> Json:
    return _said({"type": "output_text", "text": text, "annotations": [], "logprobs": []})


def _items(script: Script, body: Json, number: int) -> list[Json]:
    if script.calls:
        made = enumerate(script.calls)
        return [_text(THOUGHT), *(_call(body, f"{number}_{at}", *call) for at, call in made)]
    if script.do == "tools":
        name = (body.get("tools") or [{"name": "look_up"}])[0]["name"]
        return [_call(body, "0", name, {"city": "Oslo"})]
    if script.do == "refusal":
        return [_said({"type": "refusal", "refusal": "I will not say that."})]
    return [_text("".join(script.words()))]


def _reasoning(script: Script) -> list[Json]:
    if not script.reasoning_tokens:
        return []
    return [{"id": "rs_0", "type": "reasoning", "summary": [], "encrypted_content": "gAAAA-sealed"}]


def _response(script: Script, body: Json, number: int, status: str) -> Json:
    """The response object with everything but its output; unknown fields stand for what a provider adds."""
    tools: list[Json] = body.get("tools") or []
    return {
        "id": f"resp_{number:048x}",
        "object": "response",
        "created_at": MADE,
        "completed_at": MADE + 1 if status == "completed" else None,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "frequency_penalty": 0.0,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": body.get("max_tool_calls"),
        "metadata": body.get("metadata") or {},
        "model": body["model"],
        "output": [],
        "parallel_tool_calls": True,
        "presence_penalty": 0.0,
        "previous_response_id": body.get("previous_response_id"),
        "prompt_cache_key": body.get("prompt_cache_key"),
        "provider_addition": {"kept": True},
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": body.get("safety_identifier"),
        "service_tier": script.service_tier,
        "store": body.get("store", True),
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [STRICT | tool for tool in tools],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
    }


def _ended(script: Script, body: Json, number: int) -> Json:
    cut_short = script.finish == "length"
    made = _response(script, body, number, "incomplete" if cut_short else "completed")
    made |= {"output": [*_reasoning(script), *_items(script, body, number)], "usage": _usage(script)}
    return made | ({"incomplete_details": {"reason": "max_output_tokens"}} if cut_short else {})


def response(script: Script, body: Json, number: int) -> Json:
    """A whole response; one in the background has only begun."""
    ended = _ended(script, body, number)
    if body.get("background"):
        return ended | {"background": True, "status": "queued", "output": [], "usage": None}
    return ended


class _Events:
    """Numbers events as OpenAI does."""

    def __init__(self) -> None:
        self.number = -1

    def __call__(self, kind: str, **data: object) -> bytes:
        self.number += 1
        event = {"type": kind, "sequence_number": self.number} | data
        return f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode()


def frames(script: Script, body: Json, number: int) -> tuple[list[bytes], list[bytes]]:
    """The content events and the closing events of a streamed response."""
    event = _Events()
    opening = _response(script, body, number, "in_progress")
    content = [event("response.created", response=opening), event("response.in_progress", response=opening)]
    for one in _reasoning(script):
        content.append(event("response.output_item.added", output_index=0, item=one))
        content.append(event("response.output_item.done", output_index=0, item=one))
    closing: list[bytes] = []
    for at, item in enumerate(_items(script, body, number), len(_reasoning(script))):
        content += closing
        begun, closing = _item_frames(event, script, item, at)
        content += begun
    ended = _ended(script, body, number)
    return content, [*closing, event(f"response.{ended['status']}", response=ended)]


def _item_frames(event: _Events, script: Script, item: Json, at: int) -> tuple[list[bytes], list[bytes]]:
    """An item's events up to its last delta, and those that end it."""
    place: Json = {"item_id": item["id"], "output_index": at}
    field = {"function_call": "arguments", "custom_tool_call": "input"}.get(item["type"], "content")
    empty: Json = {field: [] if field == "content" else ""}
    content = [
        event("response.output_item.added", output_index=at, item=item | {"status": "in_progress"} | empty)
    ]
    part: Json = item["content"][0] if field == "content" else {}
    if not part:
        kind, text = f"response.{item['type']}_{field}", item[field]
        content += [event(f"{kind}.delta", **place, delta=text[i : i + 5]) for i in range(0, len(text), 5)]
        closing = [event(f"{kind}.done", **place, **{field: text})]
    elif "refusal" in part:
        said = part["refusal"]
        content.append(event("response.refusal.delta", **place, content_index=0, delta=said))
        closing = [event("response.refusal.done", **place, content_index=0, refusal=said)]
    else:
        place |= {"content_index": 0}
        content.append(event("response.content_part.added", **place, part=part | {"text": ""}))
        content += [
            event("response.output_text.delta", **place, delta=word, logprobs=[], obfuscation="x")
            for word in ([part["text"]] if script.calls else script.words())
        ]
        closing = [
            event("response.output_text.done", **place, text=part["text"], logprobs=[]),
            event("response.content_part.done", **place, part=part),
        ]
    closing.append(event("response.output_item.done", output_index=at, item=item))
    return content, closing


def error_frame() -> bytes:
    """A failure where a stream's event should be."""
    failed = {"code": "server_error", "message": "The server had an error.", "param": None}
    return _Events()("error", **failed)
