"""Every name of LiteLLM that the sidecar uses beyond its settings: what an upgrade must be checked against.

Invariants: nothing is imported before the first call, because LiteLLM reads the environment while it is
imported. LiteLLM's objects are untyped: the type checkers' environment has no LiteLLM.
"""

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import Any

from llm_proxy.json_access import as_object
from llm_proxy.wildcards import wildcard_matches

Untyped = Any
"""An object of LiteLLM's."""
PATCH_POINTS: dict[str, tuple[str, ...]] = {
    "litellm": (
        *(
            "callbacks",
            "model_cost",
            "get_llm_provider",
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
        ),
        *("cache", "model_alias_map", "ModelResponse", "TextCompletionResponse"),
    ),
    "litellm.litellm_core_utils.prompt_templates.factory": (
        *("_sanitize_empty_text_content", "_EMPTY_TEXT_PLACEHOLDER"),
    ),
    "litellm.litellm_core_utils.prompt_templates.mid_conversation_system": ("CONVERTED_SYSTEM_NOTE",),
    "litellm.llms.anthropic.chat.transformation": ("AnthropicConfig", "has_tool_call_blocks"),
    "litellm.llms.bedrock.chat.converse_transformation": ("AmazonConverseConfig", "CONVERTED_SYSTEM_NOTE"),
    "litellm.llms.groq.chat.transformation": ("GroqChatConfig",),
    "litellm.llms.openai.chat.gpt_transformation": ("hoist_images_from_tool_messages",),
    "litellm.llms.azure.chat.gpt_transformation": ("hoist_images_from_tool_messages",),
    "litellm.llms.vertex_ai.gemini.transformation": ("transform_system_message",),
    "litellm.main": (
        *("get_optional_params", "get_optional_params_embeddings", "validate_chat_completion_tool_choice"),
        "drops_unsupported_allowed_tools_tool_choice",
    ),
    "litellm.proxy.proxy_server": (
        *("app", "proxy_startup_event", "proxy_config", "openai_exception_handler", "ProxyException"),
        *(
            "chat_completion",
            "completion",
            "embeddings",
            "llm_router",
            "redis_usage_cache",
            "proxy_logging_obj",
            "model_max_budget_limiter",
            "Request",
            "Response",
            "UserAPIKeyAuth",
            "general_settings",
            "version",
        ),
    ),
    "litellm.proxy.common_request_processing": ("ProxyBaseLLMRequestProcessing",),
    "litellm.litellm_core_utils.core_helpers": ("_FINISH_REASON_MAP",),
    "litellm.integrations.custom_logger": ("CustomLogger",),
    "litellm.integrations.custom_guardrail": ("CustomGuardrail",),
    "litellm.llms.base_llm.chat.transformation": ("BaseLLMException",),
    "httpx": ("AsyncClient", "Client", "Request", "Response"),
    "litellm.litellm_core_utils.logging_worker": ("GLOBAL_LOGGING_WORKER",),
    "litellm.proxy.utils": ("ProxyLogging",),
    "litellm.utils": (
        *("async_pre_call_deployment_hook", "async_post_call_success_deployment_hook"),
        "TextCompletionStreamWrapper",
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
    "litellm.llms.vertex_ai.gemini.vertex_and_google_ai_studio_gemini": (
        "ModelResponseIterator",
        "VertexLLM",
    ),
    "openai._utils": ("is_given",),
    "litellm.types.router": ("Deployment",),
    "litellm.router_utils.cooldown_handlers": ("_should_run_cooldown_logic",),
    "litellm.caching.redis_cache": ("RedisCache", "_run_under_circuit_breaker"),
    "litellm.caching.caching_handler": ("LLMCachingHandler", "in_memory_cache_obj"),
    "litellm.caching.redis_batch": ("_run_under_circuit_breaker",),
    "litellm._redis": ("get_redis_client",),
    "litellm.proxy.hooks": ("PROXY_HOOKS",),
    "litellm.litellm_core_utils.litellm_logging": ("Logging", "StandardLoggingPayloadSetup"),
    "redis.exceptions": ("RedisError",),
    "redis.retry": ("Retry",),
    "redis.backoff": ("NoBackoff",),
}
"""Module -> the names used; a contract test checks that the pinned wheel has each."""


def litellm_module() -> Untyped:
    """The package `litellm`."""
    return import_module("litellm")


def proxy_module() -> Untyped:
    """The module that holds LiteLLM's proxy application and its globals."""
    return import_module("litellm.proxy.proxy_server")


def request_processing_class() -> Untyped:
    """The class that runs a call from the proxy's side."""
    return import_module("litellm.proxy.common_request_processing").ProxyBaseLLMRequestProcessing


def groq_config_class() -> Untyped:
    """The class that reads Groq's answers."""
    return import_module("litellm.llms.groq.chat.transformation").GroqChatConfig


@cache
def custom_logger_class() -> Untyped:
    """The base class of callbacks."""
    return import_module("litellm.integrations.custom_logger").CustomLogger


@cache
def guardrail_class() -> Untyped:
    """The base class of guardrails."""
    return import_module("litellm.integrations.custom_guardrail").CustomGuardrail


def core_helpers_module() -> Untyped:
    """The module with what LiteLLM makes of finish reasons."""
    return import_module("litellm.litellm_core_utils.core_helpers")


def logging_worker() -> Untyped:
    """The queue in which LiteLLM's events wait for their callbacks; it is emptied before the process ends."""
    return import_module("litellm.litellm_core_utils.logging_worker").GLOBAL_LOGGING_WORKER


def gateway_user() -> Untyped:
    """Who calls LiteLLM's endpoints: not an admin, and fresh, because LiteLLM writes into it."""
    # The gateway decides whose text an observer may see; LiteLLM heeds that of a key that says this.
    trusted = {"allow_client_message_redaction_opt_out": True}
    return proxy_module().UserAPIKeyAuth(api_key="llm-proxy", user_role="internal_user", metadata=trusted)


def logging_class() -> Untyped:
    """The class that accompanies each call to a provider."""
    return import_module("litellm.litellm_core_utils.litellm_logging").Logging


def proxy_logging_class() -> Untyped:
    """The class that runs an owner's hooks and guardrails."""
    return import_module("litellm.proxy.utils").ProxyLogging


def utils_module() -> Untyped:
    """The module that wraps each call to a provider and runs the guardrails of its model group."""
    return import_module("litellm.utils")


def stream_wrapper_class() -> Untyped:
    """The class through which every provider's stream passes."""
    return import_module("litellm.litellm_core_utils.streaming_handler").CustomStreamWrapper


def text_stream_wrapper_class() -> Untyped:
    """The class that makes a text completion's stream out of a chat's."""
    return import_module("litellm.utils").TextCompletionStreamWrapper


def router_class() -> Untyped:
    """The class that retries, falls back and cools down."""
    return import_module("litellm.router").Router


def router_module() -> Untyped:
    """The module whose functions choose a deployment."""
    return import_module("litellm.router")


def redis_modules() -> tuple[Untyped, Untyped, Untyped]:
    """The modules of the Redis cache, of its batches, and of the clients both use."""
    names = ("litellm.caching.redis_cache", "litellm.caching.redis_batch", "litellm._redis")
    cache, batch, clients = map(import_module, names)
    return cache, batch, clients


def error_information(error: BaseException | None) -> Untyped:
    """What LiteLLM's log says of an error: its class, status, provider and kind."""
    log = import_module("litellm.litellm_core_utils.litellm_logging").StandardLoggingPayloadSetup
    return log.get_error_information(original_exception=error)


def built_in_hooks(names: Iterable[str]) -> list[Untyped]:
    """The objects LiteLLM itself registered under these names, its key budgets' and its services' log."""
    logging = proxy_module().proxy_logging_obj
    made = logging.proxy_hook_mapping
    hooks = [made[name] for name in names if name in made]
    return [*hooks, proxy_module().model_max_budget_limiter, logging.service_logging_obj]


def redis_cache_class() -> Untyped:
    """The class of LiteLLM's caches that lie in a Redis, a cluster's too."""
    return import_module("litellm.caching.redis_cache").RedisCache


def redis_error_class() -> type[Exception]:
    """The base class of what a Redis client raises."""
    found: type[Exception] = import_module("redis.exceptions").RedisError
    return found


def run_under_breaker(breaker: Untyped, name: str, command: Untyped) -> Untyped:
    """One Redis command, bounded and counted as those of LiteLLM's own cache are."""
    run = import_module("litellm.caching.redis_cache")._run_under_circuit_breaker  # noqa: SLF001 -- as `cache_gate` bounds it
    return run(breaker, name, command)


def in_memory_embeddings() -> Untyped:
    """Where LiteLLM keeps, for ten minutes, the embeddings this process found in its Redis."""
    return import_module("litellm.caching.caching_handler").in_memory_cache_obj


def no_retries() -> Untyped:
    """How a Redis client is told to ask once."""
    return import_module("redis.retry").Retry(import_module("redis.backoff").NoBackoff(), 0)


def router() -> Untyped:
    """The running router, once the start is done."""
    return proxy_module().llm_router


def names_of_model(model: str) -> frozenset[str]:
    """The names a call for this model may go by inside LiteLLM: its own, and what it is an alias of."""
    name = str(litellm_module().model_alias_map.get(model, model))
    alias: object = as_object(router().model_group_alias).get(name, name)
    return frozenset({model, name, str(as_object(alias).get("model", alias))})


def groups_serving(model: str) -> frozenset[str]:
    """The model groups that serve a name: its own or its alias's, else the wildcards that cover it."""
    names, groups = names_of_model(model), {str(one["model_name"]) for one in router().model_list}
    exact = names & groups
    covering = {one for one in groups if "*" in one and any(wildcard_matches(one, name) for name in names)}
    return frozenset(exact or covering)


def make_deployment(name: str, params: dict[str, Any]) -> Untyped:
    """A deployment for `Router.add_deployment`; its id is its name."""
    made = import_module("litellm.types.router").Deployment
    return made(model_name=name, litellm_params=params, model_info={"id": name})
