"""Tenants: what each spent, its keys, its limits and their headroom.

Invariants: spend is `GET /v1/usage`'s, keys and tenants are the admin API's, with the viewer's credential; a
tenant that only internal keys named has no row of its own but its spend.
"""

import asyncio
from urllib.parse import quote, urlencode

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from llm_proxy.console.access import CHANGERS, GLOBAL, OPERATORS, Reader, Viewer
from llm_proxy.console.console import Console, PathName
from llm_proxy.console.gateway_api import GatewayRejected
from llm_proxy.console.headroom import Headroom, headroom_of
from llm_proxy.console.pages.keys import key_path
from llm_proxy.errors import NotFound
from llm_proxy.json_access import Json, as_objects

RANGES = {"24h": "the last day", "7d": "the last 7 days", "30d": "the last 30 days"}
PAGE_ROWS = 100
NOT_FOUND = 404
TENANT_SCOPES = frozenset({"tenant", "tenant_group"})


def router(console: Console) -> APIRouter:
    """Returns the pages' routes."""
    routes = APIRouter()

    @routes.get("/tenants")
    async def page(request: Request, viewer: Reader, after: str = "", since: str = "7d") -> Response:
        since = since if since in RANGES else "7d"
        found, usage = await asyncio.gather(
            viewer.api.get("/admin/tenants", after=after, limit=PAGE_ROWS),
            viewer.api.get("/v1/usage", group_by="tenant", since=since),
        )
        spent = {one["tenant"]: one for one in usage["data"]}
        rows = [(one["tenant"], one, spent.pop(one["tenant"], None)) for one in found["data"]]
        if not after and not found["has_more"]:
            rows += [(name, None, one) for name, one in spent.items() if name]
        following = {"after": rows[-1][0], "since": since} if found["has_more"] else None
        return console.render(
            request,
            viewer,
            "tenants.html",
            rows=rows,
            since=since,
            ranges=RANGES.items(),
            next_page=f"/tenants?{urlencode(following)}" if following else "",
        )

    _one(routes, console)
    return routes


def _one(routes: APIRouter, console: Console) -> None:
    @routes.get("/tenants/{tenant:path}")
    async def show(tenant: PathName, request: Request, viewer: Reader) -> Response:
        if viewer.tenant is not None and tenant != viewer.tenant:
            raise NotFound("There is no such tenant.")
        found, sums = await asyncio.gather(
            viewer.api.get("/admin/tenants", tenant=tenant),
            asyncio.gather(*(_spent(viewer, tenant, since) for since in RANGES)),
        )
        spent = dict(zip(RANGES, sums, strict=True))
        if not found["data"] and not any(spent.values()):
            raise NotFound("There is no such tenant.")
        is_global = viewer.may(*GLOBAL)
        rules = as_objects((await viewer.api.get("/admin/limits"))["data"]) if is_global else []
        return console.render(
            request,
            viewer,
            "tenant.html",
            tenant=tenant,
            summary=found["data"][0] if found["data"] else None,
            spent=[(RANGES[since], one) for since, one in spent.items()],
            headroom=await _headroom(viewer, tenant) if found["data"] else [],
            rules=[one for one in rules if one["tenant"] == tenant],
            quoted=quote(tenant, safe=""),
            is_global=is_global,
            may_create=viewer.may(*CHANGERS),
            may_change=viewer.may(*OPERATORS),
        )


async def _spent(viewer: Viewer, tenant: str, since: str) -> Json | None:
    """Returns a tenant's usage in a range; None without any."""
    found = await _rows(viewer, "/v1/usage", group_by="tenant", tenant=tenant, since=since)
    return found[0] if found else None


async def _headroom(viewer: Viewer, tenant: str) -> list[Headroom] | None:
    """Returns the status of the tenant's own limits, as one of its valid keys meets them; None: not known."""
    keys = await _rows(viewer, "/admin/keys", tenant=tenant, state="active", limit=1)
    if not keys:
        return []
    found = await viewer.api.get(key_path(keys[0]["id"]))
    limits = found.get("limits")
    return None if limits is None else headroom_of(one for one in limits if one["scope"] in TENANT_SCOPES)


async def _rows(viewer: Viewer, path: str, **parameters: str | int) -> list[Json]:
    """Returns the rows of a list; none where the API knows no tenant of this name (404)."""
    try:
        return as_objects((await viewer.api.get(path, **parameters))["data"])
    except GatewayRejected as error:
        if error.status != NOT_FOUND:
            raise
        return []
