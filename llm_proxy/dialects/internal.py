"""The vocabulary of the internal proxy: ids in `metadata`; `content`, `provider`, `model_resolved` back.

Source: docs/dialects.md, "internal".
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from llm_proxy import sse
from llm_proxy.dialects.call import Call
from llm_proxy.dialects.dialect import Answered, Bounds, Hints, Models, Offer
from llm_proxy.dialects.openai import Answer, Pieces, Tokens, read_answer
from llm_proxy.dialects.request.build_call import Came, compose, name_caller
from llm_proxy.dialects.request.field_policy import check_metadata_names
from llm_proxy.dialects.request.strict_json import parse
from llm_proxy.dialects.request.validators import refused, wrong_type
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import Refused
from llm_proxy.json_access import Json, is_object


@dataclass(frozen=True, slots=True)
class Internal:
    """The dialect of `/internal/llm`."""

    name: str = "internal"

    def read(self, door: Endpoint, body: bytes, hints: Hints, models: Models, bounds: Bounds) -> Call:
        """The call a body asks for; raises `BadRequest` or `ModelNotFound`."""
        parsed = parse(body, bounds.max_depth)
        metadata: Any = parsed.pop("metadata", None)
        metadata = {} if metadata is None else metadata
        if not is_object(metadata):
            raise wrong_type("metadata", "an object", metadata)
        check_metadata_names(metadata)
        user = parsed.get("user")
        named = name_caller(metadata, user if type(user) is str else None)
        came = Came(self.name, door, len(body), model_optional=True, usage_told=True)
        return one_choice(compose(parsed, came, hints, models, bounds, named))

    def write(self, reply: bytes, answered: Answered) -> bytes:
        """`{content, usage, provider, model_resolved, latency_ms}` and `tool_calls` when there are any."""
        answer = read_answer(reply)
        written: Json = {"content": answer.content}
        if answer.tool_calls:
            written["tool_calls"] = answer.tool_calls
        return orjson.dumps({**written, **_told(answer.usage, answer.model, answered)})

    def stream(self, call: Call) -> "InternalStream":  # noqa: ARG002 -- the same for every call
        """A writer for one stream."""
        return InternalStream()

    def error(self, refused: Refused) -> Json:
        """`detail`, as FastAPI's clients read it, and OpenAI's envelope."""
        return {"detail": refused.message, **refused.body()}

    def stream_error(self, refused: Refused) -> bytes:
        """One event with the same object."""
        return sse.frame(orjson.dumps(self.error(refused)))

    def models(self, offers: Iterable[Offer]) -> Json:
        """`{models: [{name, provider, physical_name, max_tokens}]}`."""
        return {
            "models": [
                {
                    "name": offer.name,
                    "provider": offer.provider,
                    "physical_name": offer.physical,
                    "max_tokens": offer.max_tokens,
                }
                for offer in offers
            ]
        }


@dataclass(slots=True)
class InternalStream:
    """One stream: `content` pieces, then everything else in one `done` event."""

    pieces: Pieces = field(default_factory=Pieces)

    def feed(self, chunk: bytes) -> bytes:
        """OpenAI's frames in, ours out."""
        return b"".join(piece_frame(piece, "tool_calls") for piece in self.pieces.feed(chunk))

    def end(self, answered: Answered) -> bytes:
        """The last event and the end mark."""
        told = _told(self.pieces.usage, self.pieces.model, answered)
        return sse.frame(orjson.dumps({"done": True, "content": "", **told})) + sse.DONE


def piece_frame(piece: Answer, tool_calls: str) -> bytes:
    """One piece of text or of tool calls as an event."""
    said: Json = {"content": piece.content}
    if piece.tool_calls:
        said[tool_calls] = piece.tool_calls
    return sse.frame(orjson.dumps(said))


def one_choice(call: Call) -> Call:
    """The call, unless it asks for more answers than one `content` can hold."""
    if call.choices != 1:
        raise refused("n", "only 1 is possible here, for there is one 'content' to answer in.")
    return call


def _told(usage: Tokens | None, model: str, answered: Answered) -> Json:
    usage = usage or Tokens()
    return {
        "usage": {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "total_tokens": usage.total,
        },
        "provider": answered.provider or "unknown",
        "model_resolved": answered.physical or model.rpartition("/")[2],
        "latency_ms": round(answered.latency_ms, 1),
    }


INTERNAL = Internal()
