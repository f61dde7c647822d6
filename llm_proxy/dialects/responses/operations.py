"""What Responses have beside creating one: stored ones read, deleted, cancelled, listed; compaction.

Pure. Invariants: each is a call like any other, with a request of a limit, a record and errors in OpenAI's
envelope; only compaction uses tokens; a path is one of `StoredOperation`'s, an id inside it opaque.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import orjson

from llm_proxy.dialects.call import Call, Operation
from llm_proxy.dialects.dialect import (
    BodyLimits,
    HeaderPairs,
    ListedModel,
    ModelIndex,
    ResponseMeta,
    StreamRenderer,
)
from llm_proxy.dialects.request import ParseContext, parse_object
from llm_proxy.dialects.request.native_call import resolve_group
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.dialects.response_ids import ResponseIds
from llm_proxy.dialects.responses.dialect import ResponsesDialect
from llm_proxy.dialects.responses.native import STORED_PATH, StoredOperation, stored_operation
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import APIError, NotFound
from llm_proxy.json_access import Json

Parse = Callable[[bytes, RequestOptions, ModelIndex, BodyLimits], Call]


@dataclass(frozen=True, slots=True)
class OperationDialect:
    """One operation of Responses.

    Attributes:
        responses: The dialect that creates responses.
        parse_operation: Returns the call of a request.
    """

    responses: ResponsesDialect
    parse_operation: Parse

    @property
    def name(self) -> str:
        """That of Responses."""
        return self.responses.name

    def parse(
        self, endpoint: Endpoint, body: bytes, options: RequestOptions, models: ModelIndex, limits: BodyLimits
    ) -> Call:
        """Returns the call of a request; raises `BadRequest`, `NotFound` or `ModelNotFound`."""
        assert endpoint == "responses"  # noqa: S101 -- its only one
        return self.parse_operation(body, options, models, limits)

    def render(self, call: Call, reply: bytes, meta: ResponseMeta) -> bytes:  # noqa: ARG002 -- any dialect's
        """The provider's own answer."""
        return reply

    def open_stream(self, call: Call) -> StreamRenderer:
        """Passes the provider's own events."""
        return self.responses.open_stream(call)

    def error(self, error: APIError, request_id: str = "") -> Json:
        """OpenAI's envelope."""
        return self.responses.error(error, request_id)

    def status(self, error: APIError) -> int:
        """The error's own."""
        return self.responses.status(error)

    def headers(self, request_id: str, error: APIError | None = None) -> HeaderPairs:
        """As of every answer of Responses."""
        return self.responses.headers(request_id, error)

    def render_models(self, listed: Iterable[ListedModel]) -> Json:
        """The list object of `GET /v1/models`."""
        return self.responses.render_models(listed)


def on_stored(
    responses: ResponsesDialect, operation: StoredOperation, token: str, query: str
) -> OperationDialect:
    """Returns what serves one request about a stored response."""
    return OperationDialect(responses, partial(_parse_stored, responses.ids, operation, token, query))


def _parse_stored(
    ids: ResponseIds,
    operation: StoredOperation,
    token: str,
    query: str,
    _body: bytes,
    _options: RequestOptions,
    models: ModelIndex,
    _limits: BodyLimits,
) -> Call:
    return stored_operation(operation, token, query, models, ids)


def compacting(responses: ResponsesDialect) -> OperationDialect:
    """Returns what compacts a conversation, where the provider does."""
    return OperationDialect(responses, partial(_parse_compaction, responses))


def _parse_compaction(
    responses: ResponsesDialect,
    body: bytes,
    options: RequestOptions,
    models: ModelIndex,
    limits: BodyLimits,
) -> Call:
    parsed = parse_object(body, limits.max_depth)
    context = ParseContext(responses.name, "responses", len(body), reports_usage=True)
    model, group = resolve_group(parsed, context, options, models)
    if not models.speaks_natively(models.resolved(group), "responses"):
        raise NotFound(
            f"'compact': the model `{model}` has no compaction. Ask it for a summary, and go on with that.",
            param="model",
            code="unsupported_value",
        )
    stateless = parsed if parsed.get("store") is not None else parsed | {"store": False}
    call = responses.parse("responses", orjson.dumps(stateless), options, models, limits)
    kept = {name: value for name, value in call.body.items() if name in parsed or name == "model"}
    sent = {key: value for key, value in kept.items() if key not in {"stream", "guardrails"}}
    compact = Operation("POST", STORED_PATH + "compact", is_free=False)
    return call._replace(body=sent, streaming=False, operation=compact)
