"""`/admin/keys` and `/admin/admin-keys`: their life from creation to revocation, and raises for a time.

Invariants: who may do what is in `edge.auth`; an admin of one tenant sees and changes that tenant's keys
alone; a key's text is returned once, on creation; every change is published to all replicas before the
response.
"""

import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, Strict, StrictBool, StrictInt, StrictStr

from llm_proxy.edge.auth import By
from llm_proxy.edge.routes.audit import BODY
from llm_proxy.edge.routes.limits import KeyStanding
from llm_proxy.edge.routes.policies import why_idle
from llm_proxy.errors import Forbidden, NotFound, StoreUnavailable
from llm_proxy.identity import Actor, AdminKeys, Deed, KeyRecord, Raises, Registry, Rule, Rulings
from llm_proxy.identity.admin_documents import (
    MOST,
    admin_key_from,
    key_document,
    kill_from,
    raise_from,
    rule_document,
    rule_from,
    rule_named,
    spec_from,
)
from llm_proxy.identity.admin_keys import Role, admin_key_document
from llm_proxy.identity.caller import Mode, OnStoreFailure, Period, ScopeKind
from llm_proxy.identity.policies import KillKind
from llm_proxy.json_access import Json

Kept = TypeVar("Kept", Registry, Rulings, Raises)
Announce = Callable[[Mapping[str, int]], Awaitable[None]]
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "A field is wrong; `param` names it."},
    401: {"description": "No admin key."},
    403: {"description": "This role may not."},
    503: {"description": "The database is away."},
}
_BOUNDS = f"From 0 to {MOST}."
_MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "No such thing."}}


class _ExactRequest(Request):
    """A request whose JSON keeps its decimals: a float would make a budget of 0 of 1E-400."""

    async def json(self) -> Any:  # noqa: ANN401 -- whatever JSON holds
        """The body."""
        body = json.loads(await self.body(), parse_float=Decimal)
        self.scope[BODY] = body
        return body


class ExactRoute(APIRoute):
    """A route that reads such requests; FastAPI's documented way."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, given an `_ExactRequest`."""
        handler = super().get_route_handler()

        async def exact(request: Request) -> Response:
            return await handler(_ExactRequest(request.scope, request.receive))

        return exact


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    def said(self) -> Json:
        """What the body states, and nothing it leaves out."""
        return self.model_dump(exclude_unset=True)


class BudgetBody(_Body):
    """Use allowed in a calendar period: one of the three limits."""

    limit_usd: StrictInt | StrictStr | Annotated[Decimal, Strict()] | None = Field(
        None,
        description="From 0 to 9007199.254740992 in steps of 0.000000001; as text it is taken exactly.",
    )
    limit_requests: StrictInt | None = Field(None, description=_BOUNDS)
    limit_tokens: StrictInt | None = Field(None, description=_BOUNDS)
    period: Period
    zone: str | None = Field(
        None, description="The calendar's time zone, such as Europe/Berlin; UTC by default."
    )


class LimitsBody(_Body):
    """Limits and budgets; null says nothing, 0 says no limit."""

    rpm: StrictInt | None = Field(None, description=_BOUNDS)
    tpm: StrictInt | None = Field(None, description=_BOUNDS)
    parallel: StrictInt | None = Field(None, description=_BOUNDS)
    budgets: list[BudgetBody] = Field(default_factory=list[BudgetBody])


class KeyBody(LimitsBody):
    """What an operator may say about a key."""

    tenant: str | None = None
    agent: str | None = Field(None, description="`*` for any agent of the tenant.")
    user: str | None = None
    models: list[str] | None = Field(None, description="Names and wildcards; null for the default list.")
    max_tokens_cap: StrictInt | None = Field(None, description="From 1 to 2147483647.")
    cache: StrictBool = True
    expires_at: str | None = Field(None, description="ISO 8601.")
    tags: list[str] | None = Field(None, description="Of every call made with it; at most 10.")


class NewKey(KeyBody):
    """A key to be made."""

    name: str


class KeyChange(KeyBody):
    """What is to change of a key; what is left out stays."""

    name: str | None = None


class RaiseBody(LimitsBody):
    """Higher limits and budgets of a key until a time; 0 for no limit."""

    until: str = Field(description="ISO 8601, at most 366 days ahead.")


class Rotation(_Body):
    """How long the old secrets go on working."""

    overlap_s: StrictInt = Field(default=86_400, ge=0, le=31_536_000)


class RuleBody(LimitsBody):
    """Limits and budgets of a scope; without a subject they are the scope's default."""

    scope: ScopeKind
    tenant: str | None = None
    subject: str | None = None
    model: str | None = None
    mode: Mode | None = None
    on_store_failure: OnStoreFailure | None = None


class KillBody(_Body):
    """A kill switch."""

    kind: KillKind
    subject: str
    tenant: str | None = None
    reason: str = ""


def router(
    registry: Registry | None,
    rulings: Rulings | None,
    raises: Raises | None,
    *,
    announce: Announce,
    by: By,
    standing: KeyStanding | None = None,
) -> APIRouter:
    """`/admin/...`; without a database every door is 503."""
    doors = APIRouter(prefix="/admin", tags=["admin"], responses=_REFUSALS, route_class=ExactRoute)
    office = _Office(announce, Depends(by), standing)
    _keys(doors, registry, office)
    _raises(doors, raises, office)
    _rules(doors, rulings, office)
    _kills(doors, rulings, office)
    return doors


@dataclass(frozen=True, slots=True)
class _Office:
    """What every door needs: how deeds are announced, who asks, what lies on a key."""

    announce: Announce
    by: Any
    standing: KeyStanding | None


def _keys(doors: APIRouter, registry: Registry | None, office: _Office) -> None:
    announce, by = office.announce, office.by

    @doors.post("/keys", status_code=201, summary="Make a virtual key; its text is shown this once.")
    async def create(body: NewKey, who: Annotated[Actor, by]) -> Json:
        return _told(await _there(registry).create(spec_from(body.said()), who))

    @doors.get("/keys", summary="List keys, revoked ones too.")
    async def page(
        who: Annotated[Actor, by],
        tenant: str | None = None,
        after: str = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Json:
        found = await _page(_there(registry), who, tenant, after, limit)
        return {"data": [key_document(one) for one in found], "has_more": len(found) == limit}

    @doors.get("/keys/{key}", summary="One key, by id, name or prefix.", responses=_MISSING)
    async def show(key: str, who: Annotated[Actor, by]) -> Json:
        record = await _there(registry).show(key, tenant=who.tenant)
        told = await office.standing.of(record, of_all=who.tenant is None) if office.standing else {}
        return key_document(record) | told

    @doors.patch("/keys/{key}", summary="Change a key.", responses=_MISSING)
    async def change(key: str, body: KeyChange, who: Annotated[Actor, by]) -> Json:
        deed = await _there(registry).change(key, body.said(), who)
        await announce(deed.epochs)
        return _told(deed)

    @doors.post(
        "/keys/{key}/rotate", summary="A new secret; the old one works for a while.", responses=_MISSING
    )
    async def rotate(key: str, who: Annotated[Actor, by], body: Rotation | None = None) -> Json:
        overlap = timedelta(seconds=(body or Rotation()).overlap_s)
        deed = await _there(registry).rotate(key, who, overlap=overlap)
        await announce(deed.epochs)
        return _told(deed)

    @doors.delete("/keys/{key}", summary="Revoke a key, everywhere within a second.", responses=_MISSING)
    @doors.post("/keys/{key}/revoke", summary="The same.", responses=_MISSING)
    async def revoke(key: str, who: Annotated[Actor, by]) -> Json:
        deed = await _there(registry).revoke(key, who)
        await announce(deed.epochs)
        return _told(deed)


def _raises(doors: APIRouter, raises: Raises | None, office: _Office) -> None:
    announce, by = office.announce, office.by

    @doors.put("/keys/{key}/raise", summary="Raise a key's limits for a time.", responses=_MISSING)
    async def begin(key: str, body: RaiseBody, who: Annotated[Actor, by]) -> Json:
        deed = await _there(raises).begin(key, raise_from(body.said()), who)
        await announce(deed.epochs)
        return _told(deed)

    @doors.delete("/keys/{key}/raise", summary="End a raise before its time.", responses=_MISSING)
    async def end(key: str, who: Annotated[Actor, by]) -> Json:
        deed = await _there(raises).end(key, who)
        await announce(deed.epochs)
        return _told(deed)


def _rules(doors: APIRouter, rulings: Rulings | None, office: _Office) -> None:
    announce, by = office.announce, office.by

    @doors.get("/limits", summary="All rules of limits and budgets.", dependencies=[by])
    async def rules() -> Json:
        return {"data": await told(await _there(rulings).rules())}

    async def told(found: list[Rule]) -> list[Json]:
        tenants = await _there(rulings).tenants(found)
        catalog = office.standing.catalog() if office.standing else None
        return [rule_document(rule) | {"idle": why_idle(rule, tenants, catalog)} for rule in found]

    @doors.put("/limits", summary="Lay down the rule of a scope and subject.")
    async def put(body: RuleBody, who: Annotated[Actor, by]) -> Json:
        rule = await _there(rulings).with_id(rule_from(body.said()))
        await announce(await _there(rulings).set_rule(rule, who))
        [laid] = await told([rule])
        return laid

    @doors.delete("/limits", summary="Take a rule away.", responses=_MISSING)
    async def drop(
        who: Annotated[Actor, by],
        scope: ScopeKind,
        tenant: str | None = None,
        subject: str | None = None,
        model: str | None = None,
    ) -> Json:
        rule = rule_named({"scope": scope, "tenant": tenant, "subject": subject, "model": model})
        await announce(await _there(rulings).drop_rule(rule, who))
        return {"dropped": True}


def _kills(doors: APIRouter, rulings: Rulings | None, office: _Office) -> None:
    announce, by = office.announce, office.by

    @doors.get("/kills", summary="The kill switches that are thrown.", dependencies=[by])
    async def kills() -> Json:
        return {"data": await _there(rulings).kills()}

    @doors.put("/kills", summary="Switch off a key, agent, tenant or model, everywhere within a second.")
    async def throw(body: KillBody, who: Annotated[Actor, by]) -> Json:
        kill, reason = kill_from(body.said())
        await announce(await _there(rulings).throw(kill, who, reason=reason))
        return {"kind": kill.kind, "subject": kill.subject, "tenant": kill.tenant, "reason": reason}

    @doors.delete("/kills", summary="Switch it on again.", responses=_MISSING)
    async def lift(
        who: Annotated[Actor, by], kind: KillKind, subject: str, tenant: str | None = None
    ) -> Json:
        kill, _ = kill_from({"kind": kind, "subject": subject, "tenant": tenant})
        await announce(await _there(rulings).lift(kill, who))
        return {"lifted": True}


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


def _there(kept: Kept | None) -> Kept:
    if kept is None:
        raise StoreUnavailable("Virtual keys need a database (DATABASE_URL).")
    return kept


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
