"""The keys of cached answers, as far as the gateway decides them: whose they are, and of which model.

Pure. Invariants: callers share cached answers only within a tenant; a key without a tenant, and an internal
caller without one, shares with nobody; names are percent-encoded, so that none can reach into another's keys
and none holds a wildcard.
"""

from urllib.parse import quote

from llm_proxy.identity import Caller

NAMESPACE = "litellm_caching"


def namespace(caller: Caller, group: str) -> str:
    """The namespace of a call's cached answer; LiteLLM and our sidecar append a digest of the call."""
    owner = f"key:{_name(caller.key_id)}" if caller.tenant is None else f"tenant:{_name(caller.tenant)}"
    return f"{NAMESPACE}:{owner}:model={_name(group)}"


def patterns(tenant: str | None, group: str | None) -> list[str]:
    """Redis patterns of the keys of a tenant, a model group, or both; without either, of all of them."""
    owners = ("key:*", "tenant:*", "direct:*") if tenant is None else (f"tenant:{_name(tenant)}",)
    model = "*" if group is None else f"model={_name(group)}"
    return [f"{NAMESPACE}:{owner}:{model}:*" for owner in owners]


def _name(text: str) -> str:
    return quote(text, safe="")
