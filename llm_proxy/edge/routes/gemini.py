"""`:countTokens` and the lists of models of Google's API.

Invariants: a count takes no concurrency slot, counts in no limit or budget, and is not recorded; a caller
sees the models that it sees at `/v1/models`. Source: https://ai.google.dev/api/tokens,
https://ai.google.dev/api/models.
"""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request

from llm_proxy.dialects.gemini.dialect import GENERATE_CONTENT
from llm_proxy.dialects.gemini.models import model_page, render_model
from llm_proxy.edge.auth import AuthDependencies
from llm_proxy.edge.inference import RequestReader
from llm_proxy.edge.request import Scope
from llm_proxy.edge.routes.admin_bodies import COUNT_ERRORS
from llm_proxy.edge.routes.models import is_google, listed_models, require_catalog, usable_model
from llm_proxy.identity import Caller
from llm_proxy.json_access import Json
from llm_proxy.upstream import CurrentCatalog
from llm_proxy.upstream.token_counter import TokenCounter

COUNT = ":countTokens"


def counting_router(reader: RequestReader, counter: TokenCounter) -> APIRouter:
    """Returns the routes that count."""
    routes = APIRouter(tags=["gemini"], responses=COUNT_ERRORS)

    @routes.post(
        f"/v1beta/models/{{model:path}}{COUNT}", summary="Count the tokens of contents, without a call."
    )
    @routes.post(f"/v1/models/{{model:path}}{COUNT}", include_in_schema=False)
    async def count_tokens(request: Request, model: str) -> Json:
        caller, count = await reader.read_count(request, GENERATE_CONTENT, model)
        tokens = await counter.count(caller, count.body, count.size_bytes)
        return {"totalTokens": tokens, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens}]}

    return routes


def models_router(
    catalog: CurrentCatalog, auth: AuthDependencies, default_models: tuple[str, ...]
) -> APIRouter:
    """Returns the routes that list models."""
    routes = APIRouter(tags=["models"], responses={401: {"description": "No credential."}})
    require_caller = Depends(auth.require_caller)

    @routes.get("/v1beta/models", summary="List the models the key may use, as Google does.")
    async def listed(request: Request, caller: Annotated[Caller, require_caller]) -> Json:
        found = listed_models(caller, require_catalog(catalog.snapshot), default_models)
        return model_page(found, request.query_params)

    @routes.get(
        "/v1beta/models/{model:path}",
        summary="One of them.",
        responses={404: {"description": "No such model."}},
    )
    async def one(model: str, caller: Annotated[Caller, require_caller]) -> Json:
        return render_model(usable_model(caller, require_catalog(catalog.snapshot), model, default_models))

    return routes


def speaks_google(scope: Scope) -> bool:
    """Whether a request comes from a client of Google's API."""
    path = scope["path"]
    return (
        path.startswith(("/v1beta/", "/upload/v1beta/")) or path.endswith(COUNT) or is_google(Request(scope))
    )
