"""The audit log: who changed what, with what was there before and after; refused credentials.

Invariants: read by the admin API, page by page from the newest; filters are in the address.
"""

from urllib.parse import urlencode

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from llm_proxy.console.access import GlobalReader
from llm_proxy.console.console import Console
from llm_proxy.console.gateway_api import GatewayRejected
from llm_proxy.json_access import Json

_FILTERS = ("action", "actor", "subject", "since", "until")
_PAGE_ROWS = 100
_UNKNOWN = (400, 404)


def router(console: Console) -> APIRouter:
    """Returns the pages' routes."""
    routes = APIRouter()

    @routes.get("/audit")
    async def show(request: Request, viewer: GlobalReader, before: int | None = None) -> Response:
        given = {name: request.query_params.get(name, "").strip() for name in _FILTERS}
        wanted = {name: value or None for name, value in given.items()}
        problem, more, rows = "", False, list[Json]()
        try:
            found = await viewer.api.get("/admin/audit", limit=_PAGE_ROWS, before=before, **wanted)
            rows, more = found["data"], found["has_more"]
        except GatewayRejected as error:
            if error.status not in _UNKNOWN:
                raise
            problem = error.message
        kept = {name: value for name, value in given.items() if value}
        older = f"/audit?{urlencode(kept | {'before': rows[-1]['id']})}" if more else ""
        return console.render(
            request, viewer, "audit.html", given=given, rows=rows, older=older, problem=problem
        )

    @routes.get("/audit/refused-credentials")
    async def refused(request: Request, viewer: GlobalReader, before: str | None = None) -> Response:
        found = await viewer.api.get("/admin/refused-credentials", limit=_PAGE_ROWS, before=before)
        rows = found["data"]
        older = f"?{urlencode({'before': rows[-1]['at']})}" if len(rows) == _PAGE_ROWS else ""
        return console.render(request, viewer, "refused_credentials.html", rows=rows, older=older)

    return routes
