"""The vocabulary of the internal proxy: ids in `metadata`; `content`, `provider`, `model_resolved` back.

Source: docs/dialects.md, "internal".
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from llm_proxy import sse
from llm_proxy.dialects.call import Call
from llm_proxy.dialects.dialect import BodyLimits, ListedModel, ModelIndex, RequestOptions, ResponseMeta
from llm_proxy.dialects.openai import ChunkReader, Completion, TokenCounts, parse_completion
from llm_proxy.dialects.request.build_call import ParseContext, build_call, parse_attribution
from llm_proxy.dialects.request.field_policy import reject_reserved_metadata
from llm_proxy.dialects.request.strict_json import parse_object
from llm_proxy.dialects.request.validators import invalid, wrong_type
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import APIError
from llm_proxy.json_access import Json, is_object


@dataclass(frozen=True, slots=True)
class InternalDialect:
    """The dialect of `/internal/llm`."""

    name: str = "internal"

    def parse(
        self, door: Endpoint, body: bytes, hints: RequestOptions, models: ModelIndex, bounds: BodyLimits
    ) -> Call:
        """The call a body asks for; raises `BadRequest` or `ModelNotFound`."""
        parsed = parse_object(body, bounds.max_depth)
        metadata: Any = parsed.pop("metadata", None)
        metadata = {} if metadata is None else metadata
        if not is_object(metadata):
            raise wrong_type("metadata", "an object", metadata)
        reject_reserved_metadata(metadata)
        user = parsed.get("user")
        named = parse_attribution(metadata, user if type(user) is str else None)
        came = ParseContext(self.name, door, len(body), model_optional=True, reports_usage=True)
        return require_one_choice(build_call(parsed, came, hints, models, bounds, named))

    def render(self, reply: bytes, answered: ResponseMeta) -> bytes:
        """`{content, usage, provider, model_resolved, latency_ms}` and `tool_calls` when there are any."""
        answer = parse_completion(reply)
        written: Json = {"content": answer.content}
        if answer.tool_calls:
            written["tool_calls"] = answer.tool_calls
        return orjson.dumps({**written, **_told(answer.usage, answer.model, answered)})

    def open_stream(self, call: Call) -> "InternalStream":  # noqa: ARG002 -- the same for every call
        """A writer for one stream."""
        return InternalStream()

    def error(self, refused: APIError) -> Json:
        """`detail`, as FastAPI's clients read it, and OpenAI's envelope."""
        return {"detail": refused.message, **refused.body()}

    def stream_error(self, refused: APIError) -> bytes:
        """One event with the same object."""
        return sse.encode_event(orjson.dumps(self.error(refused)))

    def render_models(self, offers: Iterable[ListedModel]) -> Json:
        """`{models: [{name, provider, physical_name, max_tokens}]}`."""
        return {
            "models": [
                {
                    "name": offer.name,
                    "provider": offer.provider,
                    "physical_name": offer.provider_model,
                    "max_tokens": offer.max_tokens,
                }
                for offer in offers
            ]
        }


@dataclass(slots=True)
class InternalStream:
    """One stream: `content` pieces, then everything else in one `done` event."""

    chunks: ChunkReader = field(default_factory=ChunkReader)

    def feed(self, chunk: bytes) -> bytes:
        """OpenAI's frames in, ours out."""
        return b"".join(chunk_event(piece, "tool_calls") for piece in self.chunks.feed(chunk))

    def end(self, answered: ResponseMeta) -> bytes:
        """The last event and the end mark."""
        told = _told(self.chunks.usage, self.chunks.model, answered)
        return sse.encode_event(orjson.dumps({"done": True, "content": "", **told})) + sse.DONE_EVENT


def chunk_event(piece: Completion, tool_calls: str) -> bytes:
    """One piece of text or of tool calls as an event."""
    said: Json = {"content": piece.content}
    if piece.tool_calls:
        said[tool_calls] = piece.tool_calls
    return sse.encode_event(orjson.dumps(said))


def require_one_choice(call: Call) -> Call:
    """The call, unless it asks for more answers than one `content` can hold."""
    if call.choices != 1:
        raise invalid("n", "only 1 is possible here, for there is one 'content' to answer in.")
    return call


def _told(usage: TokenCounts | None, model: str, answered: ResponseMeta) -> Json:
    usage = usage or TokenCounts()
    return {
        "usage": {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "total_tokens": usage.total,
        },
        "provider": answered.provider or "unknown",
        "model_resolved": answered.provider_model or model.rpartition("/")[2],
        "latency_ms": round(answered.latency_ms, 1),
    }


INTERNAL = InternalDialect()
