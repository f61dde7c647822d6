"""OpenAI's own vocabulary: what comes in goes on, what comes back goes out."""

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from llm_proxy import sse
from llm_proxy.dialects.body import parse
from llm_proxy.dialects.call import Call
from llm_proxy.dialects.compose import Came, compose
from llm_proxy.dialects.dialect import Answered, Bounds, Hints, Models, Offer
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import Refused
from llm_proxy.json_access import Json


@dataclass(frozen=True, slots=True)
class OpenAI:
    """The identity dialect."""

    name: str = "openai"

    def read(self, door: Endpoint, body: bytes, hints: Hints, models: Models, bounds: Bounds) -> Call:
        """The call a body asks for; raises `BadRequest` or `ModelNotFound`."""
        parsed = parse(body, bounds.max_depth)
        return compose(parsed, Came(self.name, door, len(body)), hints, models, bounds)

    def write(self, reply: bytes, answered: Answered) -> bytes:  # noqa: ARG002 -- headers tell who answered
        """The bytes as they came."""
        return reply

    def stream(self, call: Call) -> None:
        """Frames pass as they are."""

    def error(self, refused: Refused) -> Json:
        """OpenAI's envelope."""
        return refused.body()

    def stream_error(self, refused: Refused) -> bytes:
        """One frame with OpenAI's envelope, which its SDKs raise as `APIError`."""
        return sse.frame(orjson.dumps(refused.body()))

    def models(self, offers: Iterable[Offer]) -> Json:
        """The list object of `GET /v1/models`."""
        return {"object": "list", "data": [model(offer) for offer in offers]}


def model(offer: Offer) -> Json:
    """One model as `GET /v1/models/{id}` answers it, and what else is known of it."""
    known = {
        "mode": offer.mode,
        "context_window": offer.context_window,
        "max_output_tokens": offer.max_output_tokens,
    }
    shown = {name: value for name, value in known.items() if value is not None}
    told: Json = {"id": offer.name, "object": "model", "created": offer.created, "owned_by": offer.provider}
    return told | shown


OPENAI = OpenAI()
