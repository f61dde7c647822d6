"""`/admin/keys` and `/admin/admin-keys`: creation, changes, rotation, revocation, temporary raises.

Invariants: who may do what is in `edge.auth`; an admin of one tenant sees and changes that tenant's keys
alone; a key's text is returned once, on creation; every change is published to all replicas before the
response.
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from llm_proxy.edge.auth import ActorDependency
from llm_proxy.edge.routes.admin_bodies import (
    ADMIN_ERRORS,
    NOT_FOUND,
    CreateKey,
    ExactRoute,
    PublishEpochs,
    RaiseBody,
    RotateKey,
    UpdateKey,
    require_repository,
)
from llm_proxy.edge.routes.audit import Text
from llm_proxy.edge.routes.limits import KeyStatus
from llm_proxy.edge.visible_rows import require_own_tenant
from llm_proxy.errors import NotFound, StoreUnavailable
from llm_proxy.identity import (
    Actor,
    AdminKeyRepository,
    KeyMutation,
    KeyRaiseRepository,
    KeyRecord,
    KeyRepository,
)
from llm_proxy.identity.admin_documents import (
    admin_key_document,
    key_document,
    parse_admin_key,
    parse_new_key,
    parse_raise,
)
from llm_proxy.identity.admin_keys import Role
from llm_proxy.identity.key_search import KeyFilter, KeyState, TenantSummary
from llm_proxy.json_access import Json


class ReadTenants(Protocol):
    """Returns a page of tenants, ordered by name."""

    async def __call__(self, *, tenant: str | None, after: str, limit: int) -> list[TenantSummary]:
        """Returns at most `limit` tenants behind the name `after`; `tenant` selects one."""
        ...


ReadLastUse = Callable[[list[str]], Awaitable[dict[str, datetime]]]


def router(
    repository: KeyRepository | None,
    raises: KeyRaiseRepository | None,
    *,
    publish: PublishEpochs,
    require_actor: ActorDependency,
    status: KeyStatus | None = None,
    last_use: ReadLastUse | None = None,
) -> APIRouter:
    """Returns the routes; each is 503 without a database.

    `last_use` returns when the latest call with each of these keys began; a key without a call is left out.
    """
    routes = APIRouter(prefix="/admin", tags=["admin"], responses=ADMIN_ERRORS, route_class=ExactRoute)
    _reading_routes(routes, repository, Depends(require_actor), status, last_use)
    _key_routes(routes, repository, publish, Depends(require_actor))
    _raise_routes(routes, raises, publish, Depends(require_actor))
    return routes


def _reading_routes(
    routes: APIRouter,
    repository: KeyRepository | None,
    require_actor: Any,  # noqa: ANN401 -- FastAPI's Depends
    status: KeyStatus | None,
    last_use: ReadLastUse | None,
) -> None:
    async def documents(found: list[KeyRecord]) -> list[Json]:
        used = await last_use([one.key_id for one in found]) if last_use is not None and found else {}
        return [
            key_document(one) | ({"last_used_at": _time_text(used.get(one.key_id))} if last_use else {})
            for one in found
        ]

    @routes.get("/keys", summary="List keys, revoked ones too.")
    async def page(  # noqa: PLR0913 -- one argument a query parameter
        *,
        who: Annotated[Actor, require_actor],
        tenant: Text = None,
        agent: Text = None,
        user: Text = None,
        state: KeyState | None = None,
        text: Annotated[Text, Query(description=_TEXT_PARAMETER)] = None,
        above: Annotated[Text, Query(description="A key's id: the keys below it.")] = None,
        after: str = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Json:
        matching = KeyFilter(tenant, agent, user, state, text, above)
        found = await _list_keys(require_repository(repository), who, matching, after, limit)
        return {"data": await documents(found), "has_more": len(found) == limit}

    @routes.get("/keys/{key}", summary="One key, by id, name or prefix.", responses=NOT_FOUND)
    async def show(key: str, who: Annotated[Actor, require_actor]) -> Json:
        record = await require_repository(repository).get(key, tenant=who.tenant)
        limits = await status.document(record, shows_shared=who.tenant is None) if status else {}
        [document] = await documents([record])
        return document | limits


_TEXT_PARAMETER = "Part of a name, tenant, agent or user; the beginning of a prefix; or an id."


def _key_routes(
    routes: APIRouter,
    repository: KeyRepository | None,
    publish: PublishEpochs,
    require_actor: Any,  # noqa: ANN401 -- FastAPI's Depends
) -> None:
    @routes.post("/keys", status_code=201, summary="Create a virtual key; its text is shown this once.")
    async def create(body: CreateKey, who: Annotated[Actor, require_actor]) -> Json:
        spec = parse_new_key(body.set_fields(), datetime.now(UTC))
        return _mutation_document(await require_repository(repository).create(spec, who))

    @routes.patch("/keys/{key}", summary="Change a key.", responses=NOT_FOUND)
    async def change(key: str, body: UpdateKey, who: Annotated[Actor, require_actor]) -> Json:
        mutation = await require_repository(repository).update(key, body.set_fields(), who)
        await publish(mutation.epochs)
        return _mutation_document(mutation)

    @routes.post(
        "/keys/{key}/rotate", summary="A new secret; the old one works for a while.", responses=NOT_FOUND
    )
    async def rotate(key: str, who: Annotated[Actor, require_actor], body: RotateKey | None = None) -> Json:
        overlap = timedelta(seconds=(body or RotateKey()).overlap_s)
        mutation = await require_repository(repository).rotate(key, who, overlap=overlap)
        await publish(mutation.epochs)
        return _mutation_document(mutation)

    @routes.delete("/keys/{key}", summary="Revoke a key, everywhere within a second.", responses=NOT_FOUND)
    @routes.post("/keys/{key}/revoke", summary="The same.", responses=NOT_FOUND)
    async def revoke(key: str, who: Annotated[Actor, require_actor]) -> Json:
        mutation = await require_repository(repository).revoke(key, who)
        await publish(mutation.epochs)
        return _mutation_document(mutation)


def _raise_routes(
    routes: APIRouter,
    raises: KeyRaiseRepository | None,
    publish: PublishEpochs,
    require_actor: Any,  # noqa: ANN401 -- FastAPI's Depends
) -> None:
    @routes.put("/keys/{key}/raise", summary="Raise a key's limits for a time.", responses=NOT_FOUND)
    async def begin(key: str, body: RaiseBody, who: Annotated[Actor, require_actor]) -> Json:
        mutation = await require_repository(raises).begin(key, parse_raise(body.set_fields()), who)
        await publish(mutation.epochs)
        return _mutation_document(mutation)

    @routes.delete("/keys/{key}/raise", summary="End a raise before its time.", responses=NOT_FOUND)
    async def end(key: str, who: Annotated[Actor, require_actor]) -> Json:
        mutation = await require_repository(raises).end(key, who)
        await publish(mutation.epochs)
        return _mutation_document(mutation)


async def _list_keys(
    repository: KeyRepository, who: Actor, matching: KeyFilter, after: str, limit: int
) -> list[KeyRecord]:
    require_own_tenant(who.tenant, matching.tenant)
    wanted = replace(matching, tenant=who.tenant or matching.tenant)
    try:
        return await repository.list_keys(matching=wanted, after=after, limit=limit)
    except NotFound:
        if who.tenant is None:
            raise
        return []  # the tenant has no key yet


def _time_text(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment is not None else None


def _mutation_document(mutation: KeyMutation) -> Json:
    secret = {"key": mutation.generated.text} if mutation.generated is not None else {}
    return key_document(mutation.record) | secret


def tenants_router(read_tenants: ReadTenants | None, *, require_actor: ActorDependency) -> APIRouter:
    """Returns `/admin/tenants`; it is 503 without a database."""
    routes = APIRouter(prefix="/admin", tags=["admin"], responses=ADMIN_ERRORS)

    @routes.get("/tenants", summary="The tenants that have keys or limits of their own.")
    async def page(
        who: Annotated[Actor, Depends(require_actor)],
        tenant: Text = None,
        after: str = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Json:
        if read_tenants is None:
            raise StoreUnavailable("Tenants need a database (DATABASE_URL).")
        require_own_tenant(who.tenant, tenant)
        found = await read_tenants(tenant=who.tenant or tenant, after=after, limit=limit)
        return {"data": [asdict(one) for one in found], "has_more": len(found) == limit}

    return routes


class AdminKeyBody(BaseModel):
    """An admin key to be created."""

    model_config = ConfigDict(extra="forbid")

    name: str
    role: Role = Field(
        description="`owner` may do everything; `operator` everything but create admin keys; `viewer` reads; "
        "`tenant` manages its tenant's keys and reads its usage."
    )
    tenant: str | None = Field(None, description="For the role `tenant` only.")
    expires_at: str | None = Field(None, description="ISO 8601, in the future.")


def admin_keys_router(admin_keys: AdminKeyRepository | None, *, require_actor: ActorDependency) -> APIRouter:
    """Returns the routes; each is 503 without a database."""
    routes = APIRouter(
        prefix="/admin/admin-keys",
        tags=["admin"],
        route_class=ExactRoute,
        responses=ADMIN_ERRORS,
    )
    missing: dict[int | str, Json] = {404: {"description": "No such admin key."}}

    @routes.post("", status_code=201, summary="Create an admin key; its text is shown this once.")
    async def create(body: AdminKeyBody, who: Annotated[Actor, Depends(require_actor)]) -> Json:
        spec = parse_admin_key(body.model_dump(exclude_unset=True), datetime.now(UTC))
        record, generated = await _require_admin_keys(admin_keys).create(spec, who)
        return admin_key_document(record) | {"key": generated.text}

    @routes.get("", summary="List admin keys, revoked ones too.", dependencies=[Depends(require_actor)])
    async def page(after: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Json:
        found = await _require_admin_keys(admin_keys).list_keys(after=after, limit=limit)
        return {"data": [admin_key_document(one) for one in found], "has_more": len(found) == limit}

    @routes.delete("/{key}", summary="Revoke an admin key, everywhere at once.", responses=missing)
    @routes.post("/{key}/revoke", summary="The same.", responses=missing)
    async def revoke(key: str, who: Annotated[Actor, Depends(require_actor)]) -> Json:
        return admin_key_document(await _require_admin_keys(admin_keys).revoke(key, who))

    return routes


def _require_admin_keys(admin_keys: AdminKeyRepository | None) -> AdminKeyRepository:
    if admin_keys is None:
        raise StoreUnavailable("Admin keys need a database (DATABASE_URL).")
    return admin_keys
