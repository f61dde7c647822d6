"""The console's application: its pages behind sign-in, error pages, and what starts and stops with it.

Invariants: every error is a page that says what happened, without a traceback or an internal name; nothing
is redirected but on purpose; the gateway does not import this package.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Lifespan

from llm_proxy import __version__
from llm_proxy.console.access import AnyViewer, ConsoleAccess, SignInNeeded, Viewer
from llm_proxy.console.console import Console
from llm_proxy.console.data import ConsoleData, open_data
from llm_proxy.console.gateway_api import TIMEOUT_S, UNREACHABLE
from llm_proxy.console.hardening import HardenedApp
from llm_proxy.console.oidc import CALLBACK, OpenIdProvider
from llm_proxy.console.pages import PAGES
from llm_proxy.console.pages.self_check import needs_first_steps
from llm_proxy.console.rendering import Templates
from llm_proxy.console.sign_in_attempts import SignInAttempts
from llm_proxy.console.static_files import StaticFiles
from llm_proxy.console.watched_gateway import WatchedGateway
from llm_proxy.errors import APIError, BadRequest, NotFound, StoreUnavailable
from llm_proxy.identity import AuthFailureLog
from llm_proxy.schema.connections import close_pool
from llm_proxy.schema.database import DatabaseUnavailable, RowsRejected
from llm_proxy.settings import Settings
from llm_proxy.telemetry import uuid7

log = logging.getLogger(__name__)

_CONNECTIONS = (32, 1)
"""To the gateway: for requests, and for asking whether it lives."""
_WITHOUT_GATEWAY = (
    "Check whether the gateway runs: this page shows its answers. Overview, Usage, Live and Requests read"
    " the database and show what it has."
)
_TITLES = {
    400: "This request is wrong",
    401: "Not signed in",
    403: "Not allowed",
    404: "Not found",
    405: "Not found",
    429: "A limit is reached",
    502: "The gateway failed",
    503: "Not available right now",
    504: "No answer in time",
}


class PageFailed(APIError):  # noqa: N818 -- errors are named for the state they report
    """A page failed, for an unexpected reason."""


def create_console(settings: Settings, gateway_url: str) -> HardenedApp:
    """Returns the console's application.

    Args:
        settings: With a database.
        gateway_url: Where the gateway is, without `/v1`.
    """
    data = open_data(settings)
    gateway = WatchedGateway(*(_http_client(settings, gateway_url, most) for most in _CONNECTIONS))
    access, static = ConsoleAccess(settings, data, gateway), StaticFiles()
    templates = Templates({"static": static.address, "version": settings.version or __version__})
    failures = AuthFailureLog(data.pool, retention_days=settings.refused_credentials_retention_days)
    attempts = SignInAttempts(failures)
    console = Console(settings, data, access, templates, attempts, _oidc(settings), PAGES)
    app = FastAPI(openapi_url=None, redirect_slashes=False, lifespan=_lifespan(data, gateway, failures))
    app.state.access = access
    app.add_route("/static/{name}", static.respond)
    app.add_route("/health", _health)
    routers = [*(page.router(console) for page in PAGES), _start_page(console)]
    for router in routers:
        app.include_router(router)
    _add_error_pages(app, console)
    return HardenedApp(
        app,
        (route for router in routers for route in router.routes),
        console_url=settings.console_url,
        max_body_bytes=settings.max_body_bytes,
    )


def _http_client(settings: Settings, gateway_url: str, connections: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=gateway_url,
        timeout=TIMEOUT_S,
        verify=settings.tls,
        trust_env=False,
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections - 1),
        headers={"user-agent": f"llm-proxy-console/{__version__}"},
    )


def _oidc(settings: Settings) -> OpenIdProvider | None:
    if settings.console_oidc_issuer is None:
        return None
    at = (settings.console_url or f"http://localhost:{settings.console_port}").rstrip("/")
    return OpenIdProvider(settings, at + CALLBACK)


def _lifespan(data: ConsoleData, gateway: WatchedGateway, failures: AuthFailureLog) -> Lifespan[FastAPI]:
    @asynccontextmanager
    async def run(_: FastAPI) -> AsyncGenerator[None]:
        await data.pool
        await failures.start()
        log.info("the console is up", extra={"version": __version__})
        try:
            yield
        finally:
            await failures.stop()
            await gateway.close()
            await close_pool(data.pool)

    return run


async def _health(_: Request) -> Response:
    return Response('{"status":"ok"}', media_type="application/json")


def _start_page(console: Console) -> APIRouter:
    routes = APIRouter()

    @routes.get("/")
    async def show(viewer: AnyViewer) -> Response:
        if await needs_first_steps(viewer):
            return RedirectResponse("/self-check", 303)
        first = next(one for one in console.pages if one.label and viewer.role in one.roles)
        return RedirectResponse(first.path, 303)

    return routes


def _add_error_pages(app: FastAPI, console: Console) -> None:
    """Registers the page of each kind of error."""

    async def on_error(request: Request, error: Exception) -> Response:
        shown = _as_api_error(request, error)
        viewer: Viewer | None = getattr(request.state, "viewer", None)
        title = _TITLES.get(shown.status, "Something went wrong")
        advice = _WITHOUT_GATEWAY if shown.code == UNREACHABLE else ""
        values = {"title": title, "message": shown.message, "advice": advice}
        page = console.render(request, viewer, "error.html", status=shown.status, **values)
        page.headers["hx-retarget"], page.headers["hx-reswap"] = "body", "innerHTML"
        return page

    async def on_stranger(request: Request, error: Exception) -> Response:
        assert isinstance(error, SignInNeeded)  # noqa: S101 -- registered for this class
        if request.headers.get("hx-request"):
            return Response(status_code=401, headers={"hx-redirect": error.location})
        return RedirectResponse(error.location, 303)

    app.add_exception_handler(SignInNeeded, on_stranger)
    for kind in _KINDS:
        app.add_exception_handler(kind, on_error)


_KINDS = (Exception, APIError, DatabaseUnavailable, RowsRejected, HTTPException, RequestValidationError)


def _as_api_error(request: Request, error: Exception) -> APIError:
    """Returns the error that a page shows; an unexpected one is logged."""
    match error:
        case APIError():
            return error
        case DatabaseUnavailable():
            log.warning("a page could not be read from the database", extra={"cause": error.reason})
            return StoreUnavailable("The database does not answer. Try again in a moment.")
        case RowsRejected():
            return BadRequest("A value is out of its range.")
        case HTTPException():
            is_unknown = error.status_code in (404, 405)
            unread = BadRequest("The request could not be read.")
            return NotFound("The console has no such page.") if is_unknown else unread
        case RequestValidationError():
            where = ".".join(str(part) for part in error.errors()[0].get("loc", ())[1:]) or "form"
            return BadRequest(f"'{where[:80]}' is not valid.", param=where)
        case _:
            number = str(uuid7())
            log.error("a page failed", extra={"path": request.url.path, "error_id": number}, exc_info=error)
            return PageFailed(f"This page failed; the console's log has the reason under {number}.")
