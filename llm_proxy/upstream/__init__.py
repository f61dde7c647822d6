"""A `Call` in, a `Reply` out: the pool of sidecars, their catalogue, deadlines, errors and frames."""

from llm_proxy.upstream.call_guard import (
    CallGuard,
    InterruptReason,
    RunningCalls,
    TimeoutPolicy,
    Timeouts,
    interrupt_error,
    timeout_policy,
)
from llm_proxy.upstream.catalog import Catalog, CurrentCatalog, Deployment, ModelGroup
from llm_proxy.upstream.client import CachePurge, SidecarClient, purge_cache
from llm_proxy.upstream.litellm_protocol import NO_ROUTING, LiteLLMControls, ProviderAttempt, RoutingInfo
from llm_proxy.upstream.mock.upstream import MockUpstream
from llm_proxy.upstream.monitor import SidecarMonitor
from llm_proxy.upstream.pool import SidecarPool, SlotQueue
from llm_proxy.upstream.reply import Reply
from llm_proxy.upstream.token_usage import TokenUsage, call_cost, estimate_answer_tokens

__all__ = [
    "NO_ROUTING",
    "Catalog",
    "CurrentCatalog",
    "SidecarClient",
    "LiteLLMControls",
    "TimeoutPolicy",
    "Deployment",
    "ModelGroup",
    "ProviderAttempt",
    "SidecarMonitor",
    "MockUpstream",
    "SidecarPool",
    "CachePurge",
    "Reply",
    "SlotQueue",
    "RoutingInfo",
    "TokenUsage",
    "Timeouts",
    "CallGuard",
    "RunningCalls",
    "InterruptReason",
    "call_cost",
    "timeout_policy",
    "interrupt_error",
    "purge_cache",
    "estimate_answer_tokens",
]
