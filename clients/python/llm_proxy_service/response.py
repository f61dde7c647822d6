"""What a caller gets: an answer, the chunks of a stream, vectors, and what the service knows of itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NotRequired, TypedDict


class FunctionCall(TypedDict):
    """A function the model wants to be called; `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A tool the model wants to be called; its answer goes back under `id`."""

    id: str
    type: str
    function: FunctionCall


class ToolCallDelta(TypedDict):
    """A piece of a tool call; pieces of one `index` belong together, their `arguments` are joined."""

    index: int
    id: NotRequired[str]
    function: dict[str, str]


class Usage(TypedDict):
    """Tokens of a call, as the provider counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMResponse:
    """An answer.

    Attributes:
        content: The text; empty where the model calls functions instead.
        function_call: The first call the model made, whether `functions` or `tools` were given.
        tool_calls: Every call the model made.
        refusal: Why the model declines to answer in the requested format.
        finish_reason: `stop`, `length`, `tool_calls`, `content_filter`.
        cost: US dollars; None where no price is known. A cached answer costs nothing.
        provider: Who answered, as registered, or as the gateway names it.
        model: The model that answered.
        cached: Whether the answer came from the cache.
        request_id: The id under which the gateway or the provider knows the call.
        latency: Seconds the call took.
        raw: The answer as it came, in OpenAI's chat schema.
    """

    content: str
    model: str
    provider: str
    usage: Usage
    function_call: FunctionCall | None = None
    tool_calls: Sequence[ToolCall] = ()
    refusal: str | None = None
    finish_reason: str | None = None
    cost: float | None = None
    cached: bool = False
    request_id: str | None = None
    latency: float = 0.0
    raw: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMChunk:
    """A piece of a streamed answer.

    Attributes:
        content: The next characters; may be empty.
        tool_calls: Pieces of calls.
        finish_reason: Set in the last chunk with content.
        usage: The tokens of the whole answer; in the last chunk, where the provider states them.
        cost: US dollars of the whole answer, in the last chunk, where a price is known.
    """

    content: str = ""
    tool_calls: Sequence[ToolCallDelta] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    cost: float | None = None
    model: str | None = None
    provider: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingResponse:
    """Vectors, in the order of the inputs; the other fields as in `LLMResponse`."""

    vectors: Sequence[Sequence[float]]
    model: str
    provider: str
    usage: Usage
    cost: float | None = None
    cached: bool = False
    request_id: str | None = None


class ServiceStats(TypedDict):
    """Figures since the start: of this service in-process, of the caller's key at the gateway.

    `total_cost` is in US dollars; calls of unknown price are not in it.
    """

    total_requests: int
    failed_requests: int
    cache_hits: int
    cache_misses: int
    total_tokens: int
    total_cost: float


class ProviderMetrics(TypedDict):
    """Figures of one provider.

    `request_count` counts every attempt, `error_rate` is the failed share of them, from 0 to 1, `avg_latency`
    is in seconds, over those that succeeded.
    """

    request_count: int
    error_count: int
    error_rate: float
    avg_latency: float
    active_requests: int
    total_tokens: int
    total_cost: float


class HealthReport(TypedDict):
    """`status` is `healthy`, `degraded`, `unhealthy` or `stopped`; `providers`: `healthy`, or why not."""

    status: str
    providers: dict[str, str]


class RateLimitStatus(TypedDict):
    """Requests of the running minute; `limit` and `remaining` are None where there is no limit.

    `reset_in` is in seconds, until the next request is free.
    """

    limit: int | None
    remaining: int | None
    reset_in: float
