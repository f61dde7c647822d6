"""The operators' view of the models: who is behind each group, at what price, and how it fares.

Invariants: health is what live traffic showed all workers of this gateway; a test is one capped call, made
when asked for, and on record, as it may cost money; who may do what is in `roles`.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Depends

from llm_proxy.edge.auth import By
from llm_proxy.edge.cache_admin import Record, logged
from llm_proxy.edge.trial import Trial, Tried
from llm_proxy.errors import ModelNotFound, StoreUnavailable
from llm_proxy.identity import Actor
from llm_proxy.json_access import Json
from llm_proxy.ledger import SharedVitals, Vital, Vitals
from llm_proxy.ledger.vitals import MINUTES
from llm_proxy.money import PICO_PER_USD_PER_MILLION, nano_to_usd
from llm_proxy.upstream import Catalog, Deployment, Group


def router(
    catalog: Callable[[], Catalog | None],
    vitals: SharedVitals,
    trial: Trial,
    *,
    record: Record | None,
    by: By,
) -> APIRouter:
    """`/admin/models`."""
    doors = APIRouter(prefix="/admin", tags=["admin"], responses={401: {"description": "No admin key."}})

    @doors.get(
        "/models", summary="Model groups: providers, prices, and live health.", dependencies=[Depends(by)]
    )
    async def listed() -> Json:
        known = _known(catalog())
        seen = vitals.together()
        groups = [_group(group, seen) for group in known.groups.values()]
        return {"data": groups, "window_s": MINUTES * 60}

    @doors.post(
        "/models/{model:path}/test",
        summary="One capped call to a model, and how it went.",
        responses={404: {"description": "No such model."}},
    )
    async def test(model: str, who: Annotated[Actor, Depends(by)]) -> Json:
        group = _known(catalog()).group(model)
        if group is None:
            raise ModelNotFound(f"The model `{model[:200]}` does not exist.", param="id")
        async with (record or logged)(who, "models.test", model) as detail:
            tried = _tried(model, await trial(model, group.mode))
            detail |= {name: tried[name] for name in ("ok", "request_id", "cost_usd")}
        return tried

    return doors


def _known(catalog: Catalog | None) -> Catalog:
    if catalog is None:
        raise StoreUnavailable("The list of models is not known yet; please try again.", retry_after_s=2)
    return catalog


def _group(group: Group, vitals: Vitals) -> Json:
    return {
        "id": group.name,
        "mode": group.mode,
        "wildcard": group.wildcard,
        "providers": sorted({one.provider for one in group.deployments}),
        "fallbacks": list(group.fallbacks),
        "health": _health(vitals.group(group.name), vitals.now_s()),
        "deployments": [_deployment(one, vitals) for one in group.deployments],
    }


def _deployment(one: Deployment, vitals: Vitals) -> Json:
    return {
        "id": one.id,
        "provider": one.provider,
        "model": one.physical,
        "max_tokens": one.max_tokens,
        "max_output_tokens": one.max_output_tokens,
        "input_usd_per_million": _usd_per_million(one.input_pico_usd),
        "output_usd_per_million": _usd_per_million(one.output_pico_usd),
        "health": _health(vitals.deployment(one.id), vitals.now_s()),
    }


def _health(vital: Vital | None, now_s: float) -> Json:
    calls, failures = vital.lately(now_s) if vital else (0, 0)
    return {
        "last_success_at": _moment(vital.last_success_s) if vital else None,
        "last_failure_at": _moment(vital.last_failure_s) if vital else None,
        "last_failure_code": vital.code if vital else None,
        "calls": calls,
        "failures": failures,
        "error_rate": round(failures / calls, 4) if calls else None,
    }


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _usd_per_million(pico: int | None) -> str | None:
    return None if pico is None else format((Decimal(pico) / PICO_PER_USD_PER_MILLION).normalize(), "f")


def _tried(model: str, tried: Tried) -> Json:
    served, refused = tried.exchange.served, tried.refused
    cost = tried.exchange.cost_nano_usd() if refused is None else None
    return {
        "id": model,
        "ok": refused is None,
        "request_id": str(tried.exchange.request_id),
        "latency_ms": round(tried.latency_ms, 1),
        "cost_usd": None if cost is None else format(nano_to_usd(cost), "f"),
        "group": served.group,
        "provider": served.provider,
        "model": served.physical,
        "deployment": served.deployment,
        "error": None
        if refused is None
        else {"status": refused.status, "code": refused.code, "message": refused.message},
    }
