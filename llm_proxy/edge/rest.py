"""FastAPI's share of the doors: health, models, and whatever routers the composition root mounts.

Invariants: every error leaves in OpenAI's envelope with a request id; unknown paths are 404, known paths
with another method 405 with `Allow`; nothing is redirected; the OpenAPI page documents the hot doors too.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

import orjson
from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Lifespan

from llm_proxy.edge.openapi import hot_paths, own_words
from llm_proxy.edge.request import Scope
from llm_proxy.edge.respond import refusal_headers
from llm_proxy.errors import BadRequest, Bug, MethodNotAllowed, NotFound, Refused
from llm_proxy.telemetry import uuid7

log = logging.getLogger(__name__)

Json = dict[str, Any]


def build(
    routers: Iterable[APIRouter],
    *,
    version: str,
    lifespan: Lifespan[FastAPI],
    refused: Callable[[Scope, Refused], None],
) -> FastAPI:
    """The FastAPI application behind the front.

    Args:
        routers: The doors that are not hot.
        version: What the OpenAPI page says.
        lifespan: Starts and stops the stages.
        refused: Told of every refusal, to be counted.
    """
    app = FastAPI(
        title="llm-proxy",
        version=version,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(_decode_parameters)],
    )
    for router in routers:
        app.include_router(router)

    async def on_refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)  # noqa: S101 -- registered for this class
        refused(request.scope, error)
        return render(error)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 -- registered for this class
        return await on_refused(request, from_http(error, request.method, request.scope["path"]))

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
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


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


def from_http(error: HTTPException, method: str, path: str) -> Refused:
    """The refusal a routing error is, or the one that stood in the way of the body's reading."""
    if isinstance(error.__cause__, Refused):
        return error.__cause__
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "GET")
        return MethodNotAllowed(f"This path takes {allow}.", headers=(("allow", allow),))
    if error.status_code == 404:
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
