"""FastAPI's share of the doors: health, models, and whatever routers the composition root mounts.

Invariants: every error leaves in OpenAI's envelope with a request id; unknown paths are 404, known paths
with another method 405 with `Allow`; nothing is redirected; the OpenAPI page documents the hot doors too.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import unquote

import orjson
from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Lifespan

from llm_proxy.edge.openapi import hot_paths, own_words
from llm_proxy.edge.request import Scope
from llm_proxy.edge.respond import refusal_headers
from llm_proxy.errors import BadRequest, Bug, MethodNotAllowed, NotFound, Refused
from llm_proxy.json_access import Json
from llm_proxy.telemetry import uuid7

log = logging.getLogger(__name__)


def build(
    routers: Iterable[APIRouter],
    *,
    version: str,
    lifespan: Lifespan[FastAPI],
    refused: Callable[[Scope, Refused], None],
    reader: Callable[[Request], Awaitable[object]],
    record: Callable[[Request, Refused], Awaitable[None]] | None = None,
) -> FastAPI:
    """The FastAPI application behind the front.

    Args:
        routers: The doors that are not hot.
        version: What the OpenAPI page says.
        lifespan: Starts and stops the stages.
        refused: Told of every refusal, to be counted.
        reader: Lets pass who may read the OpenAPI page.
        record: Awaited with every refusal before it is answered, for the audit log.
    """
    app = FastAPI(
        title="llm-proxy",
        version=version,
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url=None,  # and no other page: who may read it is asked (`_page`)
        dependencies=[Depends(_decode_parameters)],
    )
    routes: list[BaseRoute] = []
    for router in (*routers, _page(app, reader)):
        app.include_router(router)
        routes += router.routes
    app.state.routes = routes
    _answer_errors(app, routes, refused, record)
    return app


def _answer_errors(
    app: FastAPI,
    routes: Iterable[BaseRoute],
    refused: Callable[[Scope, Refused], None],
    record: Callable[[Request, Refused], Awaitable[None]] | None,
) -> None:
    """Registers how each kind of error is answered."""

    async def on_refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)  # noqa: S101 -- registered for this class
        refused(request.scope, error)
        if record is not None:
            await record(request, error)
        return render(error)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 -- registered for this class
        path = request.scope["path"]
        return await on_refused(request, from_http(error, request.method, path, _methods(routes, path)))

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 -- registered for this class
        return await on_refused(request, from_validation(error))

    async def on_bug(request: Request, error: Exception) -> Response:
        log.error("a request failed", extra={"path": request.scope["path"]}, exc_info=error)
        return await on_refused(request, Bug())

    app.add_exception_handler(Exception, on_bug)
    app.add_exception_handler(Refused, on_refused)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)


def _page(app: FastAPI, reader: Callable[[Request], Awaitable[object]]) -> APIRouter:
    """The door of the OpenAPI page."""
    doors = APIRouter()

    @doors.get("/openapi.json", include_in_schema=False, dependencies=[Depends(reader)])
    async def openapi() -> Response:
        return Response(orjson.dumps(_openapi(app)), media_type="application/json")

    return doors


async def _decode_parameters(request: Request) -> None:
    """Paths are matched as they were sent; what they hold (`{name}`) is decoded afterwards."""
    held: Json = request.scope["path_params"]
    request.scope["path_params"] = {name: unquote(value) for name, value in held.items()}


def render(refused: Refused) -> Response:
    """A refusal as a response."""
    response = Response(
        orjson.dumps(refused.body()), status_code=refused.status, media_type="application/json"
    )
    response.raw_headers.extend(refusal_headers(refused))
    response.raw_headers.append((b"x-request-id", str(uuid7()).encode()))
    return response


def _methods(routes: Iterable[BaseRoute], path: str) -> str:
    """The methods of a path of the table, for `Allow`; empty where only a name of any shape fits the path."""
    fitting = [route for route in routes if isinstance(route, Route) and route.path_regex.match(path)]
    if all(":path}" in route.path for route in fitting):
        return ""
    methods = {method for route in fitting for method in route.methods or ()}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def from_http(error: HTTPException, method: str, path: str, methods: str) -> Refused:
    """The refusal a routing error is, or the one that stood in the way of the body's reading."""
    if isinstance(error.__cause__, Refused):
        return error.__cause__
    if error.status_code == 405 and methods:
        return MethodNotAllowed(f"This path takes {methods}.", headers=(("allow", methods),))
    if error.status_code in (404, 405):
        return NotFound(f"Unknown request URL: {method} {path[:200]}.", code="unknown_url")
    return BadRequest("The request could not be read.")


def from_validation(error: RequestValidationError) -> Refused:
    """The refusal an invalid parameter or admin body is, naming the field."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first.get("loc", ())[1:]) or "body"
    return BadRequest(
        f"Invalid '{where}': {first.get('msg', 'not valid')}.", param=where, code="invalid_value"
    )


def _openapi(app: FastAPI) -> Json:
    if app.openapi_schema is None:
        schema: Json = get_openapi(title=app.title, version=app.version, routes=app.routes)
        paths: Json = schema.setdefault("paths", {})
        own_words(paths)
        paths.update(hot_paths())
        app.openapi_schema = schema
    return app.openapi_schema
