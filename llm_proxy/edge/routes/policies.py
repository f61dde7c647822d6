"""`/admin/limits` and `/admin/kill-switches` (also `/admin/kills`): limit policies and kill switches.

Invariants: who may do what is in `edge.auth`; every change is published to all replicas before the response;
a policy that covers no call is listed with the reason, or without one where that cannot be known.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from llm_proxy.edge.auth import ActorDependency
from llm_proxy.edge.routes.admin_bodies import (
    ADMIN_ERRORS,
    NOT_FOUND,
    ExactRoute,
    KillSwitchBody,
    LimitPolicyBody,
    PublishEpochs,
    require_repository,
)
from llm_proxy.identity import Actor, LimitPolicy, PolicyRepository
from llm_proxy.identity.admin_documents import (
    parse_kill_switch,
    parse_policy,
    parse_policy_target,
    policy_document,
)
from llm_proxy.identity.authenticator import INTERNAL_KEY_ID_PREFIX
from llm_proxy.identity.caller import ANY, ScopeKind
from llm_proxy.identity.policies import KillSwitchKind
from llm_proxy.json_access import Json
from llm_proxy.upstream import Catalog, CurrentCatalog
from llm_proxy.wildcards import wildcard_matches


def idle_reason(
    policy: LimitPolicy, tenants: Mapping[str, str | None], catalog: Catalog | None
) -> str | None:
    """Returns why a policy covers no call; None for one that may, or while that is unknown.

    Args:
        policy: The policy.
        tenants: The tenants of keys that are not revoked, by key id.
        catalog: What the sidecar serves; None until it is known.
    """
    if policy.is_empty:
        return "it states no limit and no budget"
    if policy.mode == "off":
        return "it is off"
    if any("*" in name for name in (policy.tenant, policy.subject) if name != ANY):
        return "only models are named by wildcards"
    if policy.key_id is not None and not policy.key_id.startswith(INTERNAL_KEY_ID_PREFIX):
        if policy.key_id not in tenants:
            return "there is no such key, or it was revoked"
        if policy.tenant not in {ANY, tenants[policy.key_id]}:
            return "the key belongs to another tenant"
    return _unserved_reason(policy, catalog) if catalog is not None else None


def _unserved_reason(policy: LimitPolicy, catalog: Catalog) -> str | None:
    groups = catalog.groups.values()
    if policy.scope == "provider" and policy.subject != ANY:
        providers = {one.provider for group in groups for one in group.deployments}
        return None if policy.subject in providers else "no model is served by this provider"
    if policy.group == ANY or any(group.wildcard for group in groups if "*" in policy.group):
        return None
    served = any(wildcard_matches(policy.group, name) for name in catalog.groups)
    return None if served or catalog.find_group(policy.group) else "no model has this name"


def router(
    policies: PolicyRepository | None,
    *,
    publish: PublishEpochs,
    require_actor: ActorDependency,
    catalog: CurrentCatalog,
) -> APIRouter:
    """Returns the routes; each is 503 without a database."""
    routes = APIRouter(prefix="/admin", tags=["admin"], responses=ADMIN_ERRORS, route_class=ExactRoute)
    _limit_routes(routes, policies, publish, Depends(require_actor), catalog)
    _kill_switch_routes(routes, policies, publish, Depends(require_actor))
    return routes


def _limit_routes(
    routes: APIRouter,
    policies: PolicyRepository | None,
    publish: PublishEpochs,
    require_actor: Any,  # noqa: ANN401 -- FastAPI's Depends
    catalog: CurrentCatalog,
) -> None:
    @routes.get("/limits", summary="All limit policies.", dependencies=[require_actor])
    async def rules() -> Json:
        return {"data": await documents(await require_repository(policies).list_policies())}

    async def documents(found: list[LimitPolicy]) -> list[Json]:
        tenants = await require_repository(policies).tenants_of_keys(found)
        return [
            policy_document(policy) | {"idle": idle_reason(policy, tenants, catalog.snapshot)}
            for policy in found
        ]

    @routes.put("/limits", summary="Create or replace the limit policy of a scope and subject.")
    async def put(body: LimitPolicyBody, who: Annotated[Actor, require_actor]) -> Json:
        policy = await require_repository(policies).resolve_key(parse_policy(body.set_fields()))
        await publish(await require_repository(policies).upsert(policy, who))
        [document] = await documents([policy])
        return document

    @routes.delete("/limits", summary="Delete a limit policy.", responses=NOT_FOUND)
    async def drop(
        who: Annotated[Actor, require_actor],
        scope: ScopeKind,
        tenant: str | None = None,
        subject: str | None = None,
        model: str | None = None,
    ) -> Json:
        policy = parse_policy_target({"scope": scope, "tenant": tenant, "subject": subject, "model": model})
        await publish(await require_repository(policies).delete(policy, who))
        return {"dropped": True}


def _kill_switch_routes(
    routes: APIRouter,
    policies: PolicyRepository | None,
    publish: PublishEpochs,
    require_actor: Any,  # noqa: ANN401 -- FastAPI's Depends
) -> None:
    @routes.get("/kill-switches", summary="The kill switches that are on.", dependencies=[require_actor])
    @routes.get("/kills", include_in_schema=False, dependencies=[require_actor])
    async def kills() -> Json:
        return {"data": await require_repository(policies).list_kill_switches()}

    @routes.put(
        "/kill-switches", summary="Switch off a key, agent, tenant or model, everywhere within a second."
    )
    @routes.put("/kills", include_in_schema=False)
    async def throw(body: KillSwitchBody, who: Annotated[Actor, require_actor]) -> Json:
        switch, reason = parse_kill_switch(body.set_fields())
        await publish(await require_repository(policies).enable_switch(switch, who, reason=reason))
        return {"kind": switch.kind, "subject": switch.subject, "tenant": switch.tenant, "reason": reason}

    @routes.delete("/kill-switches", summary="Remove a kill switch.", responses=NOT_FOUND)
    @routes.delete("/kills", include_in_schema=False)
    async def lift(
        who: Annotated[Actor, require_actor], kind: KillSwitchKind, subject: str, tenant: str | None = None
    ) -> Json:
        switch, _ = parse_kill_switch({"kind": kind, "subject": subject, "tenant": tenant})
        await publish(await require_repository(policies).disable_switch(switch, who))
        return {"lifted": True}
