"""`/admin/keys` and `/admin/admin-keys`: their life from creation to revocation, and raises for a time.

Invariants: who may do what is in `edge.auth`; an admin of one tenant sees and changes that tenant's keys
alone; a key's text is returned once, on creation; every change is published to all replicas before the
response.
"""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from llm_proxy.edge.auth import By
from llm_proxy.edge.routes.admin_bodies import (
    ADMIN_ERRORS,
    NOT_FOUND,
    Announce,
    ExactRoute,
    KeyChange,
    NewKey,
    RaiseBody,
    Rotation,
    configured,
)
from llm_proxy.edge.routes.limits import KeyStanding
from llm_proxy.errors import Forbidden, NotFound, StoreUnavailable
from llm_proxy.identity import Actor, AdminKeys, Deed, KeyRecord, Raises, Registry
from llm_proxy.identity.admin_documents import admin_key_from, key_document, raise_from, spec_from
from llm_proxy.identity.admin_keys import Role, admin_key_document
from llm_proxy.json_access import Json


def router(
    registry: Registry | None,
    raises: Raises | None,
    *,
    announce: Announce,
    by: By,
    standing: KeyStanding | None = None,
) -> APIRouter:
    """The routes; without a database each is 503."""
    doors = APIRouter(prefix="/admin", tags=["admin"], responses=ADMIN_ERRORS, route_class=ExactRoute)
    _keys(doors, registry, announce, Depends(by), standing)
    _raises(doors, raises, announce, Depends(by))
    return doors


def _keys(
    doors: APIRouter,
    registry: Registry | None,
    announce: Announce,
    by: Any,  # noqa: ANN401 -- FastAPI's Depends
    standing: KeyStanding | None,
) -> None:
    @doors.post("/keys", status_code=201, summary="Make a virtual key; its text is shown this once.")
    async def create(body: NewKey, who: Annotated[Actor, by]) -> Json:
        return _told(await configured(registry).create(spec_from(body.said()), who))

    @doors.get("/keys", summary="List keys, revoked ones too.")
    async def page(
        who: Annotated[Actor, by],
        tenant: str | None = None,
        after: str = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Json:
        found = await _page(configured(registry), who, tenant, after, limit)
        return {"data": [key_document(one) for one in found], "has_more": len(found) == limit}

    @doors.get("/keys/{key}", summary="One key, by id, name or prefix.", responses=NOT_FOUND)
    async def show(key: str, who: Annotated[Actor, by]) -> Json:
        record = await configured(registry).show(key, tenant=who.tenant)
        told = await standing.of(record, of_all=who.tenant is None) if standing else {}
        return key_document(record) | told

    @doors.patch("/keys/{key}", summary="Change a key.", responses=NOT_FOUND)
    async def change(key: str, body: KeyChange, who: Annotated[Actor, by]) -> Json:
        deed = await configured(registry).change(key, body.said(), who)
        await announce(deed.epochs)
        return _told(deed)

    @doors.post(
        "/keys/{key}/rotate", summary="A new secret; the old one works for a while.", responses=NOT_FOUND
    )
    async def rotate(key: str, who: Annotated[Actor, by], body: Rotation | None = None) -> Json:
        overlap = timedelta(seconds=(body or Rotation()).overlap_s)
        deed = await configured(registry).rotate(key, who, overlap=overlap)
        await announce(deed.epochs)
        return _told(deed)

    @doors.delete("/keys/{key}", summary="Revoke a key, everywhere within a second.", responses=NOT_FOUND)
    @doors.post("/keys/{key}/revoke", summary="The same.", responses=NOT_FOUND)
    async def revoke(key: str, who: Annotated[Actor, by]) -> Json:
        deed = await configured(registry).revoke(key, who)
        await announce(deed.epochs)
        return _told(deed)


def _raises(doors: APIRouter, raises: Raises | None, announce: Announce, by: Any) -> None:  # noqa: ANN401 -- FastAPI's Depends
    @doors.put("/keys/{key}/raise", summary="Raise a key's limits for a time.", responses=NOT_FOUND)
    async def begin(key: str, body: RaiseBody, who: Annotated[Actor, by]) -> Json:
        deed = await configured(raises).begin(key, raise_from(body.said()), who)
        await announce(deed.epochs)
        return _told(deed)

    @doors.delete("/keys/{key}/raise", summary="End a raise before its time.", responses=NOT_FOUND)
    async def end(key: str, who: Annotated[Actor, by]) -> Json:
        deed = await configured(raises).end(key, who)
        await announce(deed.epochs)
        return _told(deed)


async def _page(
    registry: Registry, who: Actor, tenant: str | None, after: str, limit: int
) -> list[KeyRecord]:
    if who.tenant is not None and tenant not in {None, who.tenant}:
        raise Forbidden("This admin key sees its own tenant only.", param="tenant")
    try:
        return await registry.page(tenant=who.tenant or tenant, after=after, limit=limit)
    except NotFound:
        if who.tenant is None:
            raise
        return []  # this tenant's admin has made no key yet


def _told(deed: Deed) -> Json:
    secret = {"key": deed.minted.text} if deed.minted is not None else {}
    return key_document(deed.record) | secret


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


def admin_keys_router(admin_keys: AdminKeys | None, *, by: By) -> APIRouter:
    """The routes; without a database each is 503."""
    routes = APIRouter(
        prefix="/admin/admin-keys",
        tags=["admin"],
        route_class=ExactRoute,
        responses=ADMIN_ERRORS,
    )
    missing: dict[int | str, Json] = {404: {"description": "No such admin key."}}

    @routes.post("", status_code=201, summary="Issue an admin key; its text is shown this once.")
    async def create(body: AdminKeyBody, who: Annotated[Actor, Depends(by)]) -> Json:
        spec = admin_key_from(body.model_dump(exclude_unset=True))
        record, minted = await _configured_admin_keys(admin_keys).create(spec, who)
        return admin_key_document(record) | {"key": minted.text}

    @routes.get("", summary="List admin keys, revoked ones too.", dependencies=[Depends(by)])
    async def page(after: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Json:
        found = await _configured_admin_keys(admin_keys).page(after=after, limit=limit)
        return {"data": [admin_key_document(one) for one in found], "has_more": len(found) == limit}

    @routes.delete("/{key}", summary="Revoke an admin key, everywhere at once.", responses=missing)
    @routes.post("/{key}/revoke", summary="The same.", responses=missing)
    async def revoke(key: str, who: Annotated[Actor, Depends(by)]) -> Json:
        return admin_key_document(await _configured_admin_keys(admin_keys).revoke(key, who))

    return routes


def _configured_admin_keys(admin_keys: AdminKeys | None) -> AdminKeys:
    if admin_keys is None:
        raise StoreUnavailable("Admin keys need a database (DATABASE_URL).")
    return admin_keys
