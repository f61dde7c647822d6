"""OpenAI's Responses wire: `/v1/responses`, whole and streamed."""

import json

from scripted.openai_wire import MADE
from scripted.script import Json, Script


def _usage(script: Script) -> Json:
    written = {"cache_write_tokens": script.cache_write_tokens} if script.cache_write_tokens else {}
    return {
        "input_tokens": script.prompt_tokens,
        "input_tokens_details": {"cached_tokens": script.cached_tokens} | written,
        "output_tokens": script.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": script.reasoning_tokens},
        "total_tokens": script.prompt_tokens + script.completion_tokens,
    }


def _item(script: Script, body: Json) -> Json:
    if script.do == "tools":
        name = (body.get("tools") or [{"name": "look_up"}])[0]["name"]
        arguments = json.dumps({"city": "Oslo"})
        call: Json = {"id": "fc_0", "type": "function_call", "status": "completed", "call_id": "call_0"}
        return call | {"name": name, "arguments": arguments}
    part: Json = {"type": "output_text", "text": "".join(script.words()), "annotations": [], "logprobs": []}
    if script.do == "refusal":
        part = {"type": "refusal", "refusal": "I will not say that."}
    return {
        "id": "msg_0", "type": "message", "role": "assistant", "status": "completed", "content": [part],
    }  # fmt: skip


def _reasoning(script: Script) -> list[Json]:
    if not script.reasoning_tokens:
        return []
    return [{"id": "rs_0", "type": "reasoning", "summary": [], "encrypted_content": "gAAAA-sealed"}]


def _response(script: Script, body: Json, number: int, status: str) -> Json:
    """The response object with everything but its output; unknown fields stand for what a provider adds."""
    return {
        "id": f"resp_{number:048x}",
        "object": "response",
        "created_at": MADE,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": body["model"],
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": body.get("previous_response_id"),
        "provider_addition": {"kept": True},
        "reasoning": {"effort": None, "summary": None},
        "service_tier": script.service_tier,
        "store": body.get("store", True),
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
    }


def _ended(script: Script, body: Json, number: int) -> Json:
    cut_short = script.finish == "length"
    made = _response(script, body, number, "incomplete" if cut_short else "completed")
    made |= {"output": [*_reasoning(script), _item(script, body)], "usage": _usage(script)}
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
    item, at = _item(script, body), len(_reasoning(script))
    content = [event("response.created", response=opening), event("response.in_progress", response=opening)]
    for one in _reasoning(script):
        content.append(event("response.output_item.added", output_index=0, item=one))
        content.append(event("response.output_item.done", output_index=0, item=one))
    place: Json = {"item_id": item["id"], "output_index": at}
    empty: Json = {"arguments": ""} if script.do == "tools" else {"content": []}
    begun = item | {"status": "in_progress"} | empty
    content.append(event("response.output_item.added", output_index=at, item=begun))
    if script.do == "tools":
        text = item["arguments"]
        content += [
            event("response.function_call_arguments.delta", **place, delta=text[i : i + 5])
            for i in range(0, len(text), 5)
        ]
        closing = [event("response.function_call_arguments.done", **place, arguments=text)]
    elif script.do == "refusal":
        said = item["content"][0]["refusal"]
        content.append(event("response.refusal.delta", **place, content_index=0, delta=said))
        closing = [event("response.refusal.done", **place, content_index=0, refusal=said)]
    else:
        part, place = item["content"][0], place | {"content_index": 0}
        content.append(event("response.content_part.added", **place, part=part | {"text": ""}))
        content += [
            event("response.output_text.delta", **place, delta=word, logprobs=[], obfuscation="x")
            for word in script.words()
        ]
        closing = [
            event("response.output_text.done", **place, text=part["text"], logprobs=[]),
            event("response.content_part.done", **place, part=part),
        ]
    ended = _ended(script, body, number)
    closing.append(event("response.output_item.done", output_index=at, item=item))
    return content, [*closing, event(f"response.{ended['status']}", response=ended)]


def error_frame() -> bytes:
    """A failure where a stream's event should be."""
    failed = {"code": "server_error", "message": "The server had an error.", "param": None}
    return _Events()("error", **failed)
