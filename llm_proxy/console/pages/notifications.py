"""The notifications to operators, and what became of their deliveries."""

from urllib.parse import urlencode

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from llm_proxy.console.access import GlobalReader
from llm_proxy.console.console import Console

_PAGE_ROWS = 100


def router(console: Console) -> APIRouter:
    """Returns the page's routes."""
    routes = APIRouter()

    @routes.get("/notifications")
    async def show(
        request: Request,
        viewer: GlobalReader,
        before: str | None = None,
    ) -> Response:
        found = await viewer.api.get("/admin/notifications", limit=_PAGE_ROWS, before=before)
        rows = found["data"]
        older = f"?{urlencode({'before': rows[-1]['timestamp']})}" if found["has_more"] else ""
        return console.render(request, viewer, "notifications.html", rows=rows, older=older)

    return routes
