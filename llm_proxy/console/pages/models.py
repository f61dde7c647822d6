"""Models: groups with their deployments, prices, health and fallbacks; a capped test call; the configuration.

Invariants: health is that of live traffic, and nothing is called to draw a page; a test is made by the admin
API, which bounds what it may cost; a reload is the launcher's, and where none runs the page says so.
"""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from llm_proxy.console.access import OPERATORS, GlobalReader, Operator, Viewer
from llm_proxy.console.console import Console
from llm_proxy.console.fallback_graph import BOX_HEIGHT, BOX_WIDTH, draw_fallbacks
from llm_proxy.console.gateway_api import GatewayRejected
from llm_proxy.json_access import Json
from llm_proxy.path_names import api_segment

NOT_FOUND = 404


def router(console: Console) -> APIRouter:
    """Returns the pages' routes."""
    routes = APIRouter()
    _models(routes, console)
    _configuration(routes, console)
    return routes


def _models(routes: APIRouter, console: Console) -> None:
    async def page(request: Request, viewer: Viewer, tested: Json | None = None) -> Response:
        found = await viewer.api.get("/admin/models")
        groups: list[Json] = sorted(found["data"], key=lambda one: str(one["id"]))
        return console.render(
            request,
            viewer,
            "models.html",
            groups=groups,
            window_min=found["window_s"] // 60,
            graph=draw_fallbacks({one["id"]: one["fallbacks"] for one in groups}),
            box=(BOX_WIDTH, BOX_HEIGHT),
            tested=tested,
            may_change=viewer.may(*OPERATORS),
        )

    @routes.get("/models")
    async def show(request: Request, viewer: GlobalReader) -> Response:
        return await page(request, viewer)

    @routes.post("/models/test")
    async def test(request: Request, viewer: Operator) -> Response:
        model = str((await request.form()).get("model") or "")
        result = await viewer.api.send("POST", f"/admin/models/{api_segment(model)}/test")
        return await page(request, viewer, result)


def _configuration(routes: APIRouter, console: Console) -> None:
    async def status(viewer: Viewer) -> Json:
        return await viewer.api.get("/admin/reload")

    @routes.get("/configuration")
    async def show(request: Request, viewer: GlobalReader, since: int = 0) -> Response:
        try:
            found: Json | None = await viewer.api.get("/admin/config")
        except GatewayRejected as error:
            if error.status != NOT_FOUND:  # an unmodified LiteLLM does not report its file
                raise
            found = None
        return console.render(
            request,
            viewer,
            "configuration.html",
            config=found,
            reload=await status(viewer),
            since=since,
            may_change=viewer.may(*OPERATORS),
        )

    @routes.get("/configuration/reload")
    async def progress(request: Request, viewer: GlobalReader, since: int = 0) -> Response:
        return console.render(
            request, viewer, "reload_progress.html", reload=await status(viewer), since=since
        )

    @routes.post("/configuration/reload")
    async def reload(viewer: Operator) -> Response:
        begun = await viewer.api.send("POST", "/admin/reload")
        return console.redirect(f"/configuration?since={begun['requested_ns']}")
