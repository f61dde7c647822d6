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
from llm_proxy.dialects.dialect import BodyLimits, ListedModel, ModelIndex, RequestOptions, ResponseMeta
from llm_proxy.dialects.request.build_call import ParseContext, build_call
from llm_proxy.dialects.request.strict_json import parse_object
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import APIError, ProviderFailed
from llm_proxy.json_access import Json, is_array, is_object


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """What was used; 0 where nobody stated it."""

    prompt: int = 0
    completion: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer or a piece of one.

    Attributes:
        content: The text, or the refusal's; empty when there is none.
        tool_calls: OpenAI's array, or its deltas.
        finish_reason: Why it ended; None in a piece that did not end it.
        usage: None when it states none.
        model: The name the answer carries.
    """

    content: str = ""
    tool_calls: tuple[Json, ...] = ()
    finish_reason: str | None = None
    usage: TokenCounts | None = None
    model: str = ""


def parse_completion(reply: bytes) -> Completion:
    """The answer in a JSON reply; raises `ProviderFailed` when it is none."""
    answer = _read(reply, "message")
    if answer is None:
        raise ProviderFailed("The provider's answer could not be read.")
    return answer


def parse_chunk(data: bytes) -> Completion | None:
    """What one event of a stream adds; None when it says nothing of an answer."""
    return _read(data, "delta")


class ChunkReader:
    """Reads a stream's bytes, however they were cut, into the pieces they hold."""

    __slots__ = ("_splitter", "finish_reason", "model", "usage")

    def __init__(self) -> None:
        self._splitter = sse.SSEDecoder()
        self.usage = TokenCounts()
        self.finish_reason: str | None = None
        self.model = ""

    def feed(self, chunk: bytes) -> list[Completion]:
        """The pieces with text or tool calls; usage, model and the end are remembered."""
        pieces: list[Completion] = []
        for frame in self._splitter.feed(chunk):
            data = sse.parse_event(frame).data
            piece = parse_chunk(data) if data else None
            if piece is None:
                continue
            self.usage = piece.usage or self.usage
            self.finish_reason = piece.finish_reason or self.finish_reason
            self.model = piece.model or self.model
            if piece.content or piece.tool_calls:
                pieces.append(piece)
        return pieces


def _read(document: bytes, holder: str) -> Completion | None:
    try:
        parsed = orjson.loads(document)
    except orjson.JSONDecodeError:
        return None
    choices = parsed.get("choices") if is_object(parsed) else None
    if not is_array(choices) or not (choices or holder == "delta"):
        return None
    choice = _object(choices[0]) if choices else {}
    said = _object(choice.get(holder))
    calls = said.get("tool_calls")
    return Completion(
        _text(said.get("content")) or _text(said.get("refusal")),
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


def _object(value: Any) -> Json:  # noqa: ANN401 -- a provider's JSON
    return value if is_object(value) else {}


def _text(value: Any) -> str:  # noqa: ANN401 -- a provider's JSON
    return value if type(value) is str else ""


def _count(value: Any) -> int:  # noqa: ANN401 -- a provider's JSON
    return value if type(value) is int and value > 0 else 0


@dataclass(frozen=True, slots=True)
class OpenAIDialect:
    """The identity dialect."""

    name: str = "openai"

    def parse(
        self, door: Endpoint, body: bytes, hints: RequestOptions, models: ModelIndex, bounds: BodyLimits
    ) -> Call:
        """The call a body asks for; raises `BadRequest` or `ModelNotFound`."""
        parsed = parse_object(body, bounds.max_depth)
        return build_call(parsed, ParseContext(self.name, door, len(body)), hints, models, bounds)

    def render(self, reply: bytes, answered: ResponseMeta) -> bytes:  # noqa: ARG002 -- headers tell who answered
        """The bytes as they came."""
        return reply

    def open_stream(self, call: Call) -> None:
        """Frames pass as they are."""

    def error(self, refused: APIError) -> Json:
        """OpenAI's envelope."""
        return refused.body()

    def stream_error(self, refused: APIError) -> bytes:
        """One frame with OpenAI's envelope, which its SDKs raise as `APIError`."""
        return sse.encode_event(orjson.dumps(refused.body()))

    def render_models(self, offers: Iterable[ListedModel]) -> Json:
        """The list object of `GET /v1/models`."""
        return {"object": "list", "data": [render_model(offer) for offer in offers]}


def render_model(offer: ListedModel) -> Json:
    """One model as `GET /v1/models/{id}` answers it, and what else is known of it."""
    known = {
        "mode": offer.mode,
        "context_window": offer.context_window,
        "max_output_tokens": offer.max_output_tokens,
    }
    shown = {name: value for name, value in known.items() if value is not None}
    told: Json = {"id": offer.name, "object": "model", "created": offer.created, "owned_by": offer.provider}
    return told | shown


OPENAI = OpenAIDialect()
