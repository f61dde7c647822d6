"""The dialect of `/internal/llm`: ids in `metadata`; `content`, `provider`, `model_resolved` in the answer.

Source: docs/dialects/internal_and_generate.md.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from llm_proxy import sse
from llm_proxy.dialects.call import Call
from llm_proxy.dialects.dialect import BodyLimits, HeaderPairs, ListedModel, ModelIndex, ResponseMeta
from llm_proxy.dialects.openai import ChunkReader, Completion, TokenCounts, parse_completion
from llm_proxy.dialects.request import ParseContext, build_call, invalid, parse_object, wrong_type
from llm_proxy.dialects.request.build_call import parse_attribution
from llm_proxy.dialects.request.field_policy import reject_reserved_metadata
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import APIError
from llm_proxy.json_access import Json, is_object


@dataclass(frozen=True, slots=True)
class InternalDialect:
    """The dialect of `/internal/llm`."""

    name: str = "internal"

    def parse(
        self, endpoint: Endpoint, body: bytes, options: RequestOptions, models: ModelIndex, limits: BodyLimits
    ) -> Call:
        """Returns the call of a body; raises `BadRequest` or `ModelNotFound`."""
        parsed = parse_object(body, limits.max_depth)
        metadata: Any = parsed.pop("metadata", None)
        metadata = {} if metadata is None else metadata
        if not is_object(metadata):
            raise wrong_type("metadata", "an object", metadata)
        reject_reserved_metadata(metadata)
        user = parsed.get("user")
        attribution = parse_attribution(metadata, user if type(user) is str else None)
        context = ParseContext(self.name, endpoint, len(body), model_optional=True, reports_usage=True)
        return require_one_choice(build_call(parsed, context, options, models, limits, attribution))

    def render(self, call: Call, reply: bytes, meta: ResponseMeta) -> bytes:  # noqa: ARG002 -- the same for every call
        """`{content, usage, provider, model_resolved, latency_ms}` and `tool_calls` when there are any."""
        completion = parse_completion(reply)
        written: Json = {"content": completion.content}
        if completion.tool_calls:
            written["tool_calls"] = completion.tool_calls
        return orjson.dumps({**written, **_summary(completion.usage, completion.model, meta)})

    def open_stream(self, call: Call) -> "InternalStream":  # noqa: ARG002 -- the same for every call
        """Returns the renderer of one stream."""
        return InternalStream(self.error)

    def error(self, error: APIError, request_id: str = "") -> Json:  # noqa: ARG002 -- in a header
        """`detail`, as FastAPI's clients read it, and OpenAI's envelope."""
        return {"detail": error.message, **error.body()}

    def status(self, error: APIError) -> int:
        """The error's own."""
        return error.status

    def headers(self, request_id: str, error: APIError | None = None) -> HeaderPairs:  # noqa: ARG002 -- the same
        """None: its clients read those of every answer."""
        return ()

    def render_models(self, listed: Iterable[ListedModel]) -> Json:
        """`{models: [{name, provider, physical_name, max_tokens}]}`."""
        return {
            "models": [
                {
                    "name": model.name,
                    "provider": model.provider,
                    "physical_name": model.provider_model,
                    "max_tokens": model.max_tokens,
                }
                for model in listed
            ]
        }


@dataclass(slots=True)
class InternalStream:
    """Renders one stream: `content` chunks, then everything else in one `done` event.

    Attributes:
        error: Renders an error's body.
    """

    error: Callable[[APIError], Json]
    chunks: ChunkReader = field(default_factory=ChunkReader)
    tool_calls_field: str = "tool_calls"

    def feed(self, chunk: bytes) -> bytes:
        """Takes OpenAI's frames, returns this dialect's."""
        return b"".join(map(self._chunk_event, self.chunks.feed(chunk)))

    def _chunk_event(self, completion: Completion) -> bytes:
        event: Json = {"content": completion.content}
        if completion.tool_calls:
            event[self.tool_calls_field] = completion.tool_calls
        return sse.encode_event(orjson.dumps(event))

    def end(self, meta: ResponseMeta) -> bytes:
        """The last event and the end mark."""
        summary = _summary(self.chunks.usage, self.chunks.model, meta)
        return sse.encode_event(orjson.dumps({"done": True, "content": "", **summary})) + sse.DONE_EVENT

    def fail(self, error: APIError) -> bytes:
        """One event with the error's body."""
        return sse.encode_event(orjson.dumps(self.error(error)))

    def ping(self) -> bytes:
        """Nothing: these clients know no such frame."""
        return b""


def require_one_choice(call: Call) -> Call:
    """Returns the call; raises for more than one choice, because the answer has one `content`."""
    if call.choices != 1:
        raise invalid("n", "expected 1, because the answer has one 'content'.")
    return call


def _summary(usage: TokenCounts | None, model: str, meta: ResponseMeta) -> Json:
    usage = usage or TokenCounts()
    return {
        "usage": {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "total_tokens": usage.total,
        },
        "provider": meta.provider or "unknown",
        "model_resolved": meta.provider_model or model.rpartition("/")[2],
        "latency_ms": round(meta.latency_ms, 1),
    }


INTERNAL = InternalDialect()
