"""The lists of models, in each vocabulary: the configured groups a caller may use.

Invariants: no wildcard's expansions, no deployment's address; a model the caller may not use is not shown,
and asking for it is 404, as if it did not exist.
Source: https://platform.openai.com/docs/api-reference/models.
"""

from collections.abc import Callable, Iterable
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends
from fastapi.responses import Response
from starlette.requests import Request

from llm_proxy.dialects import INTERNAL, OPENAI, Offer, openai_model
from llm_proxy.edge.auth import Doorkeeper
from llm_proxy.errors import ModelNotFound, NotFound, StoreUnavailable
from llm_proxy.identity import Caller, allowed, usable
from llm_proxy.json_access import Json
from llm_proxy.upstream import Catalog


def router(
    catalog: Callable[[], Catalog | None], keeper: Doorkeeper, default_models: tuple[str, ...]
) -> APIRouter:
    """`/v1/models` and its other spellings."""
    doors = APIRouter(
        tags=["models"],
        responses={401: {"description": "No credential."}, 503: {"description": "Not known yet."}},
    )
    whose = Depends(keeper.caller)

    def may(caller: Caller, known: Catalog, name: str) -> bool:
        models = usable(caller, default_models, known.names) or ()
        return allowed(models, known.resolved(name), known.resolved)

    def offered(caller: Caller, known: Catalog) -> list[str]:
        return [name for name in known.names if may(caller, known, name)]

    @doors.get("/v1/models", summary="List the models the key may use.")
    @doors.get("/models", include_in_schema=False)
    @doors.get("/v1/llm/models", summary="The same, as the `x-internal-auth` service calls it.")
    async def listed(caller: Annotated[Caller, whose]) -> Response:
        known = _known(catalog())
        return _json(OPENAI.models(_offer(known, name) for name in offered(caller, known)))

    @doors.get(
        "/v1/models/{model:path}", summary="One model.", responses={404: {"description": "No such model."}}
    )
    @doors.get("/models/{model:path}", include_in_schema=False)
    async def one(request: Request, model: str, caller: Annotated[Caller, whose]) -> Response:
        if not model:
            raise NotFound(f"Unknown request URL: GET {request.scope['path']}.", code="unknown_url")
        known = _known(catalog())
        if known.group(model) is None or not may(caller, known, model):
            raise ModelNotFound(
                f"The model `{model[:200]}` does not exist or you do not have access to it.", param="model"
            )
        return _json(openai_model(_offer(known, model)))

    @doors.get("/internal/llm/models", summary="List the models in the internal proxy's vocabulary.")
    async def internal(caller: Annotated[Caller, whose]) -> Response:
        known = _known(catalog())
        return _json(INTERNAL.models([_offer(known, name) for name in offered(caller, known)]))

    return doors


def _known(catalog: Catalog | None) -> Catalog:
    if catalog is None:
        raise StoreUnavailable("The list of models is not known yet; please try again.", retry_after_s=2)
    return catalog


def _offer(catalog: Catalog, name: str) -> Offer:
    group = catalog.group(name)
    behind = group.deployments if group else ()
    if group is None or not behind:
        return Offer(name)
    first = behind[0]
    return Offer(
        name,
        first.provider,
        first.physical,
        first.max_output_tokens or first.max_tokens,
        mode=group.mode,
        context_window=_least(one.max_input_tokens for one in behind),
        max_output_tokens=_least(one.max_output_tokens for one in behind),
        created=_least(one.created for one in behind) or 0,
    )


def _least(known: Iterable[int | None]) -> int | None:
    """The smallest of the numbers that are known: what every deployment can do."""
    return min((one for one in known if one is not None), default=None)


def _json(body: Json) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
