"""Every name of LiteLLM that the sidecar uses beyond its settings: what an upgrade must be checked against.

Invariants: nothing is imported before the first call, because LiteLLM reads the environment while it is
imported. LiteLLM's objects are untyped: the type checkers' environment has no LiteLLM.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

from llm_proxy.endpoints import Endpoint, EndpointSpec
from llm_proxy.json_access import Json, as_object
from llm_proxy.wildcards import wildcard_matches

Untyped = Any
"""An object of LiteLLM."""
UNIFIED_GUARDRAILS = "litellm.proxy.guardrails.guardrail_hooks.unified_guardrail.unified_guardrail"
RESPONSE_IDS_HOOK = "responses_id_security"
"""LiteLLM's hook that writes the ids of responses anew and, for that, reads every stream."""
IMPORTED_BY_FIRST_CALLS = (
    *("litellm.litellm_core_utils.default_encoding", "litellm.integrations.otel.logger"),
    *("litellm.proxy.pass_through_endpoints.llm_passthrough_endpoints", "litellm.proxy.admin_mcp"),
    *("litellm.proxy.hooks.mcp_semantic_filter", "litellm.integrations.shadow_eval_logger"),
    "litellm.proxy._experimental.mcp_server.auth.user_api_key_auth_mcp",
    "litellm.proxy._experimental.mcp_server.mcp_server_manager",
    *("litellm.llms.github_copilot.per_user_auth", "litellm.llms.litellm_proxy.chat.transformation"),
    *("litellm.llms.openai_like.dynamic_config", "litellm.llms.openai.chat.gpt_audio_transformation"),
    *("anyio._backends._asyncio", "uvicorn.protocols.http.httptools_impl", "uvloop"),
)
"""Modules that LiteLLM imports only at its start or in a call; a release may lack one."""
CALLBACK_LISTS = (
    *("callbacks", "success_callback", "failure_callback", "input_callback", "service_callback"),
    *("_async_success_callback", "_async_failure_callback"),
)
PATCH_POINTS: dict[str, tuple[str, ...]] = {
    "litellm": (
        *(
            "callbacks",
            "model_cost",
            "get_llm_provider",
            "get_model_info",
            "BadGatewayError",
            "EmbeddingResponse",
            "Usage",
        ),
        *("UnsupportedParamsError", "LlmProviders", "ProviderConfigManager"),
        *(
            "OpenAIGPTConfig",
            "OpenAIConfig",
            "AzureOpenAIConfig",
            "openai_text_completion_compatible_providers",
            *("open_ai_chat_completion_models", "get_llm_provider"),
        ),
        *("cache", "model_alias_map", "ModelResponse", "TextCompletionResponse", "stream_chunk_builder"),
        *("CohereRerankConfig", "CohereRerankV2Config"),
    ),
    "litellm.litellm_core_utils.prompt_templates.factory": (
        *("_sanitize_empty_text_content", "_EMPTY_TEXT_PLACEHOLDER"),
    ),
    "litellm.litellm_core_utils.prompt_templates.mid_conversation_system": ("CONVERTED_SYSTEM_NOTE",),
    "litellm.llms.anthropic.chat.transformation": ("AnthropicConfig", "has_tool_call_blocks"),
    "litellm.llms.anthropic.chat.handler": ("ModelResponseIterator",),
    "litellm.llms.bedrock.chat.converse_transformation": ("AmazonConverseConfig", "CONVERTED_SYSTEM_NOTE"),
    "litellm.llms.groq.chat.transformation": ("GroqChatConfig",),
    "litellm.llms.openai.chat.gpt_transformation": ("hoist_images_from_tool_messages",),
    "litellm.llms.azure.chat.gpt_transformation": ("hoist_images_from_tool_messages",),
    "litellm.llms.vertex_ai.gemini.transformation": ("transform_system_message",),
    "litellm.main": (
        *("get_optional_params", "get_optional_params_embeddings", "validate_chat_completion_tool_choice"),
        "text_completion",
        *("drops_unsupported_allowed_tools_tool_choice", "async_mock_completion_streaming_obj"),
    ),
    "litellm.proxy.proxy_server": (
        *("app", "proxy_startup_event", "proxy_config", "openai_exception_handler", "ProxyException"),
        *(
            *("chat_completion", "completion", "embeddings", "moderations", "audio_speech"),
            "llm_router",
            "redis_usage_cache",
            "proxy_logging_obj",
            "model_max_budget_limiter",
            "Request",
            "Response",
            "UserAPIKeyAuth",
            "general_settings",
            "version",
            "TokenCountRequest",
            "count_request_tokens",
            "select_data_generator",
            "_resolve_keepalive_seconds",
            "_should_include_fallback_errors",
        ),
    ),
    "litellm.proxy.rerank_endpoints.endpoints": ("rerank",),
    "fastapi.routing": ("APIRouter",),
    "openai.resources.audio.speech": ("AsyncSpeech",),
    "litellm.rerank_api.main": ("base_llm_http_handler",),
    "litellm.proxy.image_endpoints.endpoints": ("image_generation", "image_edit_api"),
    "litellm.images.main": (
        *("get_optional_params_image_gen", "llm_http_handler", "openai_chat_completions", "image_edit"),
    ),
    "litellm.proxy.response_api_endpoints.endpoints": ("responses_api",),
    "litellm.proxy.anthropic_endpoints.endpoints": ("anthropic_response",),
    "litellm.proxy.google_endpoints.endpoints": (
        *("google_generate_content", "google_stream_generate_content"),
    ),
    "litellm.google_genai.streaming_iterator": ("AsyncGoogleGenAIGenerateContentStreamingIterator",),
    "litellm.llms.gemini.count_tokens.handler": ("GoogleAIStudioTokenCounter",),
    "litellm.llms.gemini.google_genai.transformation": ("GoogleGenAIConfig",),
    "litellm.llms.vertex_ai.google_genai.transformation": ("VertexAIGoogleGenAIConfig",),
    "litellm.llms.anthropic.pass_through.messages.handler": ("_native_messages_config",),
    "litellm.llms.anthropic.pass_through.messages.transformation": ("AnthropicMessagesConfig",),
    "litellm.llms.anthropic.pass_through.messages.utils": ("AnthropicMessagesRequestUtils",),
    "litellm.llms.openai_like.messages.transformation": ("OpenAILikeAnthropicMessagesConfig",),
    "litellm.llms.openai.responses.transformation": ("OpenAIResponsesAPIConfig",),
    "litellm.responses.streaming_iterator": ("ResponsesAPIStreamingIterator",),
    "litellm.proxy.pass_through_endpoints.streaming_handler": ("PassThroughStreamingHandler",),
    "litellm.proxy.common_utils.http_parsing_utils": ("_safe_get_request_parsed_body",),
    "litellm.proxy.common_request_processing": ("ProxyBaseLLMRequestProcessing", "cost_headers"),
    "litellm.litellm_core_utils.core_helpers": ("_FINISH_REASON_MAP", "process_response_headers"),
    "litellm.litellm_core_utils.llm_response_utils.get_headers": ("get_response_headers",),
    "litellm.litellm_core_utils.llm_response_utils.convert_dict_to_response": (
        "convert_to_model_response_object",
    ),
    "litellm.types.llms.openai.ResponsesAPIResponse": ("model_validate",),
    "litellm.responses.utils.ResponsesAPIRequestUtils": (
        "decode_previous_response_id_to_original_previous_response_id",
    ),
    "litellm.responses.utils.ResponseAPILoggingUtils": ("transform_response_api_usage_to_chat_usage",),
    "litellm.AnthropicConfig": ("calculate_usage",),
    "litellm.llms.custom_httpx.aiohttp_transport": ("LiteLLMAiohttpTransport", "map_aiohttp_exceptions"),
    "litellm.router_utils.router_callbacks.track_deployment_metrics": (
        "increment_deployment_successes_for_current_minute",
    ),
    "litellm.integrations.custom_logger": ("CustomLogger",),
    "litellm.integrations.custom_guardrail": ("CustomGuardrail",),
    UNIFIED_GUARDRAILS: ("UnifiedLLMGuardrails",),
    "litellm.llms.base_llm.chat.transformation": ("BaseLLMException", "BaseConfig"),
    "openai.resources.audio.transcriptions": ("AsyncTranscriptions",),
    "litellm.constants": ("OPENAI_AUDIO_TRANSCRIPTION_PROVIDERS", "AZURE_OPENAI_AUDIO_PROVIDERS"),
    "aiohttp.client_proto": ("ResponseHandler",),
    "httpx": ("AsyncClient", "Client", "Request", "Response"),
    "litellm.litellm_core_utils.logging_worker": ("GLOBAL_LOGGING_WORKER",),
    "litellm.proxy.utils": (
        "PROXY_HOOKS",
        "ProxyLogging",
        "model_dump_with_preserved_fields",
        "check_and_merge_model_level_guardrails",
    ),
    "litellm.types.guardrails": ("GuardrailEventHooks",),
    "litellm.utils": (
        *("async_pre_call_deployment_hook", "async_post_call_success_deployment_hook"),
        *("TextCompletionStreamWrapper", "load_credentials_from_list"),
    ),
    "litellm.litellm_core_utils.streaming_handler": ("CustomStreamWrapper",),
    "litellm.litellm_core_utils.streaming_chunk_builder_utils": (
        *("ChunkProcessor", "_stream_builder_response_cost"),
    ),
    "litellm.llms.ollama.chat.transformation": ("OllamaChatConfig",),
    "litellm.llms.ollama.completion.transformation": ("OllamaConfig",),
    "litellm.router": ("Router", "simple_shuffle"),
    "litellm.llms.base_llm.base_model_iterator": ("BaseModelResponseIterator",),
    "litellm.llms.custom_httpx.http_handler": ("get_async_httpx_client", "HTTPHandler", "AsyncHTTPHandler"),
    "litellm.litellm_core_utils.token_counter": (
        *("get_image_dimensions", "DEFAULT_IMAGE_WIDTH", "DEFAULT_IMAGE_HEIGHT"),
    ),
    "litellm.llms.ollama.common_utils": ("OllamaModelInfo",),
    "litellm.llms.lemonade.chat.transformation": ("LemonadeChatConfig",),
    "litellm.llms.vertex_ai.gemini.vertex_and_google_ai_studio_gemini": ("ModelResponseIterator",),
    "litellm.types.router": ("Deployment", "GenericLiteLLMParams"),
    "starlette.responses": ("Response", "StreamingResponse"),
    "pydantic._internal._config": ("config_defaults",),
    "litellm.router_utils.cooldown_handlers": ("_should_run_cooldown_logic",),
    "litellm.router_utils.pre_call_checks.deployment_affinity_check": ("DeploymentAffinityCheck",),
    "litellm.caching.affinity_cache": ("claim_affinity_pin",),
    "litellm.caching.redis_cache": ("RedisCache", "_run_under_circuit_breaker"),
    "litellm.caching.caching_handler": ("LLMCachingHandler", "in_memory_cache_obj"),
    "litellm.caching.redis_batch": ("_run_under_circuit_breaker",),
    "litellm._redis": ("get_redis_client", "_sentinel_auth_kwargs"),
    "litellm.proxy.hooks": ("PROXY_HOOKS",),
    "litellm.litellm_core_utils.litellm_logging": ("Logging", "StandardLoggingPayloadSetup"),
    "redis.exceptions": ("RedisError",),
    "redis.asyncio": ("RedisCluster",),
    "redis.retry": ("Retry",),
    "redis.backoff": ("NoBackoff",),
}
"""Module -> the names used; a contract test checks that the pinned release has each."""


@cache
def litellm_module() -> Untyped:
    """The package `litellm`."""
    return import_module("litellm")


@cache
def proxy_module() -> Untyped:
    """The module that holds LiteLLM's proxy application and its globals."""
    return import_module("litellm.proxy.proxy_server")


def fastapi_router_class() -> Untyped:
    """The class by which LiteLLM adds routes to its application."""
    return import_module("fastapi.routing").APIRouter


def import_for_first_calls() -> None:
    """Import what LiteLLM's start and first calls import: processes forked after this share it."""
    for name in IMPORTED_BY_FIRST_CALLS:
        with suppress(ImportError):
            import_module(name)


async def call_endpoint(
    endpoint: EndpointSpec, request: Untyped, head: Untyped, *, streams: bool = False, **arguments: Untyped
) -> Untyped:
    """Return what LiteLLM's function that serves an operation returns; raise what it raises.

    Args:
        endpoint: The operation.
        request: A starlette request.
        head: Takes LiteLLM's headers.
        streams: The call is streamed.
        arguments: What the function takes beside these.
    """
    route = (streams and endpoint.litellm_stream_route) or endpoint.litellm_route
    function = getattr(import_module(endpoint.litellm_module), route)
    user = gateway_user(endpoint.path)
    return await function(request=request, fastapi_response=head, user_api_key_dict=user, **arguments)


def show_fields(request: Untyped, fields: Json) -> None:
    """Put what LiteLLM sees of a starlette request where it keeps a body that it has parsed."""
    request.scope["parsed_body"] = (tuple(fields), fields)


def show_body(request: Untyped, fields: Json) -> None:
    """Put what LiteLLM sees of a request where its functions of images and speech parse it.

    An empty body, or one that is no object, is left to LiteLLM.
    """
    if fields:
        request._body = json.dumps(fields).encode()  # noqa: SLF001 -- where Starlette keeps it


def provider_of(params: Json) -> tuple[str, str, str | None, str | None]:
    """Return a deployment's model at its provider, the provider, and LiteLLM's key and address of it.

    Raises what LiteLLM raises for an unknown name.
    """
    found: tuple[str, str, str | None, str | None] = litellm_module().get_llm_provider(
        model=params["model"],
        custom_llm_provider=params.get("custom_llm_provider"),
        api_base=params.get("api_base"),
    )
    return found


def passes_through(endpoint: Endpoint, model: str, provider: str, info: Json) -> bool:
    """Whether LiteLLM calls the operation of that name at the provider, and translates nothing."""
    library = litellm_module()
    try:
        known = library.LlmProviders(provider)
    except ValueError:
        return False
    configs = library.ProviderConfigManager
    if endpoint == "responses":
        return configs.get_provider_responses_api_config(provider=known, model=model) is not None
    if endpoint == "generate_content":
        return configs.get_provider_google_genai_generate_content_config(model, known) is not None
    handler = import_module("litellm.llms.anthropic.pass_through.messages.handler")
    return handler._native_messages_config(model, provider, info) is not None  # noqa: SLF001 -- decides it


def request_processing_class() -> Untyped:
    """The class that processes a call in LiteLLM's proxy."""
    return import_module("litellm.proxy.common_request_processing").ProxyBaseLLMRequestProcessing


def groq_config_class() -> Untyped:
    """The class that parses Groq's answers."""
    return import_module("litellm.llms.groq.chat.transformation").GroqChatConfig


@cache
def custom_logger_class() -> Untyped:
    """The base class of callbacks."""
    return import_module("litellm.integrations.custom_logger").CustomLogger


@cache
def guardrail_class() -> Untyped:
    """The base class of guardrails."""
    return import_module("litellm.integrations.custom_guardrail").CustomGuardrail


def running_guardrails() -> list[Untyped]:
    """The configuration's guardrails that LiteLLM started."""
    registry = import_module("litellm.proxy.guardrails.guardrail_registry")
    return list(registry.IN_MEMORY_GUARDRAIL_HANDLER.IN_MEMORY_GUARDRAILS.values())


def are_frames_read() -> bool:
    """Whether a guardrail or a callback reads the frames of streams."""
    found = proxy_logging_class().callback_capabilities()
    return bool(found.has_iterator_override or found.has_streaming_chunk_override or found.has_guardrail)


def has_guardrail() -> bool:
    """Whether any guardrail is configured."""
    return any(isinstance(one, guardrail_class()) for one in litellm_module().callbacks)


def core_helpers_module() -> Untyped:
    """The module with LiteLLM's map of finish reasons."""
    return import_module("litellm.litellm_core_utils.core_helpers")


def logging_worker() -> Untyped:
    """The queue of LiteLLM's events for callbacks; LiteLLM empties it before the process ends."""
    return import_module("litellm.litellm_core_utils.logging_worker").GLOBAL_LOGGING_WORKER


def gateway_user(path: str) -> Untyped:
    """Return the key object of a gateway's call: no admin; a new one each time, as LiteLLM modifies it.

    Guardrails read the path: by it they know the format of the call.
    """
    # The gateway decides per call whether observers get the text; LiteLLM obeys only if the key has this.
    trusted = {"allow_client_message_redaction_opt_out": True}
    return proxy_module().UserAPIKeyAuth(
        api_key="llm-proxy", user_role="internal_user", metadata=trusted, request_route=path
    )


def logging_class() -> Untyped:
    """The class of a call's logging object."""
    return import_module("litellm.litellm_core_utils.litellm_logging").Logging


def proxy_logging_class() -> Untyped:
    """The class that runs callbacks and guardrails."""
    return import_module("litellm.proxy.utils").ProxyLogging


def bad_gateway(message: str, *, model: object = "", provider: object = "") -> Exception:
    """Return LiteLLM's exception for an answer of a provider that is of no use."""
    error: Exception = litellm_module().BadGatewayError(
        message=message, llm_provider=str(provider or ""), model=str(model or "")
    )
    return error


def unified_guardrails_class() -> Untyped:
    """The class that runs guardrails which only judge texts, on every format of a call."""
    return import_module(UNIFIED_GUARDRAILS).UnifiedLLMGuardrails


def has_guardrail_after(request: dict[str, Any]) -> bool:
    """Whether a guardrail judges the answer to a request of LiteLLM's proxy."""
    utils = import_module("litellm.proxy.utils")
    merged = utils.check_and_merge_model_level_guardrails(data=request, llm_router=router())
    after = import_module("litellm.types.guardrails").GuardrailEventHooks.post_call
    return any(
        isinstance(one, guardrail_class()) and one.should_run_guardrail(data=merged, event_type=after) is True
        for one in litellm_module().callbacks
    )


def utils_module() -> Untyped:
    """The module that wraps each call to a provider and runs the guardrails of its model group."""
    return import_module("litellm.utils")


def stream_wrapper_class() -> Untyped:
    """The class through which every provider's stream passes."""
    return import_module("litellm.litellm_core_utils.streaming_handler").CustomStreamWrapper


def text_stream_wrapper_class() -> Untyped:
    """The class that turns a chat's stream into a text completion's."""
    return import_module("litellm.utils").TextCompletionStreamWrapper


def router_class() -> Untyped:
    """The class that retries, falls back and cools down."""
    return import_module("litellm.router").Router


def affinity_check_class() -> Untyped:
    """The class that sends calls of one session to one deployment."""
    return import_module(
        "litellm.router_utils.pre_call_checks.deployment_affinity_check"
    ).DeploymentAffinityCheck


@cache
def router_module() -> Untyped:
    """The module whose functions choose a deployment."""
    return import_module("litellm.router")


def redis_modules() -> tuple[Untyped, Untyped, Untyped]:
    """The modules of the Redis cache, of its batches, and of their Redis clients."""
    names = ("litellm.caching.redis_cache", "litellm.caching.redis_batch", "litellm._redis")
    cache, batch, clients = map(import_module, names)
    return cache, batch, clients


def provider_s_id(answer_id: str) -> str:
    """Return the id that a provider gave an answer; LiteLLM logs an id of its own for a response."""
    if not answer_id.startswith("resp_"):
        return answer_id
    utils = import_module("litellm.responses.utils").ResponsesAPIRequestUtils
    return str(utils.decode_previous_response_id_to_original_previous_response_id(answer_id))


def error_information(error: BaseException | None) -> Untyped:
    """Return the class, status, provider and kind of an exception, as LiteLLM logs them."""
    log = import_module("litellm.litellm_core_utils.litellm_logging").StandardLoggingPayloadSetup
    return log.get_error_information(original_exception=error)


def callback_lists() -> list[list[Untyped]]:
    """Return LiteLLM's lists of what receives calls."""
    return [getattr(litellm_module(), name) for name in CALLBACK_LISTS]


def forget_hook(name: str) -> None:
    """Keep LiteLLM's start from adding a hook of its own to every call."""
    import_module("litellm.proxy.utils").PROXY_HOOKS.pop(name, None)


def built_in_hooks(names: Iterable[str]) -> list[Untyped]:
    """Return LiteLLM's own hooks with these names, and those of its key budgets and service log."""
    logging = proxy_module().proxy_logging_obj
    registered = logging.proxy_hook_mapping
    hooks = [registered[name] for name in names if name in registered]
    return [*hooks, proxy_module().model_max_budget_limiter, logging.service_logging_obj]


def redis_cache_class() -> Untyped:
    """The class of LiteLLM's caches in Redis, clusters included."""
    return import_module("litellm.caching.redis_cache").RedisCache


def is_cluster_client(client: Untyped) -> bool:
    """Whether a client follows a cluster's redirections."""
    return isinstance(client, import_module("redis.asyncio").RedisCluster)


def redis_error_class() -> type[Exception]:
    """The base class of a Redis client's exceptions."""
    found: type[Exception] = import_module("redis.exceptions").RedisError
    return found


def run_under_breaker(breaker: Untyped, name: str, command: Untyped) -> Untyped:
    """Run a Redis command with the timeout and circuit breaker of LiteLLM's own cache."""
    run = import_module("litellm.caching.redis_cache")._run_under_circuit_breaker  # noqa: SLF001 -- patched by `redis_breaker`
    return run(breaker, name, command)


def in_memory_embeddings() -> Untyped:
    """LiteLLM's in-memory cache of embeddings found in Redis; it keeps them for ten minutes."""
    return import_module("litellm.caching.caching_handler").in_memory_cache_obj


def no_retries() -> Untyped:
    """A retry policy of no retries for a Redis client."""
    return import_module("redis.retry").Retry(import_module("redis.backoff").NoBackoff(), 0)


def router() -> Untyped:
    """The router; None before LiteLLM's start."""
    return proxy_module().llm_router


def names_of_model(model: str) -> frozenset[str]:
    """Return the names of a call's model in LiteLLM: the given one, and those it is an alias of."""
    name = str(litellm_module().model_alias_map.get(model, model))
    alias: object = as_object(router().model_group_alias).get(name, name)
    return frozenset({model, name, str(as_object(alias).get("model", alias))})


def groups_serving(model: str) -> frozenset[str]:
    """Return the groups that serve a name: its own or its alias's, else the wildcards that cover it."""
    names, groups = names_of_model(model), {str(one["model_name"]) for one in router().model_list}
    exact = names & groups
    covering = {one for one in groups if "*" in one and any(wildcard_matches(one, name) for name in names)}
    return frozenset(exact or covering)


def make_deployment(name: str, params: dict[str, Any]) -> Untyped:
    """Return a deployment for `Router.add_deployment`; its id is its name."""
    deployment_class = import_module("litellm.types.router").Deployment
    return deployment_class(model_name=name, litellm_params=params, model_info={"id": name})
