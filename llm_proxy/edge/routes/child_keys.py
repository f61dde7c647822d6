"""`/v1/keys/children`: keys below the caller's own, for its sub-agents.

Invariants: a key makes, sees and ends keys below itself alone; a key's text is returned once, on creation; a
key that is ended here ends in every replica within a second.
"""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field, StrictBool, StrictInt

from llm_proxy.edge.auth import AuthDependencies
from llm_proxy.edge.routes.admin_bodies import ExactRoute, LimitsBody, PublishEpochs
from llm_proxy.errors import Forbidden, StoreUnavailable
from llm_proxy.identity import Caller, ChildKeyRepository, ServedNames
from llm_proxy.identity.admin_documents import key_document
from llm_proxy.json_access import Json

_RESPONSES: dict[int | str, Json] = {
    400: {"description": "A field is wrong; `param` names it."},
    401: {"description": "No credential, or one that has ended."},
    403: {"description": "Wider than the key itself, too deep, or no virtual key."},
    404: {"description": "No such key below this one."},
    429: {"description": "Too many keys below this one, or made within a minute."},
    503: {"description": "The database is unavailable."},
}


class CreateChildKey(LimitsBody):
    """A key below the caller's; a field that is left out is as in the caller's key."""

    name: str | None = Field(None, description="The end of its name, behind the parent's.")
    agent: str | None = Field(None, description="The one agent it acts for.")
    user: str | None = Field(None, description="The one user it acts for.")
    run: str | None = Field(None, description="The one run it acts for; its calls need not name it.")
    models: list[str] | None = Field(None, description="Names and wildcards within the parent's.")
    max_tokens_cap: StrictInt | None = None
    cache: StrictBool = True
    tags: list[str] | None = Field(None, description="Tags of its calls, beside the parent's.")
    expires_in_s: StrictInt | None = Field(None, description="At most 604800, a week; an hour by default.")


def router(
    repository: ChildKeyRepository | None,
    auth: AuthDependencies,
    served: ServedNames,
    *,
    publish: PublishEpochs,
    enabled: bool,
) -> APIRouter:
    """Returns the routes; each is 503 without a database, 403 where child keys are disabled."""
    routes = APIRouter(
        prefix="/v1/keys/children", tags=["keys"], responses=_RESPONSES, route_class=ExactRoute
    )

    def require() -> ChildKeyRepository:
        if not enabled:
            raise Forbidden(
                "Child keys are disabled on this gateway (LLM_PROXY__CHILD_KEYS).", code="child_keys_disabled"
            )
        if repository is None:
            raise StoreUnavailable("Virtual keys need a database (DATABASE_URL).")
        return repository

    @routes.post("", status_code=201, summary="Create a key below the caller's; its text is shown this once.")
    async def create(body: CreateChildKey, who: Annotated[Caller, Depends(auth.require_caller)]) -> Json:
        mutation = await require().create(who, _given_fields(body), served)
        assert mutation.generated is not None  # noqa: S101 -- it was created
        return key_document(mutation.record) | {"key": mutation.generated.text}

    @routes.get("", summary="The living keys below the caller's, the newest first.")
    async def page(who: Annotated[Caller, Depends(auth.require_caller)]) -> Json:
        return {"data": [key_document(one) for one in await require().list_living(who)]}

    @routes.delete("/{key}", summary="End a key below the caller's, and those below it.")
    async def revoke(key: str, who: Annotated[Caller, Depends(auth.require_caller)]) -> Json:
        mutation = await require().revoke(who, key)
        await publish(mutation.epochs)
        return key_document(mutation.record)

    return routes


def _given_fields(body: CreateChildKey) -> Json:
    """Returns the fields that the body sets to something."""
    return {name: value for name, value in body.set_fields().items() if value is not None}
