"""Google's `generateContent` reaches Gemini, and its answers the gateway, as they were sent.

A part of `native_calls`. Invariants: a stream is complete once each candidate that began has ended, or the
prompt was blocked; its cost is that of all it states.
"""

from collections.abc import AsyncGenerator, Callable, Iterable
from importlib import import_module
from typing import Any

from llm_proxy.content_frames import ContentEnd
from llm_proxy.json_access import Json, as_object, as_objects
from llm_proxy.sidecar import call_outcome, catalog, litellm_internals
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.stream_end import read_to_end

CONFIGS = (
    ("litellm.llms.gemini.google_genai.transformation", "GoogleGenAIConfig"),
    ("litellm.llms.vertex_ai.google_genai.transformation", "VertexAIGoogleGenAIConfig"),
)
COUNTER = ("litellm.llms.gemini.count_tokens.handler", "GoogleAIStudioTokenCounter")
EVENTS = "litellm.google_genai.streaming_iterator"
LOGGED = (
    (
        "litellm.proxy.pass_through_endpoints.llm_provider_handlers.gemini_passthrough_logging_handler",
        "GeminiPassthroughLoggingHandler",
        "_create_gemini_response_logging_payload_for_generate_content",
    ),
    (
        "litellm.proxy.pass_through_endpoints.llm_provider_handlers.vertex_passthrough_logging_handler",
        "VertexPassthroughLoggingHandler",
        "_create_vertex_response_logging_payload_for_generate_content",
    ),
)
"""Where LiteLLM prices a stream for its log, by the prices it knows of the model alone."""
MARKS = (b"usageMetadata", b"usage_metadata", b"finishReason", b"finish_reason", b"blockReason")
"""One of them is in every event that is read."""


def install(is_relayed: Callable[[], bool]) -> None:
    """Patch LiteLLM's requests and its streams; `is_relayed` says whether the running call's bytes pass."""
    for module, name in CONFIGS:
        config: Untyped = getattr(import_module(module), name)
        config.transform_generate_content_request = _as_sent(config.transform_generate_content_request)
    for module, name, function in LOGGED:
        handler: Untyped = getattr(import_module(module), name)
        setattr(handler, function, staticmethod(_priced_as_stated(getattr(handler, function))))
    counter: Untyped = getattr(import_module(COUNTER[0]), COUNTER[1])
    counter._clean_contents_for_gemini_api = _as_they_are  # noqa: SLF001 -- needs a library that is not here
    events = stream_class()
    events.__anext__ = _next_bytes(events.__anext__, is_relayed)


def _as_they_are(_self: Untyped, contents: Untyped) -> Untyped:
    return contents


def stream_class() -> Untyped:
    """LiteLLM's stream of Google's events."""
    return import_module(EVENTS).AsyncGoogleGenAIGenerateContentStreamingIterator


def _as_sent(transform: Callable[..., Any]) -> Callable[..., Any]:
    def transform_as_sent(self: Untyped, *args: Untyped, **options: Untyped) -> Untyped:
        return call_outcome.native_body() or transform(self, *args, **options)

    return transform_as_sent


def _next_bytes(step: Callable[..., Any], is_relayed: Callable[[], bool]) -> Callable[..., Any]:
    async def next_bytes(self: Untyped) -> Untyped:
        """Yield the bytes as they come; the code that relays them logs the call."""
        if not is_relayed():
            return await step(self)
        if not hasattr(self, "llmp_chunks"):
            self.llmp_chunks = native_chunks(self.response)
        async for chunk in self.llmp_chunks:
            self.collected_chunks.append(chunk)
            return chunk
        raise StopAsyncIteration

    return next_bytes


def native_chunks(response: Untyped) -> AsyncGenerator[bytes]:
    """Return the bytes of a native stream, up to its last event and what comes soon after."""
    outcome = call_outcome.running() or call_outcome.CallOutcome()
    outcome.stream_complete = False  # that of an earlier attempt is none of this one
    return read_to_end(response.aiter_bytes(), lambda: outcome.stream_complete, response.aclose)


async def log_success(stream: Untyped, cost_usd: float | None) -> None:
    """Have LiteLLM log a stream that is complete, with the cost that is stated to the gateway."""
    stream.litellm_logging_obj.llmp_cost_usd = cost_usd
    await stream._handle_async_streaming_logging()  # noqa: SLF001 -- no setting does this


def _priced_as_stated(create: Callable[..., Any]) -> Callable[..., Any]:
    def create_payload(
        *, litellm_model_response: Untyped, logging_obj: Untyped, **options: Untyped
    ) -> Untyped:
        payload = create(litellm_model_response=litellm_model_response, logging_obj=logging_obj, **options)
        if (cost_usd := getattr(logging_obj, "llmp_cost_usd", None)) is not None:
            litellm_model_response.hidden_params["response_cost"] = cost_usd  # not calculated again
            payload["response_cost"] = logging_obj.model_call_details["response_cost"] = cost_usd
        return payload

    return create_payload


class ContentUsage:
    """What a stream of Google's events states, in parts.

    Attributes:
        stated: A response with the last usage, and what else of it costs money.
    """

    def __init__(self) -> None:
        self.stated: Json = {}
        self._end = ContentEnd()

    def read(self, events: Iterable[Json]) -> None:
        """Note what events state; record the end."""
        for event in events:
            if usage := as_object(event.get("usageMetadata")):
                self.stated["usageMetadata"] = usage
            self._end.read(event)
            for candidate in as_objects(event.get("candidates")):
                if grounding := candidate.get("groundingMetadata"):
                    self.stated["candidates"] = [{"index": 0, "groundingMetadata": grounding}]
        if self._end.is_complete:
            call_outcome.record_stream_end()

    def is_truncated(self) -> bool:
        """Whether the last event is missing."""
        return not self._end.is_complete

    def cost_usd(self, logging: Untyped) -> float | None:
        """Return what the stream cost; None if it is not known."""
        return content_cost(self.stated, logging)


def content_cost(answer: Json, logging: Untyped) -> float | None:
    """Return what an answer of Google's cost, USD, by the prices of the deployment that served it."""

    def translated() -> Untyped:
        library = litellm_internals.litellm_module()
        return library.VertexGeminiConfig().transform_google_generate_content_to_openai_model_response(
            completion_response=answer,
            model_response=library.ModelResponse(),
            model=logging.model,
            logging_obj=logging,
            raw_response=import_module("httpx").Response(status_code=200, headers={}),
        )

    return known_cost(translated, logging) if answer.get("usageMetadata") else None


def known_cost(translate: Callable[[], Untyped], logging: Untyped) -> float | None:
    """Return what a native answer, translated into LiteLLM's, cost, USD; None if it is not known."""
    attempt = call_outcome.last_attempt()
    if attempt is None:
        return None
    try:
        cost: float | None = logging.response_cost_calculator(result=translate())
    except Exception:  # noqa: BLE001 -- a cost that cannot be calculated must not break the answer
        return None
    return cost if catalog.is_cost_known(cost, {}, attempt.deployment, attempt.model) else None
