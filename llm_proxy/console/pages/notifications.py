"""The notifications that were sent to operators."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from llm_proxy.console.access import GLOBAL, Viewer, require_role
from llm_proxy.console.console import Console


def router(console: Console) -> APIRouter:
    """Returns the page's routes."""
    routes = APIRouter()

    @routes.get("/notifications")
    async def show(request: Request, viewer: Annotated[Viewer, Depends(require_role(*GLOBAL))]) -> Response:
        found = await viewer.api.get("/admin/notifications", limit=100)
        return console.render(request, viewer, "notifications.html", rows=found["data"])

    return routes
