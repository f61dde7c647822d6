"""`/openai/models` and `/openai/deployments`: the models of a key as Azure lists them.

Invariant: a caller sees what it sees at `/v1/models`. Source: see `dialects/azure.py`.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request

from llm_proxy.dialects import azure
from llm_proxy.edge.auth import AuthDependencies
from llm_proxy.edge.routes.models import listed_models, require_catalog, usable_model
from llm_proxy.edge.unserved_paths import not_served
from llm_proxy.errors import NotFound
from llm_proxy.identity import Caller
from llm_proxy.json_access import Json
from llm_proxy.upstream import CurrentCatalog


def router(catalog: CurrentCatalog, auth: AuthDependencies, default_models: tuple[str, ...]) -> APIRouter:
    """Returns the routes."""
    routes = APIRouter(tags=["models"], responses={401: {"description": "No credential."}})
    require_caller = Depends(auth.require_caller)
    missing: dict[int | str, dict[str, Any]] = {404: {"description": "No such model."}}

    @routes.get("/openai/models", summary="The models the key may use, as Azure OpenAI lists them.")
    @routes.get("/openai/deployments/{model:path}/models", include_in_schema=False)  # as older SDKs ask
    async def models(caller: Annotated[Caller, require_caller]) -> Json:
        return azure.render_models(listed_models(caller, require_catalog(catalog.snapshot), default_models))

    @routes.get("/openai/models/{model:path}", summary="One of them.", responses=missing)
    async def one_model(model: str, caller: Annotated[Caller, require_caller]) -> Json:
        known = require_catalog(catalog.snapshot)
        return azure.render_azure_model(usable_model(caller, known, model, default_models))

    @routes.get("/openai/deployments", summary="The same models, as Azure OpenAI's deployments.")
    async def deployments(caller: Annotated[Caller, require_caller]) -> Json:
        return azure.render_deployments(
            listed_models(caller, require_catalog(catalog.snapshot), default_models)
        )

    @routes.get("/openai/deployments/{model:path}", summary="One of them.", responses=missing)
    async def one_deployment(request: Request, model: str, caller: Annotated[Caller, require_caller]) -> Json:
        path = request.scope["path"]
        if reason := not_served(path):  # which a wildcard would take for a model's name
            raise NotFound(f"Unknown request URL: GET {path[:200]}.{reason}", code="unknown_url")
        known = require_catalog(catalog.snapshot)
        return azure.render_deployment(usable_model(caller, known, model, default_models))

    return routes
