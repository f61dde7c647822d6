"""`/admin/erasures`: a person is erased within a tenant, and the certificate says what was done.

Invariants: who may do it is in `roles`; an erasure is in the audit log before it begins; an answer says
`complete` only when nothing is left.
"""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from llm_proxy.edge.told import asked, told
from llm_proxy.identity import Actor
from llm_proxy.json_access import Json
from llm_proxy.ledger import Erasures


class Whom(BaseModel):
    """Who is to be erased.

    Attributes:
        tenant: Empty: calls without a tenant.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: str = Field(max_length=256, pattern=r"^[^\x00]*$")
    user: str = Field(min_length=1, max_length=256, pattern=r"^[^\x00]+$")


def router(erasures: Erasures | None, by: Any) -> APIRouter:  # noqa: ANN401 -- FastAPI's
    """`/admin/erasures`.

    Args:
        erasures: None without a database.
        by: Says who asks; refuses roles that may not.
    """
    routes = APIRouter(
        prefix="/admin/erasures",
        tags=["admin"],
        responses={
            401: {"description": "No admin key."},
            403: {"description": "This role may not."},
            503: {"description": "The database cannot be asked; nothing was erased."},
        },
    )

    @routes.post("", summary="Erase a tenant's user; asked again, go on with what was incomplete.")
    async def erase(who: Annotated[Actor, by], whom: Whom) -> Json:
        return await told(asked(erasures).erase(whom.tenant, whom.user, who))

    @routes.post("/replay", summary="Erase again who has come back, and go on with what is incomplete.")
    async def replay(who: Annotated[Actor, by]) -> Json:
        return {"data": await told(asked(erasures).replay(who))}

    @routes.get(
        "/{erasure_id}",
        summary="The certificate of one erasure.",
        responses={404: {"description": "There is none of this id."}},
    )
    async def certificate(erasure_id: UUID, _: Annotated[Actor, by]) -> Json:
        return await told(asked(erasures).certificate(erasure_id))

    return routes
