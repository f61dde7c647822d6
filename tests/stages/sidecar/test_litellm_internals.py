"""Each name of LiteLLM that the sidecar uses beyond its settings is in the pinned release."""

import json
import os
import subprocess

import pytest

from llm_proxy.dialects.request.openai_schema import USER_PARTS
from llm_proxy.sidecar.litellm_internals import PATCH_POINTS
from llm_proxy.sidecar.patches.performance import IDLE_HOOKS
from llm_proxy.stack.process_specs import sidecar_python

LOOK = """
import json, sys
from importlib import import_module
def lacks(path, names):
    try:
        owner = import_module(path)
    except ImportError:
        module, _, name = path.rpartition(".")
        try:
            owner = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            return [path]
    return [f"{path}.{name}" for name in names if not hasattr(owner, name)]
asked = json.load(sys.stdin)
found = {
    name: [one for path, names in owners.items() for one in lacks(path, names)]
    for name, owners in asked["owners"].items()
}
from litellm.proxy.hooks import PROXY_HOOKS
from litellm.types.llms.openai import ValidUserMessageContentTypes
found["hooks"] = [name for name in asked["hooks"] if name not in PROXY_HOOKS]
found["parts"] = ValidUserMessageContentTypes
print(json.dumps(found))
"""
METHODS = {
    "litellm.llms.anthropic.chat.handler.ModelResponseIterator": ("_handle_message_delta", "chunk_parser"),
    "aiohttp.client_proto.ResponseHandler": ("_on_read_timeout", "_reschedule_timeout"),
    "httpx.AsyncClient": ("_transport_for_url", "send"),
    "httpx.Client": ("send",),
    "httpx.Response": ("__init__", "aiter_bytes", "aiter_lines", "aiter_raw"),
    "litellm.litellm_core_utils.streaming_handler.CustomStreamWrapper": (
        "__anext__",
        "_finalize_completed_stream",
        "_log_stream_failure_and_raise",
        "_propagate_usage_cost_to_hidden_params",
        "model_response_creator",
    ),
    "litellm.llms.custom_httpx.aiohttp_transport.LiteLLMAiohttpTransport": ("get_valid_client_session",),
    "litellm.llms.groq.chat.transformation.GroqChatConfig": ("_add_web_search_usage", "transform_response"),
    "litellm.llms.base_llm.base_model_iterator.BaseModelResponseIterator": ("_string_to_dict_parser",),
    "litellm.llms.vertex_ai.gemini.vertex_and_google_ai_studio_gemini.ModelResponseIterator": (
        "chunk_parser",
    ),
    "litellm.proxy.common_request_processing.ProxyBaseLLMRequestProcessing": (
        "_inject_cost_into_usage_dict",
        "_stream_usage_for_event",
        "_streamed_usage_cost",
    ),
    "litellm.litellm_core_utils.litellm_logging.Logging": (
        "_with_client_facing_stream_model",
        "custom_pricing_for",
        "get_router_model_id",
        "response_cost_calculator",
    ),
    "litellm.caching.caching_handler.LLMCachingHandler": (
        "_process_async_embedding_cached_response",
        "combine_cached_embedding_response_with_api_result",
    ),
    "litellm.caching.redis_cache.RedisCache": ("_setup_health_pings", "init_async_client"),
    "litellm.llms.custom_httpx.http_handler.HTTPHandler": ("get",),
    "litellm.llms.custom_httpx.http_handler.AsyncHTTPHandler": ("get",),
    "litellm.llms.ollama.common_utils.OllamaModelInfo": (
        "get_runtime_model_info",
        "_strip_ollama_model_prefix",
    ),
    "litellm.llms.lemonade.chat.transformation.LemonadeChatConfig": ("get_model_info",),
    "litellm.router_utils.cooldown_cache.CooldownCache": ("async_get_active_cooldowns",),
    "litellm.router.Router": (
        "_increment_deployment_usage",
        "_time_to_sleep_before_retry",
        "async_function_with_fallbacks_common_utils",
        "async_get_available_deployment",
        "get_all_deployments",
        "get_model_from_alias",
        "make_call",
        "should_retry_this_error",
    ),
}
GONE = {
    "litellm.no_such_module": ("anything",),
    "litellm.router.NoSuchClass": ("acompletion",),
    "litellm.router": ("Router", "no_such_function"),
    "litellm.router.Router": ("acompletion", "no_such_method"),
}


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    """Return the missing names, methods and hooks, and the parts of messages LiteLLM accepts.

    LiteLLM takes seconds to import, so all are looked up at once.
    """
    env = {"PATH": os.environ["PATH"], "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    request: dict[str, object] = {
        "owners": {"seams": PATCH_POINTS, "methods": METHODS, "gone": GONE},
        "hooks": IDLE_HOOKS,
    }
    command = [str(sidecar_python()), "-c", LOOK]
    done = subprocess.run(
        command, input=json.dumps(request), capture_output=True, check=True, text=True, env=env
    )
    answer: dict[str, list[str]] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def test_every_patch_point_exists(found: dict[str, list[str]]) -> None:
    """An upgrade that moves one fails here, before a stream does."""
    assert found["seams"] == []


def test_a_missing_patch_point_is_named(found: dict[str, list[str]]) -> None:
    """A module, a class, a function or a method, by its full name."""
    assert found["gone"] == [
        "litellm.no_such_module",
        "litellm.router.NoSuchClass",
        "litellm.router.no_such_function",
        "litellm.router.Router.no_such_method",
    ]


def test_every_patched_method_exists(found: dict[str, list[str]]) -> None:
    """The same for methods of classes."""
    assert found["methods"] == []


def test_every_removed_hook_exists(found: dict[str, list[str]]) -> None:
    """By its registered name; a renamed hook would stay, and cost every call."""
    assert found["hooks"] == []


def test_accepted_message_parts_are_litellm_s(found: dict[str, list[str]]) -> None:
    """The gateway rejects what LiteLLM cannot parse and accepts what it can."""
    assert set(found["parts"]) == USER_PARTS
