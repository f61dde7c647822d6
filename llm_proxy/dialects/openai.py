"""The OpenAI dialect, and OpenAI's chat answers read for the other dialects.

Invariants: bodies and streams pass unchanged; a field of another type than published counts as absent, so
an odd answer is never an exception; an answer without choices is a provider's failure, not an empty answer.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from llm_proxy import sse
from llm_proxy.dialects.call import Call
from llm_proxy.dialects.dialect import BodyLimits, HeaderPairs, ListedModel, ModelIndex, ResponseMeta
from llm_proxy.dialects.media_events import MediaEvents
from llm_proxy.dialects.request import ParseContext, parse_object
from llm_proxy.dialects.request.repeated_settings import build_chat
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.endpoints import OPAQUE_ENDPOINTS, Endpoint
from llm_proxy.errors import APIError, ProviderFailed
from llm_proxy.json_access import Json, as_object, is_array, is_object


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """The tokens used; 0 where none are stated."""

    prompt: int = 0
    completion: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer, or a chunk of one.

    Attributes:
        content: The text, or the refusal's; empty when there is none.
        tool_calls: OpenAI's array, or its deltas.
        finish_reason: Why it ended; None in a chunk that did not end it.
        usage: None when it states none.
        model: The name in the answer.
    """

    content: str = ""
    tool_calls: tuple[Json, ...] = ()
    finish_reason: str | None = None
    usage: TokenCounts | None = None
    model: str = ""


def parse_completion(reply: bytes) -> Completion:
    """Parses a JSON answer; raises `ProviderFailed` when it is none."""
    completion = _parse(reply, "message")
    if completion is None:
        raise ProviderFailed("The provider's answer could not be read.")
    return completion


def parse_chunk(data: bytes) -> Completion | None:
    """Parses one event of a stream; None when it is no part of an answer."""
    return _parse(data, "delta")


class ChunkReader:
    """Reads a stream's bytes, however they are chunked."""

    __slots__ = ("_splitter", "finish_reason", "model", "usage")

    def __init__(self) -> None:
        self._splitter = sse.SSEDecoder()
        self.usage = TokenCounts()
        self.finish_reason: str | None = None
        self.model = ""

    def feed(self, data_chunk: bytes) -> list[Completion]:
        """Returns the chunks with text or tool calls; remembers usage, model and finish reason."""
        chunks: list[Completion] = []
        for frame in self._splitter.feed(data_chunk):
            data = sse.parse_event(frame).data
            chunk = parse_chunk(data) if data else None
            if chunk is None:
                continue
            self.usage = chunk.usage or self.usage
            self.finish_reason = chunk.finish_reason or self.finish_reason
            self.model = chunk.model or self.model
            if chunk.content or chunk.tool_calls:
                chunks.append(chunk)
        return chunks


def _parse(document: bytes, part: str) -> Completion | None:
    try:
        parsed = orjson.loads(document)
    except orjson.JSONDecodeError:
        return None
    choices = parsed.get("choices") if is_object(parsed) else None
    if not is_array(choices) or not (choices or part == "delta"):
        return None
    choice = as_object(choices[0]) if choices else {}
    message = as_object(choice.get(part))
    calls = message.get("tool_calls")
    return Completion(
        _text(message.get("content")) or _text(message.get("refusal")),
        tuple(call for call in calls if is_object(call)) if is_array(calls) else (),
        _text(choice.get("finish_reason")) or None,
        _tokens(parsed.get("usage")),
        _text(parsed.get("model")),
    )


def _tokens(usage: Any) -> TokenCounts | None:  # noqa: ANN401 -- a provider's JSON
    if not is_object(usage):
        return None
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    return TokenCounts(prompt, completion, _count(usage.get("total_tokens")) or prompt + completion)


def _text(value: Any) -> str:  # noqa: ANN401 -- a provider's JSON
    return value if type(value) is str else ""


def _count(value: Any) -> int:  # noqa: ANN401 -- a provider's JSON
    return value if type(value) is int and value > 0 else 0


@dataclass(frozen=True, slots=True)
class OpenAIDialect:
    """The identity dialect."""

    name: str = "openai"

    def parse(
        self, endpoint: Endpoint, body: bytes, options: RequestOptions, models: ModelIndex, limits: BodyLimits
    ) -> Call:
        """Returns the call of a body; raises `BadRequest` or `ModelNotFound`."""
        parsed = parse_object(body, limits.max_depth)
        return build_chat(parsed, ParseContext(self.name, endpoint, len(body)), options, models, limits)

    def render(self, call: Call, reply: bytes, meta: ResponseMeta) -> bytes:  # noqa: ARG002 -- headers name the model
        """The bytes unchanged."""
        return reply

    def open_stream(self, call: Call) -> MediaEvents | None:
        """Frames pass unchanged; streams of images and audio have ends of their own."""
        return MediaEvents() if call.endpoint in OPAQUE_ENDPOINTS else None

    def error(self, error: APIError, request_id: str = "") -> Json:  # noqa: ARG002 -- in a header
        """OpenAI's envelope, in a stream too: its SDKs raise that as `APIError`."""
        return error.body()

    def status(self, error: APIError) -> int:
        """The error's own."""
        return error.status

    def headers(self, request_id: str, error: APIError | None = None) -> HeaderPairs:  # noqa: ARG002 -- the same
        """None: its clients read those of every answer."""
        return ()

    def render_models(self, listed: Iterable[ListedModel]) -> Json:
        """The list object of `GET /v1/models`."""
        return {"object": "list", "data": [render_model(model) for model in listed]}


def render_model(model: ListedModel) -> Json:
    """One model as in `GET /v1/models/{id}`, with what else is known of it."""
    known = {
        "mode": model.mode,
        "endpoints": list(model.endpoints) or None,
        "context_window": model.context_window,
        "max_output_tokens": model.max_output_tokens,
    }
    shown = {name: value for name, value in known.items() if value is not None}
    document: Json = {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": model.provider,
    }
    return document | shown


OPENAI = OpenAIDialect()
