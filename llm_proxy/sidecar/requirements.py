"""What this project asks of LiteLLM in any configuration: defaults where the file is silent, a few musts."""

from collections.abc import Mapping
from typing import Any

from llm_proxy.endpoints import ENDPOINTS
from llm_proxy.json_access import Json
from llm_proxy.sidecar.shapes import items

DEFAULTS: dict[str, Json] = {
    "general_settings": {},
    "litellm_settings": {
        "request_timeout": 120,  # LiteLLM's own default is 6000 s
        "drop_params": False,  # a field the model does not know is an error, never lost
        "disable_stop_sequence_limit": True,  # else all stops but four are lost without a word
        "json_logs": True,
        "disable_add_user_agent_to_request_tags": True,  # it is always the gateway's
    },
    "router_settings": {
        "routing_strategy": "simple-shuffle",
        "num_retries": 2,
        "timeout": 120,
        "stream_timeout": 60,
        "cooldown_time": 10,
        "optional_pre_call_checks": ["enforce_model_rate_limits"],  # without it rpm and tpm only weigh
    },
}
FORCED: dict[str, Json] = {
    "general_settings": {
        "master_key": "os.environ/LITELLM_MASTER_KEY",  # drawn at each start
        "cancel_on_disconnect": True,
        "disable_model_info_refresh": True,  # else it asks every provider for its models, now and every 300 s
        "background_health_checks": False,  # they call paid models
    },
    "litellm_settings": {
        "include_cost_in_streaming_usage": True,
        "enable_caching_on_provider_specific_optional_params": True,  # else wrong hits
        "expose_router_debug_in_errors": False,
        "disable_hf_tokenizer_download": True,  # else each such call waits for a hub (see `provider_only`)
    },
    "router_settings": {},
}
STRATEGIES = {
    "ROUND_ROBIN": "simple-shuffle",
    "WEIGHTED": "simple-shuffle",
    "LEAST_LOADED": "least-busy",
    "FASTEST_RESPONSE": "latency-based-routing",
    "COST_OPTIMIZED": "cost-based-routing",
}
NAMESPACE = "litellm_caching"
ANSWERS = {one.litellm_call_type: one.path for name, one in ENDPOINTS.items() if name != "embeddings"}
"""LiteLLM's call types whose answers our own cache keeps, and their paths."""


LANGFUSE = "langfuse"


def observed(litellm_settings: Mapping[str, Any], env: Mapping[str, str]) -> Json:
    """Langfuse's callback where its keys are set; text only of calls the gateway says it may be shown of."""
    added: Json = {}
    if env.get("LANGFUSE_PUBLIC_KEY") and env.get("LANGFUSE_SECRET_KEY"):
        for name in ("success_callback", "failure_callback"):
            given = items(litellm_settings.get(name))
            added[name] = given if LANGFUSE in given else [*given, LANGFUSE]
    # Taking text out costs a fifth of a call's CPU, so only where somebody would see it.
    if "turn_off_message_logging" not in litellm_settings:
        added["turn_off_message_logging"] = watched({**litellm_settings, **added})
    return added


def watched(litellm_settings: Mapping[str, Any]) -> bool:
    """Whether somebody else's callback sees the calls; ours takes no text."""
    names = ("callbacks", "success_callback", "failure_callback", "audit_log_callbacks")
    return any(litellm_settings.get(name) for name in names)


def strategy(load_balance: str) -> str | None:
    """LiteLLM's routing strategy for one of our names; None for none."""
    return STRATEGIES.get(load_balance.upper())


def cache_in(url: str, given: Mapping[str, Any], env: Mapping[str, str]) -> Json:
    """The response cache in the Redis at `url`; the file's own `cache_params` win, but for the address."""
    ours: Json = {
        "namespace": NAMESPACE,
        "ttl": float(env.get("LLM_PROXY_SIDECAR_CACHE_TTL_S") or 600),
        "supported_call_types": [*ANSWERS, "aembedding"],
        "max_messages": None,  # LiteLLM leaves conversations of more than four messages out
        "socket_timeout": 0.25,  # what a frozen Redis costs, once (see `cache_gate`)
        "socket_connect_timeout": 0.25,
    }
    address = {"type": "redis", "url": url}
    kept = {name: value for name, value in given.items() if name not in {"host", "port", "password"}}
    return ours | kept | address
