"""Any id of a request, pasted anywhere, also inside an error's text, finds the request's page.

Invariants: a viewer finds the requests and running calls of its scope alone.
"""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from llm_proxy.console.access import AnyViewer
from llm_proxy.console.console import Console
from llm_proxy.console.pages.live import known_running
from llm_proxy.ledger.request_lookup import RequestLookup, ids_in


def router(console: Console) -> APIRouter:
    """Returns the page's routes."""
    routes = APIRouter()
    lookup = RequestLookup(console.data.pool)

    @routes.get("/find")
    async def find(
        request: Request,
        viewer: AnyViewer,
        id: str = "",  # noqa: A002 -- the address's
    ) -> Response:
        pasted, scope = ids_in(id), viewer.scope
        rows = await lookup.find(pasted, scope.key_id, scope.tenant)
        if len(rows) == 1:
            return RedirectResponse(f"/requests/{rows[0]['request_id']}", 303)
        ids = {*map(str, pasted.uuids), *pasted.words}
        listed = [] if rows else await known_running(viewer)
        running = [one for one in listed if {one["request_id"], one["client_request_id"]} & ids]
        if len(running) == 1:
            return RedirectResponse(f"/requests/{running[0]['request_id']}", 303)
        if not rows and len(pasted.uuids) == 1:  # its page shows what is known of it
            return RedirectResponse(f"/requests/{pasted.uuids[0]}", 303)
        return console.render(request, viewer, "find.html", status=200 if rows else 404, rows=rows, text=id)

    return routes
