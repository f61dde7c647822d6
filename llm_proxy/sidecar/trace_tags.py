"""The tags of a call, for who watches the calls: in a field of ours, which chooses no deployment.

Where a router or a model group sets `enable_tag_filtering`, LiteLLM chooses deployments by `metadata.tags`; a
caller's words must not. Invariant: the gateway's field reaches LiteLLM's logging payload and nothing else.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from llm_proxy.sidecar.patch import Patch
from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.shapes import items, mapping

LOGGING = "litellm.litellm_core_utils.litellm_logging"
FIELD = "llm_proxy_tags"


def apply() -> None:
    """Patch where the payload's tags are read; before the first call."""
    payload: Theirs = import_module(LOGGING).StandardLoggingPayloadSetup
    payload.get_request_tags = staticmethod(_with_ours(payload.get_request_tags))


def _with_ours(read: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    def read_with_ours(litellm_params: Theirs, proxy_server_request: Theirs) -> list[Any]:
        ours = items(mapping(mapping(litellm_params).get("metadata")).get(FIELD))
        return [*ours, *read(litellm_params, proxy_server_request)]

    return read_with_ours


PATCH = Patch(
    name="trace_tags",
    install=apply,
    reason="LiteLLM shows observers only those tags by which it may also choose deployments.",
    since="1.108.6",
    report="To file: `a metadata field for tags that are logged and never used for routing`.",
    until="There is such a field.",
    tests=("tests/stages/test_sidecar_langfuse.py",),
)
