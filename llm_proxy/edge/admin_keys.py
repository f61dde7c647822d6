"""`/admin/admin-keys`: owners issue, list and revoke admin keys.

Invariants: a key's text is in the answer that issues it and in no other; who may do what is in `roles`.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from llm_proxy.edge.admin import ExactRoute
from llm_proxy.edge.auth import By
from llm_proxy.errors import StoreUnavailable
from llm_proxy.identity import Actor, AdminKeys
from llm_proxy.identity.admin_keys import Role, admin_key_document
from llm_proxy.identity.spoken import admin_key_from
from llm_proxy.json_access import Json


class AdminKeyBody(BaseModel):
    """An admin key to be issued."""

    model_config = ConfigDict(extra="forbid")

    name: str
    role: Role = Field(
        description="`owner` may do everything; `operator` everything but issue admin keys; `viewer` reads; "
        "`tenant` manages its tenant's keys and reads its usage."
    )
    tenant: str | None = Field(None, description="For the role `tenant`, and for no other.")
    expires_at: str | None = Field(None, description="ISO 8601.")


def router(admin_keys: AdminKeys | None, *, by: By) -> APIRouter:
    """The routes; without a database each is 503."""
    routes = APIRouter(
        prefix="/admin/admin-keys",
        tags=["admin"],
        route_class=ExactRoute,
        responses={
            400: {"description": "A field is wrong; `param` names it."},
            401: {"description": "No admin key."},
            403: {"description": "This role may not."},
            503: {"description": "The database is away."},
        },
    )
    missing: dict[int | str, Json] = {404: {"description": "No such admin key."}}

    @routes.post("", status_code=201, summary="Issue an admin key; its text is shown this once.")
    async def create(body: AdminKeyBody, who: Annotated[Actor, Depends(by)]) -> Json:
        spec = admin_key_from(body.model_dump(exclude_unset=True))
        record, minted = await _there(admin_keys).create(spec, who)
        return admin_key_document(record) | {"key": minted.text}

    @routes.get("", summary="List admin keys, revoked ones too.", dependencies=[Depends(by)])
    async def page(after: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Json:
        found = await _there(admin_keys).page(after=after, limit=limit)
        return {"data": [admin_key_document(one) for one in found], "has_more": len(found) == limit}

    @routes.delete("/{key}", summary="Revoke an admin key, everywhere at once.", responses=missing)
    @routes.post("/{key}/revoke", summary="The same.", responses=missing)
    async def revoke(key: str, who: Annotated[Actor, Depends(by)]) -> Json:
        return admin_key_document(await _there(admin_keys).revoke(key, who))

    return routes


def _there(admin_keys: AdminKeys | None) -> AdminKeys:
    if admin_keys is None:
        raise StoreUnavailable("Admin keys need a database (DATABASE_URL).")
    return admin_keys
