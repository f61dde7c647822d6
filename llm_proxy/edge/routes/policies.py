"""`/admin/limits` and `/admin/kills`: limit policies and kill switches.

Invariants: who may do what is in `edge.auth`; every change is published to all replicas before the response;
a policy that covers no call is listed with the reason, or without one where that cannot be known.
"""

from collections.abc import Mapping

from llm_proxy.identity import Limits, Rule
from llm_proxy.identity.authenticator import INTERNAL
from llm_proxy.identity.caller import ANY
from llm_proxy.upstream import Catalog
from llm_proxy.wildcards import covers


def why_idle(rule: Rule, tenants: Mapping[str, str | None], catalog: Catalog | None) -> str | None:
    """The reason in a few words; None for a rule that may cover calls.

    Args:
        rule: Whose.
        tenants: Of the keys that were not revoked, by id.
        catalog: What the sidecar serves; None while nobody knows.
    """
    if rule.limits == Limits() and not rule.budgets and rule.on_store_failure is None:
        return "it states no limit and no budget"
    if rule.mode == "off":
        return "it is off"
    if any("*" in name for name in (rule.tenant, rule.subject) if name != ANY):
        return "only models are named by wildcards"
    if rule.scope == "key" and rule.subject != ANY and not rule.subject.startswith(INTERNAL):
        if rule.subject not in tenants:
            return "there is no such key, or it was revoked"
        if rule.tenant not in {ANY, tenants[rule.subject]}:
            return "the key belongs to another tenant"
    return _unserved(rule, catalog) if catalog is not None else None


def _unserved(rule: Rule, catalog: Catalog) -> str | None:
    groups = catalog.groups.values()
    if rule.scope == "provider" and rule.subject != ANY:
        providers = {one.provider for group in groups for one in group.deployments}
        return None if rule.subject in providers else "no model is served by this provider"
    if rule.group == ANY or any(group.wildcard for group in groups if "*" in rule.group):
        return None
    served = any(covers(rule.group, name) for name in catalog.groups) or catalog.group(rule.group)
    return None if served else "no model is called so"
