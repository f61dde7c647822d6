"""What was said in a call, for an admin, where the operator keeps it; and its erasure.

Invariants: nobody but an admin reads a payload, and each reading and each erasure is on record in the
audit log (who may do either is in `roles`); erasing what is not there is no error.
"""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from llm_proxy.edge.auth import Doorkeeper
from llm_proxy.edge.told import asked, told
from llm_proxy.errors import BadRequest, NotFound
from llm_proxy.identity import Actor
from llm_proxy.ledger import Usage


def router(usage: Usage | None, keeper: Doorkeeper) -> APIRouter:
    """`/admin/payloads`.

    Args:
        usage: None without Postgres: then nothing is kept.
        keeper: Says who asks.
    """
    doors = APIRouter(
        tags=["admin"],
        responses={401: {"description": "No admin key."}, 503: {"description": "Postgres cannot tell now."}},
    )

    @doors.get(
        "/admin/payloads/{request_id}",
        summary="The prompt and the answer of one call, redacted, where they are kept.",
        responses={404: {"description": "Not kept, or no longer."}},
    )
    async def kept(request_id: UUID, who: Annotated[Actor, Depends(keeper.actor)]) -> dict[str, str | None]:
        said = await told(asked(usage).payload(request_id))
        if said is None:
            raise NotFound("Nothing is kept of this request.", code="payload_not_found")
        await told(asked(usage).note_payload_read(request_id, who))
        return said

    @doors.delete(
        "/admin/payloads",
        summary="Erase everything a tenant's user said or was answered.",
        responses={
            400: {"description": "No user or tenant is named, or none is called that."},
            403: {"description": "This role may not."},
        },
    )
    async def erase(
        who: Annotated[Actor, Depends(keeper.actor)],
        user: Annotated[str, Query(min_length=1)],
        tenant: Annotated[str, Query(description="Empty: calls without a tenant.")],
    ) -> dict[str, int]:
        for param, name in (("user", user), ("tenant", tenant)):
            if "\0" in name:
                raise BadRequest(f"{param!r} holds a character no name has.", param=param)
        return {"erased": await told(asked(usage).erase_payloads(tenant or None, user, who))}

    return doors
