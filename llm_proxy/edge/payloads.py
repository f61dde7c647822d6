"""What was said in a call, for an admin, where the operator keeps it; and its erasure.

Invariants: nobody but an admin reads a payload, nobody but a writing admin erases; erasing what is not there
is no error.
"""

from collections.abc import Awaitable
from typing import Annotated, TypeVar
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from llm_proxy.edge.auth import Doorkeeper
from llm_proxy.errors import NotFound, StoreUnavailable
from llm_proxy.ledger import Usage
from llm_proxy.ledger.postgres import PostgresAway

Told = TypeVar("Told")


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
    async def kept(request_id: UUID, _: Annotated[str, Depends(keeper.reader)]) -> dict[str, str | None]:
        said = await _told(_asked(usage).payload(request_id))
        if said is None:
            raise NotFound("Nothing is kept of this request.", code="payload_not_found")
        return said

    @doors.delete(
        "/admin/payloads",
        summary="Erase everything a user said or was answered.",
        responses={403: {"description": "This key may only read."}},
    )
    async def erase(
        _: Annotated[str, Depends(keeper.writer)], user: Annotated[str, Query(min_length=1)]
    ) -> dict[str, int]:
        return {"erased": await _told(_asked(usage).erase_user(user))}

    return doors


def _asked(usage: Usage | None) -> Usage:
    if usage is None:
        raise StoreUnavailable("This gateway has no database: nothing is kept.")
    return usage


async def _told(answer: Awaitable[Told]) -> Told:
    try:
        return await answer
    except PostgresAway:
        raise StoreUnavailable("The database cannot tell now; please try again.", retry_after_s=2) from None
