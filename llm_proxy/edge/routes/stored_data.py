"""`/admin/payloads`, `/admin/erasures`, `/admin/cache`: what is stored of calls is read and erased.

Invariants: who may do what is in `edge.auth`; each reading and erasure is in the audit log, an erasure or
purge before it begins; a certificate says `complete` only when nothing is left; erasing nothing is no error.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from llm_proxy.edge.auth import AuthDependencies
from llm_proxy.edge.responses import database_result, require_database
from llm_proxy.edge.routes.admin_bodies import ExactRoute
from llm_proxy.edge.routes.audit import Text
from llm_proxy.errors import NotFound, StoreUnavailable
from llm_proxy.identity import Actor
from llm_proxy.json_access import Json
from llm_proxy.ledger import Erasures, PostgresUsage
from llm_proxy.upstream import CachePurge

log = logging.getLogger(__name__)

PurgeCache = Callable[[str | None, str | None], Awaitable[CachePurge]]
AuditedChange = Callable[[Actor, str, str], AbstractAsyncContextManager[dict[str, Any]]]


def payloads_router(usage: PostgresUsage | None, auth: AuthDependencies) -> APIRouter:
    """Returns `/admin/payloads`; it is 503 without a database (`usage` is None)."""
    routes = APIRouter(
        tags=["admin"],
        responses={
            401: {"description": "No admin key."},
            503: {"description": "The database is unavailable."},
        },
    )

    @routes.get(
        "/admin/payloads/{request_id}",
        summary="The prompt and the response of one call, redacted, where they are stored.",
        responses={404: {"description": "Not stored, or no longer."}},
    )
    async def kept(
        request_id: UUID, who: Annotated[Actor, Depends(auth.require_actor)]
    ) -> dict[str, str | None]:
        payload = await database_result(require_database(usage).get_payload(request_id))
        if payload is None:
            raise NotFound("Nothing is stored of this request.", code="payload_not_found")
        await database_result(require_database(usage).audit_payload_read(request_id, who))
        return payload

    @routes.delete(
        "/admin/payloads",
        summary="Erase the stored prompts and responses of a tenant's user.",
        responses={
            400: {"description": "No user or tenant is given, or none has this name."},
            403: {"description": "This role may not."},
        },
    )
    async def erase(
        who: Annotated[Actor, Depends(auth.require_actor)],
        user: Annotated[str, Query(min_length=1)],
        tenant: Annotated[str, Query(description="Empty: calls without a tenant.")],
    ) -> dict[str, int]:
        return {
            "erased": await database_result(require_database(usage).erase_payloads(tenant or None, user, who))
        }

    return routes


class ErasureRequest(BaseModel):
    """The person to erase.

    Attributes:
        tenant: The user's tenant; empty for calls without a tenant.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: str = Field(max_length=256, pattern=r"^[^\x00]*$")
    user: str = Field(min_length=1, max_length=256, pattern=r"^[^\x00]+$")


def erasures_router(erasures: Erasures | None, require_actor: Any) -> APIRouter:  # noqa: ANN401 -- FastAPI's
    """Returns `/admin/erasures`; it is 503 without a database (`erasures` is None)."""
    routes = APIRouter(
        prefix="/admin/erasures",
        tags=["admin"],
        route_class=ExactRoute,
        responses={
            401: {"description": "No admin key."},
            403: {"description": "This role may not."},
            503: {"description": "The database is unavailable; nothing was erased."},
        },
    )

    @routes.post("", summary="Erase a tenant's user; repeated, continue an incomplete erasure.")
    async def erase(who: Annotated[Actor, require_actor], person: ErasureRequest) -> Json:
        return await database_result(require_database(erasures).erase(person.tenant, person.user, who))

    @routes.post(
        "/replay", summary="Repeat erasures of users who have new records, and continue incomplete ones."
    )
    async def replay(who: Annotated[Actor, require_actor]) -> Json:
        return {"data": await database_result(require_database(erasures).retry_unfinished(who))}

    @routes.get(
        "/{erasure_id}",
        summary="The certificate of one erasure.",
        responses={404: {"description": "No erasure has this id."}},
    )
    async def certificate(erasure_id: UUID, _: Annotated[Actor, require_actor]) -> Json:
        return await database_result(require_database(erasures).certificate(erasure_id))

    return routes


def cache_router(purge: PurgeCache, record: AuditedChange | None, require_actor: Any) -> APIRouter:  # noqa: ANN401 -- FastAPI's Depends
    """Returns `/admin/cache`.

    Args:
        purge: Deletes the entries of a tenant and a model.
        record: Puts the change into the audit log; None without a database: it is only logged.
        require_actor: Dependency that returns the admin, or raises.
    """
    routes = APIRouter(prefix="/admin", tags=["admin"])

    @routes.delete(
        "/cache",
        summary="Delete cached responses, of a tenant, a model, both, or all.",
        responses={
            401: {"description": "No admin key."},
            403: {"description": "This role may not."},
            404: {"description": "There is no response cache that can be purged."},
            503: {
                "description": "The cache or the database is unavailable; the message says what was deleted."
            },
        },
    )
    async def delete(
        who: Annotated[Actor, require_actor], tenant: Text = None, model: Text = None
    ) -> dict[str, int]:
        target = f"tenant={tenant or '*'} model={model or '*'}"
        async with (record or log_change)(who, "cache.purge", target) as detail:
            purged = await purge(tenant, model)
            detail |= {"purged": purged.entries, "complete": purged.complete}
        if not purged.complete:
            raise StoreUnavailable(
                f"{purged.entries} cached responses were deleted; the rest of the cache did not answer.",
                retry_after_s=2,
            )
        return {"purged": purged.entries}

    return routes


@asynccontextmanager
async def log_change(who: Actor, action: str, target: str) -> AsyncGenerator[dict[str, Any]]:
    """Logs a change; for a gateway without a database."""
    detail: dict[str, Any] = {}
    yield detail
    log.info("an admin's change", extra={"actor": who.name, "action": action, "target": target, **detail})
