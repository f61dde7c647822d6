"""`/v1/model/info` and `/key/info`, which clients of LiteLLM ask for models' features and their key's budget.

Invariants: a caller sees the models it may use and its own key alone; no deployment's address and no key is
shown. The figures are those of `/v1/models` and `/v1/limits`.
Source: LiteLLM's routes of these names.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from llm_proxy.admission import AdmissionController, LimitStatus, current_limits, reset_time
from llm_proxy.edge.auth import AuthDependencies
from llm_proxy.edge.routes.models import require_catalog, usable_models
from llm_proxy.errors import NotFound
from llm_proxy.identity import ANY, Caller
from llm_proxy.identity.authenticator import CREDENTIAL_HEADERS
from llm_proxy.identity.caller import Period
from llm_proxy.identity.virtual_keys import key_digest
from llm_proxy.json_access import Json
from llm_proxy.money import PICO_PER_USD, nano_to_usd
from llm_proxy.upstream import CurrentCatalog
from llm_proxy.upstream.catalog import Deployment
from llm_proxy.upstream.unit_prices import LITELLM_NAMES, stated_prices

_DURATIONS: dict[Period | None, str] = {"day": "1d", "week": "7d", "month": "30d"}
"""The durations of LiteLLM's budgets that begin when our periods begin."""


def router(
    catalog: CurrentCatalog,
    admission: AdmissionController,
    auth: AuthDependencies,
    default_models: tuple[str, ...],
) -> APIRouter:
    """Returns the routes."""
    routes = APIRouter(tags=["models"], responses={401: {"description": "No credential."}})
    require_caller = Depends(auth.require_caller)

    @routes.get("/v1/model/info", summary="Models with prices, limits and features, as LiteLLM lists them.")
    @routes.get("/model/info", include_in_schema=False)
    async def described(
        caller: Annotated[Caller, require_caller], litellm_model_id: str | None = None
    ) -> Json:
        known = require_catalog(catalog.snapshot)
        entries = [
            _model_info(name, known.groups[name].mode, one)
            for name in usable_models(caller, known, default_models)
            for one in known.groups[name].deployments
            if litellm_model_id in (None, one.id)
        ]
        return {"data": entries}

    @routes.get(
        "/key/info",
        summary="The caller's own key, as LiteLLM describes it.",
        responses={404: {"description": "Another key than the caller's."}},
    )
    async def key_info(
        request: Request, caller: Annotated[Caller, require_caller], key: str | None = None
    ) -> Json:
        if key is not None and key_digest(key.encode()) not in _digests_of(request):
            message = "Another key is described by `GET /admin/keys/{key}`, with an admin key."
            raise NotFound(message, param="key")
        found = await current_limits(admission, caller)
        return {"key": caller.key_prefix or caller.key_id, "info": _key_info(caller, found.limit_statuses)}

    return routes


def _model_info(name: str, mode: str, one: Deployment) -> Json:
    return {
        "model_name": name,
        "litellm_params": {"model": f"{one.protocol or one.provider}/{one.provider_model}"},
        "model_info": {
            "id": one.id,
            "key": one.provider_model,
            "db_model": False,
            "mode": mode,
            "litellm_provider": one.provider,
            "max_tokens": one.max_tokens,
            "max_input_tokens": one.max_input_tokens,
            "max_output_tokens": one.max_output_tokens,
            "input_cost_per_token": _usd_per_token(one.input_pico_usd),
            "output_cost_per_token": _usd_per_token(one.output_pico_usd),
            **{
                LITELLM_NAMES[name]: float(price)
                for name, price in stated_prices(one.units).items()
                if name in LITELLM_NAMES
            },
            **dict.fromkeys(one.features, True),
        },
    }


def _usd_per_token(pico: int | None) -> float | None:
    return None if pico is None else float(Decimal(pico) / PICO_PER_USD)


def _key_info(caller: Caller, statuses: Iterable[LimitStatus]) -> Json:
    own = (one for one in statuses if one.check.scope == "key" and one.check.kind == "budget")
    budget = next((one for one in own if one.check.unit == "usd"), None)
    limits = caller.limits
    return {
        "key_name": caller.key_prefix or caller.key_id,
        "team_id": caller.tenant,
        "user_id": caller.user,
        "models": [] if caller.models is None or ANY in caller.models else list(caller.models),
        "rpm_limit": limits.rpm or None,
        "tpm_limit": limits.tpm or None,
        "max_parallel_requests": limits.parallel or None,
        "max_budget": float(nano_to_usd(budget.check.limit)) if budget else None,
        "budget_duration": _DURATIONS.get(budget.check.period) if budget else None,
        "budget_reset_at": reset_time(budget.check) if budget else None,
        "spend": float(nano_to_usd(budget.used)) if budget and budget.used is not None else None,
        "metadata": {"tags": list(caller.tags)},
    }


def _digests_of(request: Request) -> set[bytes]:
    """Returns the digests of the credentials that a request carries."""
    sent = (value for name, value in request.scope["headers"] if name in CREDENTIAL_HEADERS)
    return {key_digest(value.removeprefix(b"Bearer ").strip()) for value in sent}
