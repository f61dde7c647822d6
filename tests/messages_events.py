"""Named events in tests: parsed; Anthropic's checked against a stream's rules, accumulated into a message."""

from typing import Any

import orjson

from llm_proxy import sse
from llm_proxy.json_access import Json

TEXT_FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


def parse_events(stream: bytes) -> list[Json]:
    """The events of a whole stream; each is an `event:` line of its own type, and a `data:` line."""
    events: list[Json] = []
    decoder = sse.SSEDecoder()
    for raw in decoder.feed(stream):
        data = sse.parse_event(raw).data or b""
        document = orjson.loads(data)
        assert raw == sse.encode_event(data, document["type"].encode())
        events.append(document)
    assert decoder.rest == b""
    return events


def accumulate(events: list[Json]) -> Json:
    """The message that a client builds, as Anthropic's SDKs do; asserts the order of the events."""
    assert [events[0]["type"], events[-1]["type"]] == ["message_start", "message_stop"]
    message: Json = {**events[0]["message"], "content": []}
    open_at: int | None = None
    inputs: dict[int, str] = {}
    for event in events[1:-1]:
        match event["type"]:
            case "content_block_start":
                assert (open_at, event["index"]) == (None, len(message["content"]))
                open_at = event["index"]
                message["content"].append(dict(event["content_block"]))
            case "content_block_delta":
                assert event["index"] == open_at
                _add(message["content"][open_at], event["delta"], inputs, event["index"])
            case "content_block_stop":
                assert event["index"] == open_at
                open_at = None
            case "message_delta":
                assert open_at is None
                message |= event["delta"] | {
                    name: event[name] for name in ("usage", "context_management") if name in event
                }
            case kind:
                assert kind == "ping"
    for at, written in inputs.items():
        message["content"][at]["input"] = orjson.loads(written) if written else {}
    return message


def _add(block: Json, delta: Json, inputs: dict[int, Any], at: int) -> None:
    if delta["type"] == "input_json_delta":
        inputs[at] = inputs.get(at, "") + delta["partial_json"]
    else:
        name = TEXT_FIELDS[delta["type"]]
        block[name] += delta[name]
