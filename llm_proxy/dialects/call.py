"""One request in OpenAI's shape, whatever dialect it came in.

Invariants: `body` holds only what may be sent to the sidecar, in a fixed field order; `model` is the
requested
name, `group` the model group it resolved to; nothing here names an HTTP framework.
"""

from dataclasses import dataclass
from typing import NamedTuple

from llm_proxy.dialects.response_ids import ResponseRef
from llm_proxy.endpoints import Endpoint
from llm_proxy.identity import NO_ATTRIBUTION, Attribution
from llm_proxy.identity.caller import Priority
from llm_proxy.json_access import Json
from llm_proxy.quantities import NOTHING, Quantities
from llm_proxy.uploads import UploadedFile

BYTES_PER_TOKEN = 4
"""Of English text, about; OpenAI's own limiter counts the same way."""
UNBOUNDED_TOKENS = 2**31
"""The token limit of a request for an answer without end; a larger number fits into no database column."""


@dataclass(frozen=True, slots=True)
class CacheControl:
    """The caller's `Cache-Control` for the response cache (RFC 9111, 5.2.1)."""

    no_cache: bool = False
    no_store: bool = False
    max_age_s: int | None = None


EVENT_STREAM = "text/event-stream; charset=utf-8"
DEFAULT_CACHE_CONTROL = CacheControl()
GUARDRAILS_FIELD = "guardrails"
"""LiteLLM's field of a body: guardrails that shall check this call, beside those that check every one."""


class Operation(NamedTuple):
    """What a provider does beside answering: a stored response, a count, a compaction.

    Attributes:
        method: The HTTP method.
        path: The path at the sidecar, its query included.
        is_free: No model runs for it.
        resumes: Its stream begins behind an event that the caller has, which may be the last one.
    """

    method: str
    path: str
    is_free: bool = True
    resumes: bool = False


class Call(NamedTuple):
    """One model call to be admitted and forwarded.

    Attributes:
        endpoint: The operation at the sidecar, whatever path it came by.
        dialect: The name of its dialect (`openai`, `internal`, `generate`).
        model: The name the caller sent (or the default model).
        group: The sidecar's model group that serves it.
        body: What is sent upstream, in the schema of `endpoint`.
        streaming: The caller wants server-sent events.
        wants_usage: The caller itself requested the usage frame of a stream.
        attribution: The tenant, user, agent ... that the body names.
        max_tokens: The most completion tokens the request asks for; None when it does not say.
        prompt_bytes: Size of what is sent, the base of the token estimate.
        timeout_s: The caller's own timeout; None for the default.
        context: What the dialect keeps of the request for its answer: an immutable object of its own.
        provider_headers: Headers that the provider gets with the call; the dialect allows each.
        optional_fields: Fields of `body` that are left out where a model is known not to have them.
        response: The stored response it is about or goes on from: its deployment's account serves the call.
        items: The items of stored responses that its input names.
        operation: What the provider does instead of the endpoint's own operation; None for that.
        stream_type: The media type of its stream.
        files: The files that go with the body, which is a form's then.
        quantities: What it requests beside tokens, estimated where it does not say; the basis of its
            reservation, and of its bill where the answer's usage is not stated.
        priority: The class in which the caller wants it to wait; None where it does not say.
    """

    endpoint: Endpoint
    dialect: str
    model: str
    group: str
    body: Json
    streaming: bool = False
    wants_usage: bool = False
    attribution: Attribution = NO_ATTRIBUTION
    max_tokens: int | None = None
    prompt_bytes: int = 0
    choices: int = 1
    cache: CacheControl = DEFAULT_CACHE_CONTROL
    timeout_s: float | None = None
    context: object = None
    provider_headers: tuple[tuple[str, str], ...] = ()
    optional_fields: tuple[str, ...] = ()
    response: ResponseRef | None = None
    items: tuple[ResponseRef, ...] = ()
    operation: Operation | None = None
    stream_type: str = EVENT_STREAM
    files: tuple[UploadedFile, ...] = ()
    quantities: Quantities = NOTHING
    priority: Priority | None = None


BATCH_TIER = "flex"
"""OpenAI's `service_tier` of calls that may wait."""


def wants_batch(call: Call) -> bool:
    """Whether a call may wait behind interactive ones: `X-Priority` says so, or else its `service_tier`."""
    if call.priority is not None:
        return call.priority == "batch"
    return call.body.get("service_tier") == BATCH_TIER


class Count(NamedTuple):
    """A prompt whose tokens are to be counted, without a call.

    Attributes:
        body: For the sidecar: `model`, `messages`, `tools`; `native` and `system` for Anthropic's own,
            `responses` for a native body of Responses, `google` for what counts of Google's.
        size_bytes: The size of the caller's body.
    """

    body: Json
    size_bytes: int
