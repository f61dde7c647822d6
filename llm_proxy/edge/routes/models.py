"""`/v1/models`, `/internal/llm/models`, `/admin/models` and `/admin/models/{model}/test`.

Invariants: a caller sees configured groups it may use, no wildcard's expansion and no deployment's address; a
model it may not use is 404. Health comes from live traffic; a probe (`model_probe`) runs on request only.
Source: https://platform.openai.com/docs/api-reference/models; Anthropic's for `anthropic-version`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends
from fastapi.responses import Response
from starlette.requests import Request

from llm_proxy.dialects.dialect import ListedModel
from llm_proxy.dialects.gemini.models import model_page as gemini_page
from llm_proxy.dialects.gemini.models import render_model as gemini_model
from llm_proxy.dialects.internal import INTERNAL
from llm_proxy.dialects.messages.models import model_page
from llm_proxy.dialects.messages.models import render_model as anthropic_model
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.openai import render_model as openai_model
from llm_proxy.edge.auth import ActorDependency, AuthDependencies
from llm_proxy.edge.model_probe import ModelProbe, NotTested, ProbeResult
from llm_proxy.edge.routes.messages import anthropic_response
from llm_proxy.edge.routes.stored_data import AuditedChange, log_change
from llm_proxy.endpoints import CONVERSATIONS, served_paths
from llm_proxy.errors import APIError, ModelNotFound, NotFound, models_not_read
from llm_proxy.identity import Actor, Caller, may_use_model
from llm_proxy.json_access import Json
from llm_proxy.ledger import ModelHealth, PostgresUsage, TrafficHealth, billed
from llm_proxy.ledger.model_health import WINDOW
from llm_proxy.money import PICO_PER_USD_PER_MILLION, nano_to_usd
from llm_proxy.schema.database import DatabaseUnavailable
from llm_proxy.upstream import Catalog, CurrentCatalog
from llm_proxy.upstream.catalog import Deployment, ModelGroup
from llm_proxy.upstream.unit_prices import stated_prices

ReadCooldowns = Callable[[], Awaitable[Mapping[str, Json]]]


def router(catalog: CurrentCatalog, auth: AuthDependencies, default_models: tuple[str, ...]) -> APIRouter:
    """Returns `/v1/models`, its aliases and `/internal/llm/models`."""
    routes = APIRouter(
        tags=["models"],
        responses={
            401: {"description": "No credential."},
            503: {"description": "The list of models is not read yet."},
        },
    )
    require_caller = Depends(auth.require_caller)

    @routes.get("/v1/models", summary="List the models the key may use.")
    @routes.get("/models", include_in_schema=False)
    @routes.get("/v1/llm/models", summary="The same, as the `x-internal-auth` service calls it.")
    async def listed(request: Request, caller: Annotated[Caller, require_caller]) -> Response:
        return _list(request, listed_models(caller, require_catalog(catalog.snapshot), default_models))

    @routes.get(
        "/v1/models/{model:path}", summary="One model.", responses={404: {"description": "No such model."}}
    )
    @routes.get("/models/{model:path}", include_in_schema=False)
    async def one(request: Request, model: str, caller: Annotated[Caller, require_caller]) -> Response:
        if not model:
            raise NotFound(f"Unknown request URL: GET {request.scope['path']}.", code="unknown_url")
        return _one(request, usable_model(caller, require_catalog(catalog.snapshot), model, default_models))

    @routes.get("/internal/llm/models", summary="List the models in the internal proxy's vocabulary.")
    async def internal(caller: Annotated[Caller, require_caller]) -> Response:
        found = listed_models(caller, require_catalog(catalog.snapshot), default_models)
        return _json(INTERNAL.render_models(found))

    return routes


def _list(request: Request, found: list[ListedModel]) -> Response:
    if "anthropic-version" in request.headers:
        return anthropic_response(model_page(found, request.query_params))
    if is_google(request):
        return _json(gemini_page(found, request.query_params))
    return _json(OPENAI.render_models(found))


def _one(request: Request, found: ListedModel) -> Response:
    if "anthropic-version" in request.headers:
        return anthropic_response(anthropic_model(found))
    if is_google(request):
        return _json(gemini_model(found))
    return _json(openai_model(found))


def is_google(request: Request) -> bool:
    """Whether a request comes from a client of Google's API, whose lists have the same path below `/v1`."""
    return any(name.startswith("x-goog-") for name in request.headers)


def may_use(caller: Caller, known: Catalog, name: str, default_models: tuple[str, ...]) -> bool:
    """Whether a caller may use a model; `default_models` hold for callers without a list."""
    return bool(may_use_model(caller, default_models, known.names, known.resolved(name), known.resolved))


def usable_models(caller: Caller, known: Catalog, default_models: tuple[str, ...]) -> list[str]:
    """Returns the listed groups that a caller may use."""
    return [name for name in known.names if may_use(caller, known, name, default_models)]


def listed_models(caller: Caller, known: Catalog, default_models: tuple[str, ...]) -> list[ListedModel]:
    """Returns the groups that a caller may use, as they are listed."""
    return [_listed_model(known, name) for name in usable_models(caller, known, default_models)]


def usable_model(caller: Caller, known: Catalog, name: str, default_models: tuple[str, ...]) -> ListedModel:
    """Returns one group as it is listed; raises `ModelNotFound` where the caller may not use it."""
    if known.find_group(name) is None or not may_use(caller, known, name, default_models):
        raise ModelNotFound(
            f"The model `{name[:200]}` does not exist or you do not have access to it.", param="model"
        )
    return _listed_model(known, name)


def require_catalog(catalog: Catalog | None) -> Catalog:
    """Returns the catalog; raises `StoreUnavailable` while it is not known."""
    if catalog is None:
        raise models_not_read(retry_after_s=2)
    return catalog


def _listed_model(catalog: Catalog, name: str) -> ListedModel:
    group = catalog.find_group(name)
    deployments = group.deployments if group else ()
    if group is None or not deployments:
        return ListedModel(name)
    first = deployments[0]
    return ListedModel(
        name,
        first.provider,
        first.provider_model,
        first.max_output_tokens or first.max_tokens,
        mode=group.mode,
        context_window=_min_known(one.max_input_tokens for one in deployments),
        max_output_tokens=_min_known(one.max_output_tokens for one in deployments),
        created=_min_known(one.created for one in deployments) or 0,
        endpoints=tuple(served_paths(CONVERSATIONS if group.endpoints is None else group.endpoints)),
    )


def _min_known(known: Iterable[int | None]) -> int | None:
    """Returns the smallest known number: what every deployment can do; None if none is known."""
    return min((one for one in known if one is not None), default=None)


def _json(body: Json) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")


def admin_router(
    catalog: CurrentCatalog,
    usage: PostgresUsage | None,
    probe: ModelProbe,
    *,
    record: AuditedChange | None,
    require_actor: ActorDependency,
    read_cooldowns: ReadCooldowns,
) -> APIRouter:
    """Returns `/admin/models` and `/admin/models/{model}/test`."""
    routes = APIRouter(prefix="/admin", tags=["admin"], responses={401: {"description": "No admin key."}})

    @routes.get(
        "/models",
        summary="Model groups: providers, prices, and live health.",
        dependencies=[Depends(require_actor)],
    )
    async def listed() -> Json:
        known = require_catalog(catalog.snapshot)
        health, cooldowns = await asyncio.gather(_model_health(usage), read_cooldowns())
        groups = [_group_document(group, health, cooldowns) for group in known.groups.values()]
        return {"data": groups, "window_s": int(WINDOW.total_seconds())}

    @routes.post(
        "/models/{model:path}/test",
        summary="One small call to a model, and its result; `ok` is null where none was made.",
        responses={404: {"description": "No such model."}},
    )
    async def test(model: str, who: Annotated[Actor, Depends(require_actor)]) -> Json:
        group = require_catalog(catalog.snapshot).find_group(model)
        if group is None:
            raise ModelNotFound(f"The model `{model[:200]}` does not exist.", param="model")
        async with (record or log_change)(who, "models.test", model) as detail:
            try:
                result = _probe_document(model, await probe(model, group.mode))
            except NotTested as reason:
                result = dict.fromkeys(_PROBE_FIELDS) | {"id": model, "error": _error_of(reason)}
            detail |= {name: result[name] for name in ("ok", "request_id", "cost_usd")}
        return result

    return routes


async def _model_health(usage: PostgresUsage | None) -> ModelHealth | None:
    """Returns the models' health; None without a database or while it is unavailable."""
    try:
        return await usage.model_health(datetime.now(UTC)) if usage is not None else None
    except DatabaseUnavailable:
        return None


def _group_document(group: ModelGroup, health: ModelHealth | None, cooldowns: Mapping[str, Json]) -> Json:
    return {
        "id": group.name,
        "mode": group.mode,
        "endpoints": None if group.endpoints is None else served_paths(group.endpoints),
        "wildcard": group.wildcard,
        "providers": sorted({one.provider for one in group.deployments}),
        "fallbacks": list(group.fallbacks),
        "health": _health_document(health.groups.get(group.name, TrafficHealth()) if health else None),
        "deployments": [
            _deployment_document(one, health) | {"cooldown": cooldowns.get(one.id)}
            for one in group.deployments
        ],
    }


def _deployment_document(one: Deployment, health: ModelHealth | None) -> Json:
    return {
        "id": one.id,
        "provider": one.provider,
        "model": one.provider_model,
        "max_tokens": one.max_tokens,
        "max_output_tokens": one.max_output_tokens,
        "input_usd_per_million": _usd_per_million(one.input_pico_usd),
        "output_usd_per_million": _usd_per_million(one.output_pico_usd),
        "unit_prices_usd": {
            name: f"{price.normalize():f}" for name, price in stated_prices(one.units).items()
        },
        "health": _health_document(health.deployments.get(one.id, TrafficHealth()) if health else None),
    }


def _health_document(health: TrafficHealth | None) -> Json:
    """Returns health as JSON: null where it is unknown, counts of 0 without calls."""
    calls, failures = (health.calls, health.failures) if health else (None, None)
    return {
        "last_success_at": _timestamp(health.last_success_at) if health else None,
        "last_failure_at": _timestamp(health.last_failure_at) if health else None,
        "last_failure_code": health.last_failure_code if health else None,
        "calls": calls,
        "failures": failures,
        "error_rate": round(failures / calls, 4) if calls and failures is not None else None,
    }


def _timestamp(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds")


def _usd_per_million(pico: int | None) -> str | None:
    return None if pico is None else format((Decimal(pico) / PICO_PER_USD_PER_MILLION).normalize(), "f")


def _probe_document(model: str, result: ProbeResult) -> Json:
    routing, error = result.context.routing, result.error
    cost = billed(result.context).cost_nano_usd if error is None else None
    return {
        "id": model,
        "ok": error is None,
        "request_id": str(result.context.request_id),
        "latency_ms": round(result.latency_ms, 1),
        "cost_usd": None if cost is None else format(nano_to_usd(cost), "f"),
        "group": routing.group,
        "provider": routing.provider,
        "model": routing.provider_model,
        "deployment": routing.deployment,
        "error": None if error is None else _error_of(error),
    }


_PROBE_FIELDS = (
    "id", "ok", "request_id", "latency_ms", "cost_usd", "group", "provider", "model", "deployment", "error",
)  # fmt: skip


def _error_of(error: APIError) -> Json:
    """Returns an error of a probe; `cause` is why the provider failed, which its caller does not read."""
    return {
        "status": error.status, "code": error.code, "message": error.message, "cause": error.provider_message,
    }  # fmt: skip
