"""The FastAPI application of every route that is no inference route.

Invariants: every error is sent in OpenAI's envelope with a request id; unknown paths are 404, known paths
with another method 405 with `Allow`; nothing is redirected.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import cache, partial
from urllib.parse import unquote

import orjson
from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Lifespan

from llm_proxy.dialects.cohere import COHERE
from llm_proxy.dialects.gemini.dialect import GENERATE_CONTENT
from llm_proxy.dialects.messages.dialect import MESSAGES
from llm_proxy.dialects.request.validators import shown_name
from llm_proxy.dialects.routes import RouteTable
from llm_proxy.edge.litellm_paths import where_it_went
from llm_proxy.edge.openapi_page import openapi_page
from llm_proxy.edge.request import Scope
from llm_proxy.edge.responses import error_headers
from llm_proxy.edge.routes.gemini import speaks_google
from llm_proxy.edge.unserved_paths import is_cohere, not_served
from llm_proxy.errors import APIError, BadRequest, InternalError, MethodNotAllowed, NotFound
from llm_proxy.json_access import Json, is_array, is_object
from llm_proxy.telemetry import uuid7

log = logging.getLogger(__name__)
_EXPECTED = "Input should be "
"""What Pydantic's messages about types begin with."""
_ABSENT = object()


def create_management_app(
    routers: Iterable[APIRouter],
    *,
    inference: RouteTable,
    version: str,
    lifespan: Lifespan[FastAPI],
    on_error: Callable[[Scope, APIError], None],
    openapi_access: Callable[[Request], Awaitable[object]],
    record_rejection: Callable[[Request, APIError], Awaitable[None]] | None = None,
) -> FastAPI:
    """Creates the FastAPI application behind the dispatcher.

    Args:
        routers: The management routes.
        inference: The routes that call models, for the OpenAPI page.
        version: The version on the OpenAPI page.
        lifespan: Starts and stops the gateway's components.
        on_error: Called with every error response, to count it.
        openapi_access: Dependency that rejects a request for the OpenAPI page.
        record_rejection: Awaited with every error before its response is sent, for the audit log.
    """
    app = FastAPI(
        title="llm-proxy",
        version=version,
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url=None,  # served by `_openapi_router`, which authenticates
        dependencies=[Depends(_read_parameters)],
    )
    routes: list[BaseRoute] = []
    for router in (*routers, _openapi_router(app, inference, openapi_access)):
        app.include_router(router)
        routes += router.routes
    app.state.routes = routes
    _add_exception_handlers(app, routes, on_error, record_rejection)
    return app


def _add_exception_handlers(
    app: FastAPI,
    routes: Iterable[BaseRoute],
    on_error: Callable[[Scope, APIError], None],
    record_rejection: Callable[[Request, APIError], Awaitable[None]] | None,
) -> None:
    """Registers the response to each kind of error."""

    async def on_api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, APIError)  # noqa: S101 -- registered for this class
        name_what_is_missing(error, request.scope)
        on_error(request.scope, error)
        if record_rejection is not None:
            await record_rejection(request, error)
        return error_response(error, request.scope)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 -- registered for this class
        path = request.scope["path"]
        return await on_api_error(
            request, error_from_http(error, request.method, path, _allowed_methods(routes, path))
        )

    async def on_validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 -- registered for this class
        return await on_api_error(request, error_from_validation(error))

    async def on_internal_error(request: Request, error: Exception) -> Response:
        log.error("a request failed", extra={"path": request.scope["path"]}, exc_info=error)
        return await on_api_error(request, InternalError())

    app.add_exception_handler(Exception, on_internal_error)
    app.add_exception_handler(APIError, on_api_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)


def _openapi_router(
    app: FastAPI, inference: RouteTable, access: Callable[[Request], Awaitable[object]]
) -> APIRouter:
    """Returns the router of the OpenAPI page."""
    routes = APIRouter()
    page = cache(partial(openapi_page, app, inference))

    @routes.get("/openapi.json", include_in_schema=False, dependencies=[Depends(access)])
    async def openapi() -> Response:
        return Response(await asyncio.to_thread(page), media_type="application/json")

    return routes


async def _read_parameters(request: Request) -> None:
    """Decodes path parameters, as paths are matched as they were sent.

    Rejects NUL, which no store takes, and a query parameter that is given twice: all of them take one value.
    A model is looked up in the catalog alone: whatever its name holds, it is an unknown one.
    """
    parameters: Json = request.scope["path_params"]
    decoded = {name: unquote(value) for name, value in parameters.items()}
    request.scope["path_params"] = decoded
    stored = [(name, value) for name, value in decoded.items() if name != "model"]
    for name, value in (*stored, *request.query_params.multi_items()):
        if "\0" in value:
            shown = shown_name(name)
            raise BadRequest(f"Invalid '{shown}': it contains NUL.", param=shown, code="invalid_value")
    given = set[str]()
    for name, _ in request.query_params.multi_items():
        if name in given:
            shown = shown_name(name)
            raise BadRequest(f"'{shown}' is given twice.", param=shown, code="duplicate_parameter")
        given.add(name)


def name_what_is_missing(error: APIError, scope: Scope) -> None:
    """Makes a 404 name the path's parameter where the path names one thing: that does not exist."""
    named: Json = scope.get("path_params") or {}
    if error.status == NotFound.status and error.param is None and error.code != "unknown_url":
        error.param = next(iter(named)) if len(named) == 1 else None


def error_response(error: APIError, scope: Scope) -> Response:
    """Returns an error as a response with a request id; for Anthropic's and Cohere's clients in theirs."""
    request_id = str(uuid7())
    headers = [("x-request-id", request_id)]
    body, status = error.body(), error.status
    if speaks_google(scope):
        body = GENERATE_CONTENT.error(error, request_id)
    elif speaks_anthropic(scope):
        body = MESSAGES.error(error, request_id)
        headers += MESSAGES.headers(request_id, error)
        status = MESSAGES.status(error)
    elif is_cohere(scope["path"]):
        body = COHERE.error(error, request_id)
    response = Response(orjson.dumps(body), status_code=status, media_type="application/json")
    response.raw_headers.extend(error_headers(error))
    response.raw_headers.extend((name.encode(), value.encode()) for name, value in headers)
    return response


def speaks_anthropic(scope: Scope) -> bool:
    """Whether a request comes from a client of Anthropic's API."""
    return scope["path"].startswith("/v1/messages") or any(
        name == b"anthropic-version" for name, _ in scope["headers"]
    )


def _allowed_methods(routes: Iterable[BaseRoute], path: str) -> str:
    """Returns the methods of a path for `Allow`; empty if only a `:path` parameter matches the path."""
    matching = [route for route in routes if isinstance(route, Route) and route.path_regex.match(path)]
    if all(":path}" in route.path for route in matching):
        return ""
    methods = {method for route in matching for method in route.methods or ()}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def error_from_http(error: HTTPException, method: str, path: str, methods: str) -> APIError:
    """Returns the error for a routing error, or the one that was raised while FastAPI read the body."""
    if isinstance(error.__cause__, APIError):
        return error.__cause__
    if error.status_code == 405 and methods:
        return MethodNotAllowed(f"This path takes {methods}.", headers=(("allow", methods),))
    if error.status_code in (404, 405):
        message = f"Unknown request URL: {method} {path[:200]}.{not_served(path) or where_it_went(path)}"
        return NotFound(message, code="unknown_url")
    return BadRequest("The request could not be read.")


def error_from_validation(error: RequestValidationError) -> APIError:
    """Returns the error for an invalid parameter or admin body; it names the field."""
    found = [(_place_of(one, error.body), one) for one in error.errors()]
    where, first = found[0]
    if first["type"] == "json_invalid":
        return BadRequest("The body is not valid JSON.", code="invalid_json")
    reasons = dict.fromkeys(str(one["msg"]) for place, one in found if place == where)
    expected = " or ".join(reason.removeprefix(_EXPECTED) for reason in reasons)
    is_choice = len(reasons) > 1 and all(reason.startswith(_EXPECTED) for reason in reasons)
    message = f"{_EXPECTED}{expected}" if is_choice else next(iter(reasons))
    return BadRequest(f"Invalid '{where}': {message}.", param=where, code="invalid_value")


def _place_of(fault: Json, body: object) -> str:
    """Returns the path of a field at fault, without Pydantic's names for the types that a value may have."""
    kind, *parts = fault["loc"]
    place, value = "", body
    for part in parts:
        if kind == "body":
            inner = _inner(value, part)
            if inner is _ABSENT and fault["type"] != "missing":
                break
            value = inner
        place += f"[{part}]" if type(part) is int else f".{part}" if place else str(part)
    return place or "body"


def _inner(value: object, part: str | int) -> object:
    """Returns what a part of a path names in a value."""
    if isinstance(part, str):
        return value.get(part, _ABSENT) if is_object(value) else _ABSENT
    return value[part] if is_array(value) and part < len(value) else _ABSENT
