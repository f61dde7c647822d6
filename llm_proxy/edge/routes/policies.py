"""`/admin/limits` and `/admin/kills`: limit policies and kill switches.

Invariants: who may do what is in `edge.auth`; every change is published to all replicas before the response;
a policy that covers no call is listed with the reason, or without one where that cannot be known.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from llm_proxy.edge.auth import By
from llm_proxy.edge.routes.admin_bodies import (
    ADMIN_ERRORS,
    NOT_FOUND,
    Announce,
    ExactRoute,
    KillBody,
    RuleBody,
    configured,
)
from llm_proxy.identity import Actor, Limits, Rule, Rulings
from llm_proxy.identity.admin_documents import kill_from, rule_document, rule_from, rule_named
from llm_proxy.identity.authenticator import INTERNAL
from llm_proxy.identity.caller import ANY, ScopeKind
from llm_proxy.identity.policies import KillKind
from llm_proxy.json_access import Json
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


def router(
    rulings: Rulings | None, *, announce: Announce, by: By, catalog: Callable[[], Catalog | None]
) -> APIRouter:
    """The routes; without a database each is 503."""
    doors = APIRouter(prefix="/admin", tags=["admin"], responses=ADMIN_ERRORS, route_class=ExactRoute)
    _rules(doors, rulings, announce, Depends(by), catalog)
    _kills(doors, rulings, announce, Depends(by))
    return doors


def _rules(
    doors: APIRouter,
    rulings: Rulings | None,
    announce: Announce,
    by: Any,  # noqa: ANN401 -- FastAPI's Depends
    catalog: Callable[[], Catalog | None],
) -> None:
    @doors.get("/limits", summary="All rules of limits and budgets.", dependencies=[by])
    async def rules() -> Json:
        return {"data": await told(await configured(rulings).rules())}

    async def told(found: list[Rule]) -> list[Json]:
        tenants = await configured(rulings).tenants(found)
        return [rule_document(rule) | {"idle": why_idle(rule, tenants, catalog())} for rule in found]

    @doors.put("/limits", summary="Lay down the rule of a scope and subject.")
    async def put(body: RuleBody, who: Annotated[Actor, by]) -> Json:
        rule = await configured(rulings).with_id(rule_from(body.said()))
        await announce(await configured(rulings).set_rule(rule, who))
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
        rule = rule_named({"scope": scope, "tenant": tenant, "subject": subject, "model": model})
        await announce(await configured(rulings).drop_rule(rule, who))
        return {"dropped": True}


def _kills(doors: APIRouter, rulings: Rulings | None, announce: Announce, by: Any) -> None:  # noqa: ANN401 -- FastAPI's Depends
    @doors.get("/kills", summary="The kill switches that are thrown.", dependencies=[by])
    async def kills() -> Json:
        return {"data": await configured(rulings).kills()}

    @doors.put("/kills", summary="Switch off a key, agent, tenant or model, everywhere within a second.")
    async def throw(body: KillBody, who: Annotated[Actor, by]) -> Json:
        kill, reason = kill_from(body.said())
        await announce(await configured(rulings).throw(kill, who, reason=reason))
        return {"kind": kill.kind, "subject": kill.subject, "tenant": kill.tenant, "reason": reason}

    @doors.delete("/kills", summary="Switch it on again.", responses=NOT_FOUND)
    async def lift(
        who: Annotated[Actor, by], kind: KillKind, subject: str, tenant: str | None = None
    ) -> Json:
        kill, _ = kill_from({"kind": kind, "subject": subject, "tenant": tenant})
        await announce(await configured(rulings).lift(kill, who))
        return {"lifted": True}
