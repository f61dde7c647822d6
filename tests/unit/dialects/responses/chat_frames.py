"""Chat answers as frames, as whole bodies, and what a Responses stream makes of them, for tests."""

from collections.abc import Iterable
from typing import Any

import orjson
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from llm_proxy.dialects.dialect import ResponseMeta
from llm_proxy.dialects.responses.answer import ResponseBuilder
from llm_proxy.dialects.responses.reasoning import ReasoningSeal
from llm_proxy.dialects.responses.request import ResponseContext, translate
from llm_proxy.dialects.responses.request import echo as echo_request
from llm_proxy.dialects.responses.schema import check_body
from llm_proxy.dialects.responses.stream import TranslatedStream
from llm_proxy.dialects.translation.carried import Carried
from llm_proxy.sealing import Sealer, SealingKey
from llm_proxy.sse import SSEDecoder, parse_event

Json = dict[str, Any]
SEAL = ReasoningSeal(Sealer([SealingKey("k1", "s" * 32)]))
OPENAIS_OWN_CODE = b'"context_length_exceeded"'
"""Which OpenAI sends, Codex acts on, and the SDK's type does not list."""
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
USAGE: Json = {
    "prompt_tokens": 12,
    "completion_tokens": 5,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def context(carried: Carried | None = None, **body: Any) -> ResponseContext:
    """What is kept of a request."""
    carried = carried or Carried()
    checked = check_body({"model": "m", "input": "hi", **body}, 4096)
    translated = translate(checked, carried, SEAL)
    echo = {"model": "m", **echo_request(checked, translated.tools)}
    return ResponseContext("t0", 1700000000, echo, translated.tools.callers, carried.thinking_blocks)


def frame(delta: Json, **choice: Any) -> bytes:
    """One frame of a chat stream."""
    event = {"id": "chatcmpl-1", "created": 7, "model": "x", "object": "chat.completion.chunk"}
    return b"data: " + orjson.dumps(event | {"choices": [{"index": 0, "delta": delta, **choice}]}) + b"\n\n"


def ending(finish_reason: str = "stop", **more: Any) -> bytes:
    """The last two frames: why it ended, and the usage."""
    usage: Json = {"id": "chatcmpl-1", "model": "x", "choices": [], "usage": USAGE, **more}
    return frame({}, finish_reason=finish_reason) + b"data: " + orjson.dumps(usage) + b"\n\n"


def whole(message: Json, finish_reason: str = "stop", **choice: Any) -> bytes:
    """A whole chat answer."""
    choices = [{"index": 0, "message": message, "finish_reason": finish_reason, **choice}]
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "x"}
    return orjson.dumps(answer | {"choices": choices, "usage": USAGE})


def stream(kept: ResponseContext, seal: ReasoningSeal | None = SEAL) -> TranslatedStream:
    """The renderer of a stream."""
    return TranslatedStream(ResponseBuilder(kept, seal))


def parsed(out: bytes) -> list[Json]:
    """The events of a Responses stream; each has its name on its `event:` line."""
    events: list[Json] = []
    for raw in SSEDecoder().feed(out):
        found = parse_event(raw)
        assert found.data is not None
        event = orjson.loads(found.data)
        assert found.name.decode() == event["type"]
        events.append(event)
    return events


def events_of(kept: ResponseContext, chunks: Iterable[bytes]) -> list[Json]:
    """The events of a complete answer."""
    renderer = stream(kept)
    out = b"".join(renderer.feed(chunk) for chunk in chunks) + renderer.end(ResponseMeta(latency_ms=2500.0))
    return parsed(out)


def checked(events: list[Json]) -> list[Json]:
    """The events, after each has passed OpenAI's own types and numbers ascend from 0."""
    for event in events:
        EVENTS.validate_json(orjson.dumps(event).replace(OPENAIS_OWN_CODE, b'"server_error"'))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events
