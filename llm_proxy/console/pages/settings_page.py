"""The gateway's settings, by its API; the console's own where that does not answer.

Invariants: no secret, no password of an address and no digest of one is on the page.
"""

from dataclasses import asdict

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from llm_proxy.console.access import GlobalReader
from llm_proxy.console.console import Console
from llm_proxy.console.gateway_api import GatewayRejected
from llm_proxy.json_access import Json
from llm_proxy.shown_settings import shown_settings


def router(console: Console) -> APIRouter:
    """Returns the page's routes."""
    routes = APIRouter()

    @routes.get("/settings")
    async def show(request: Request, viewer: GlobalReader) -> Response:
        missing: str | None = None
        try:
            rows: list[Json] = (await viewer.api.get("/admin/settings"))["data"]
        except GatewayRejected as error:
            missing, rows = error.message, [asdict(row) for row in shown_settings(console.settings)]
        return console.render(request, viewer, "settings.html", rows=rows, missing=missing)

    return routes
