"""What runs now, with a way to stop it, and the last hundred requests; refreshed every few seconds.

Invariants: running calls are the gateway's list, stopped through its API, so that the audit log names who did
it; a note names what the list may lack.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from llm_proxy.console.access import CHANGERS, AnyViewer, Viewer, require_role
from llm_proxy.console.console import Console
from llm_proxy.console.gateway_api import GatewayRejected
from llm_proxy.identity.console_sessions import ViewerRole
from llm_proxy.json_access import Json
from llm_proxy.ledger.request_search import RequestSearch, RequestSearcher

LAST = 100
MAX_RUNNING, MAX_LISTED = 500, 5000
"""Running calls on the page, and the most that the API lists."""
STOPPERS: tuple[ViewerRole, ...] = (*CHANGERS, "key")
"""Roles that may stop the calls they see."""
Stopper = Annotated[Viewer, Depends(require_role(*STOPPERS))]
_RANGE = timedelta(hours=24)
_CLOCKS = timedelta(minutes=5)


def router(console: Console) -> APIRouter:
    """Returns the page's routes."""
    routes = APIRouter()
    searcher = RequestSearcher(console.data.pool)

    async def values(viewer: Viewer) -> Json:
        listed: Json = {"data": [], "has_more": False, "note": None}
        problem = ""
        try:
            listed = await list_running(viewer, MAX_RUNNING)
        except GatewayRejected as fault:
            problem = fault.message
        now = datetime.now(UTC)
        search = RequestSearch(
            now - _RANGE,
            now + _CLOCKS,
            only_key=viewer.scope.key_id,
            only_tenant=viewer.scope.tenant,
            limit=LAST,
        )
        last = await searcher.find_page(search)
        may_stop = viewer.may(*STOPPERS)
        return {"listed": listed, "problem": problem, "rows": last.rows, "may_stop": may_stop, "now": now}

    @routes.get("/live")
    async def show(request: Request, viewer: AnyViewer, refresh: str = "on") -> Response:
        return console.render(request, viewer, "live.html", refresh=refresh != "off", **await values(viewer))

    @routes.get("/live/now")
    async def refresh(request: Request, viewer: AnyViewer) -> Response:
        return console.render(request, viewer, "live_now.html", **await values(viewer))

    @routes.post("/live/{request_id}/stop")
    async def stop(request_id: UUID, viewer: Stopper) -> Response:
        try:
            call = (await viewer.api.send("DELETE", f"{_calls_path(viewer)}/{request_id}"))["call"]
        except GatewayRejected as fault:
            return console.redirect("/live", notice=fault.message)
        whose = call["key_name"] or call["key_prefix"] or "a key"
        return console.redirect("/live", notice=f"Stopped a call of {whose} after {call['age_s']:.0f} s.")

    return routes


async def list_running(viewer: Viewer, limit: int) -> Json:
    """Returns the gateway's list of the running calls that a viewer may see; raises `GatewayRejected`."""
    return await viewer.api.get(_calls_path(viewer), limit=limit)


def _calls_path(viewer: Viewer) -> str:
    return "/v1/calls" if viewer.role == "key" else "/admin/calls"


async def known_running(viewer: Viewer) -> list[Json]:
    """Returns the running calls that a viewer may see; none while they are unknown."""
    try:
        found: list[Json] = (await list_running(viewer, MAX_LISTED))["data"]
    except GatewayRejected:
        return []
    return found
