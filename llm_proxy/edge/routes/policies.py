"""`/admin/limits` and `/admin/kills`: limit policies and kill switches.

Invariants: who may do what is in `edge.auth`; every change is published to all replicas before the response;
a policy that covers no call is listed with the reason, or without one where that cannot be known.
"""

from collections.abc import Callable, Mapping
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
from llm_proxy.identity import Actor, LimitPolicy, Limits, PolicyRepository
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
from llm_proxy.upstream import Catalog
from llm_proxy.wildcards import wildcard_matches


def idle_reason(rule: LimitPolicy, tenants: Mapping[str, str | None], catalog: Catalog | None) -> str | None:
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
    if rule.scope == "key" and rule.subject != ANY and not rule.subject.startswith(INTERNAL_KEY_ID_PREFIX):
        if rule.subject not in tenants:
            return "there is no such key, or it was revoked"
        if rule.tenant not in {ANY, tenants[rule.subject]}:
            return "the key belongs to another tenant"
    return _unserved(rule, catalog) if catalog is not None else None


def _unserved(rule: LimitPolicy, catalog: Catalog) -> str | None:
    groups = catalog.groups.values()
    if rule.scope == "provider" and rule.subject != ANY:
        providers = {one.provider for group in groups for one in group.deployments}
        return None if rule.subject in providers else "no model is served by this provider"
    if rule.group == ANY or any(group.wildcard for group in groups if "*" in rule.group):
        return None
    served = any(wildcard_matches(rule.group, name) for name in catalog.groups) or catalog.find_group(
        rule.group
    )
    return None if served else "no model is called so"


def router(
    rulings: PolicyRepository | None,
    *,
    announce: PublishEpochs,
    by: ActorDependency,
    catalog: Callable[[], Catalog | None],
) -> APIRouter:
    """The routes; without a database each is 503."""
    doors = APIRouter(prefix="/admin", tags=["admin"], responses=ADMIN_ERRORS, route_class=ExactRoute)
    _limit_routes(doors, rulings, announce, Depends(by), catalog)
    _kill_switch_routes(doors, rulings, announce, Depends(by))
    return doors


def _limit_routes(
    doors: APIRouter,
    rulings: PolicyRepository | None,
    announce: PublishEpochs,
    by: Any,  # noqa: ANN401 -- FastAPI's Depends
    catalog: Callable[[], Catalog | None],
) -> None:
    @doors.get("/limits", summary="All rules of limits and budgets.", dependencies=[by])
    async def rules() -> Json:
        return {"data": await told(await require_repository(rulings).list_policies())}

    async def told(found: list[LimitPolicy]) -> list[Json]:
        tenants = await require_repository(rulings).tenants_of_keys(found)
        return [policy_document(rule) | {"idle": idle_reason(rule, tenants, catalog())} for rule in found]

    @doors.put("/limits", summary="Lay down the rule of a scope and subject.")
    async def put(body: LimitPolicyBody, who: Annotated[Actor, by]) -> Json:
        rule = await require_repository(rulings).resolve_key(parse_policy(body.set_fields()))
        await announce(await require_repository(rulings).upsert(rule, who))
        [laid] = await told([rule])
        return laid

    @doors.delete("/limits", summary="Take a rule away.", responses=NOT_FOUND)
    async def drop(
        who: Annotated[Actor, by],
        scope: ScopeKind,
        tenant: str | None = None,
        subject: str | None = None,
        model: str | None = None,
    ) -> Json:
        rule = parse_policy_target({"scope": scope, "tenant": tenant, "subject": subject, "model": model})
        await announce(await require_repository(rulings).delete(rule, who))
        return {"dropped": True}


def _kill_switch_routes(
    doors: APIRouter,
    rulings: PolicyRepository | None,
    announce: PublishEpochs,
    by: Any,  # noqa: ANN401 -- FastAPI's Depends
) -> None:
    @doors.get("/kills", summary="The kill switches that are thrown.", dependencies=[by])
    async def kills() -> Json:
        return {"data": await require_repository(rulings).list_kill_switches()}

    @doors.put("/kills", summary="Switch off a key, agent, tenant or model, everywhere within a second.")
    async def throw(body: KillSwitchBody, who: Annotated[Actor, by]) -> Json:
        kill, reason = parse_kill_switch(body.set_fields())
        await announce(await require_repository(rulings).enable_switch(kill, who, reason=reason))
        return {"kind": kill.kind, "subject": kill.subject, "tenant": kill.tenant, "reason": reason}

    @doors.delete("/kills", summary="Switch it on again.", responses=NOT_FOUND)
    async def lift(
        who: Annotated[Actor, by], kind: KillSwitchKind, subject: str, tenant: str | None = None
    ) -> Json:
        kill, _ = parse_kill_switch({"kind": kind, "subject": subject, "tenant": tenant})
        await announce(await require_repository(rulings).disable_switch(kill, who))
        return {"lifted": True}
