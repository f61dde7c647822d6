"""Any id of a request, pasted anywhere, also inside an error's text, finds the request's page.

Invariants: a viewer finds the requests and running calls of its scope alone.
"""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from llm_proxy.console.access import EVERYBODY, Viewer, require_role
from llm_proxy.console.console import Console
from llm_proxy.console.gateway_api import GatewayRejected
from llm_proxy.console.pages.live import running_path
from llm_proxy.json_access import Json
from llm_proxy.ledger.request_lookup import RequestLookup, ids_in


def router(console: Console) -> APIRouter:
    """Returns the page's routes."""
    routes = APIRouter()
    lookup = RequestLookup(console.data.pool)

    @routes.get("/find")
    async def find(
        request: Request,
        viewer: Annotated[Viewer, Depends(require_role(*EVERYBODY))],
        id: str = "",  # noqa: A002 -- the address's
    ) -> Response:
        pasted, scope = ids_in(id), viewer.scope
        rows = await lookup.find(pasted, scope.key_id, scope.tenant)
        if len(rows) == 1:
            return RedirectResponse(f"/requests/{rows[0]['request_id']}", 303)
        running = [] if rows else await _running(viewer, {str(one) for one in pasted.uuids} | {*pasted.words})
        if len(running) == 1:
            return RedirectResponse(f"/requests/{running[0]['request_id']}", 303)
        if not rows and len(pasted.uuids) == 1:  # its page shows what is known of it
            return RedirectResponse(f"/requests/{pasted.uuids[0]}", 303)
        return console.render(request, viewer, "find.html", status=200 if rows else 404, rows=rows, text=id)

    return routes


async def _running(viewer: Viewer, ids: set[str]) -> list[Json]:
    """Returns the running calls that have one of these ids."""
    try:
        listed: list[Json] = (await viewer.api.get(running_path(viewer), limit=5000))["data"]
    except GatewayRejected:
        return []
    return [one for one in listed if {one["request_id"], one["client_request_id"]} & ids]
