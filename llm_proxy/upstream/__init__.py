"""A `Call` in, a `Reply` out: the pool of sidecars, their catalog, timeouts, errors and frames."""

from llm_proxy.call_guard import CallGuard, interrupt_error, timeout_policy
from llm_proxy.upstream.call_cost import call_cost
from llm_proxy.upstream.catalog import Catalog, CurrentCatalog
from llm_proxy.upstream.client import CachePurge, SidecarClient
from llm_proxy.upstream.litellm_protocol import NO_ROUTING, RoutingInfo
from llm_proxy.upstream.token_usage import TokenUsage

__all__ = [
    "NO_ROUTING",
    "CachePurge",
    "CallGuard",
    "Catalog",
    "CurrentCatalog",
    "RoutingInfo",
    "SidecarClient",
    "TokenUsage",
    "call_cost",
    "interrupt_error",
    "timeout_policy",
]
