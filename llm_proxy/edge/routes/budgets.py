"""`GET /admin/budgets`: what is spent of each budget, and whether it lasts to the end of its period.

Invariants: a tenant's admin sees its tenant's budgets, and none that tenants share; nothing is counted.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from llm_proxy.admission import PolicyDefaults, reset_time
from llm_proxy.admission.policy_resolver import EPOCH_START, PolicyResolver
from llm_proxy.edge.auth import ActorDependency
from llm_proxy.edge.responses import database_result
from llm_proxy.edge.routes.admin_bodies import ADMIN_ERRORS
from llm_proxy.errors import NotFound, StoreUnavailable
from llm_proxy.identity import Actor, Caller, KeyRepository, PolicySnapshot, PolicySource
from llm_proxy.identity.key_search import KeyFilter
from llm_proxy.identity.policies import EVERY_EPOCH
from llm_proxy.identity.virtual_keys import caller_from_record
from llm_proxy.json_access import Json
from llm_proxy.ledger.budget_forecast import BudgetForecast, BudgetForecasts
from llm_proxy.money import usd_text
from llm_proxy.quantities import shown_amount
from llm_proxy.upstream import CurrentCatalog

_KEYS_PAGE, _MAX_KEYS = 1000, 20_000
TenantQuery = Annotated[str | None, Query(description="Only this tenant's, and none that tenants share.")]
LimitQuery = Annotated[int, Query(ge=1, le=10_000, description="The maximum of rows.")]


@dataclass(frozen=True, slots=True)
class BudgetSources:
    """Where budgets and spend are read.

    Attributes:
        current: Today's policies.
    """

    forecasts: BudgetForecasts
    current: PolicySource
    keys: KeyRepository
    catalog: CurrentCatalog
    defaults: PolicyDefaults


def router(sources: BudgetSources | None, *, require_actor: ActorDependency) -> APIRouter:
    """Returns the route; it is 503 without a database."""
    routes = APIRouter(prefix="/admin", tags=["admin"], responses=ADMIN_ERRORS)

    @routes.get("/budgets", summary="What is spent of each budget, and how it ends at the present pace.")
    async def budgets(
        who: Annotated[Actor, Depends(require_actor)], tenant: TenantQuery = None, limit: LimitQuery = 1000
    ) -> Json:
        if sources is None:
            raise StoreUnavailable("Budgets need a database (DATABASE_URL).")
        now = datetime.now(UTC)
        found = await _forecasts(sources, who.tenant or tenant, now)
        rows = [_budget_document(one) for one in found[:limit]]
        return {"at": now.isoformat(), "data": rows, "has_more": len(found) > limit}

    return routes


async def _forecasts(sources: BudgetSources, tenant: str | None, now: datetime) -> Sequence[BudgetForecast]:
    snapshot = await sources.current.fetch_policies(EVERY_EPOCH) or PolicySnapshot()
    resolver = PolicyResolver.from_snapshot(sources.defaults, snapshot)
    keys = await _callers(sources.keys, tenant)
    return await database_result(sources.forecasts.fetch(keys, resolver, sources.catalog, now, tenant))


async def _callers(keys: KeyRepository, tenant: str | None) -> list[Caller]:
    """Returns the callers of all valid keys, or of a tenant's, at most `_MAX_KEYS`."""
    callers: list[Caller] = []
    wanted, after = KeyFilter(tenant, state="active"), ""
    with suppress(NotFound):  # the tenant has no key
        while len(callers) < _MAX_KEYS:
            page = await keys.list_keys(limit=_KEYS_PAGE, after=after, matching=wanted)
            callers += map(caller_from_record, page)
            if len(page) < _KEYS_PAGE:
                break
            after = page[-1].spec.name
    return callers


def _budget_document(one: BudgetForecast) -> Json:
    check = one.check
    figures = {"limit": check.limit, "spent": one.spent, "per_day": one.per_day, "expected": one.expected}
    if check.unit == "usd":
        amounts: Json = {f"{name}_usd": None if it is None else usd_text(it) for name, it in figures.items()}
    else:
        amounts = {name: None if it is None else shown_amount(it, check.unit) for name, it in figures.items()}
    starts, ends = check.period_start, reset_time(check)
    return {
        "scope": check.scope,
        "subject": check.subject,
        "id": check.spender_id,
        "tenant": check.spender_tenant,
        "model": None if check.spender_group == "*" else check.spender_group,
        "enforced": check.enforced,
        "unit": check.unit,
        "period": check.period,
        "zone": check.zone,
        "starts_at": None if starts is None or starts == EPOCH_START else starts.isoformat(),
        "resets_at": ends.isoformat() if ends else None,
        **amounts,
        "share": round(one.share, 4),
        "runs_out_at": one.runs_out_at.isoformat(timespec="seconds") if one.runs_out_at else None,
        "lasts": one.runs_out_at is None,
    }
