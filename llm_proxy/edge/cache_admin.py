"""`DELETE /admin/cache`: cached answers are deleted, of a tenant, a model, both, or all.

Invariants: who may do it is in `roles`; with a database configured, the audit log says that a purge begins
before anything is deleted, or nothing is deleted, and then what came of it.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Query

from llm_proxy.errors import StoreUnavailable
from llm_proxy.identity import Actor
from llm_proxy.upstream import Purged

Purge = Callable[[str | None, str | None], Awaitable[Purged]]
Record = Callable[[Actor, str, str], AbstractAsyncContextManager[dict[str, Any]]]
Name = Annotated[str | None, Query(min_length=1, max_length=256, pattern=r"^[^\x00]+$")]
log = logging.getLogger(__name__)


def router(purge: Purge, record: Record | None, by: Any) -> APIRouter:  # noqa: ANN401 -- FastAPI's Depends
    """`/admin/cache`.

    Args:
        purge: Deletes the entries of a tenant and a model.
        record: Puts a change on record; None without a database, then only the log tells.
        by: Says who asks; refuses roles that may not.
    """
    routes = APIRouter(prefix="/admin", tags=["admin"])

    @routes.delete(
        "/cache",
        summary="Delete cached answers, of a tenant, a model, both, or all.",
        responses={
            401: {"description": "No admin key."},
            403: {"description": "This role may not."},
            404: {"description": "There is no response cache that can be purged."},
            503: {"description": "The cache or the database is away; the message says what was deleted."},
        },
    )
    async def delete(who: Annotated[Actor, by], tenant: Name = None, model: Name = None) -> dict[str, int]:
        target = f"tenant={tenant or '*'} model={model or '*'}"
        async with (record or logged)(who, "cache.purge", target) as detail:
            purged = await purge(tenant, model)
            detail |= {"purged": purged.entries, "complete": purged.complete}
        if not purged.complete:
            raise StoreUnavailable(
                f"{purged.entries} cached answers were deleted; the rest of the cache did not answer.",
                retry_after_s=2,
            )
        return {"purged": purged.entries}

    return routes


@asynccontextmanager
async def logged(who: Actor, action: str, target: str) -> AsyncGenerator[dict[str, Any]]:
    """Record a change in the log alone, for a gateway without a database."""
    detail: dict[str, Any] = {}
    yield detail
    log.info("an admin's change", extra={"actor": who.name, "action": action, "target": target, **detail})
