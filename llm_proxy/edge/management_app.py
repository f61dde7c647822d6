"""The FastAPI application of every route that is no inference route, and the OpenAPI page of all routes.

Invariants: every error is sent in OpenAI's envelope with a request id; unknown paths are 404, known paths
with another method 405 with `Allow`; nothing is redirected; every inference path and every error is declared.
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

from llm_proxy.dialects.routes import INFERENCE_ROUTES, InferenceRoute
from llm_proxy.edge.request import Scope
from llm_proxy.edge.responses import error_headers
from llm_proxy.endpoints import ENDPOINTS
from llm_proxy.errors import APIError, BadRequest, InternalError, MethodNotAllowed, NotFound
from llm_proxy.json_access import Json
from llm_proxy.telemetry import uuid7

_ERROR_RESPONSES = {
    "400": "The request is wrong; `param` names the field.",
    "401": "No credential, or one that is not ours.",
    "403": "The key may not act for whom the request names, or something is switched off.",
    "404": "No such model, or none that the key may use.",
    "405": "Another method.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "Not JSON.",
    "422": "The provider refused the request.",
    "429": "A limit, a budget, or the provider's own limit.",
    "431": "The headers are too large.",
    "500": "A mistake of ours.",
    "502": "The provider or the model backend failed.",
    "503": "Overloaded, draining, or the model is cooling down.",
    "504": "No answer in time.",
}
_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_DIALECT_REQUIRED = {"internal": ["messages"], "generate": ["messages"]}


_TEXTS: Json = {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}
_MESSAGE: Json = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {"type": "string"},
    },
}
_PROPERTIES: Json = {
    "model": {"type": "string", "minLength": 1, "maxLength": 256},
    "messages": {"type": "array", "minItems": 1, "items": _MESSAGE},
    "prompt": {"anyOf": [{"type": "string"}, _TEXTS]},
    "input": {"anyOf": [{"type": "string", "minLength": 1}, _TEXTS]},
}
"""What every request needs; the whole of it is OpenAI's own document."""


def inference_paths() -> Json:
    """The `paths` of every hot door."""
    return {path: {"post": _operation(door, path)} for door in INFERENCE_ROUTES for path in door.paths}


def declare_bad_request(paths: Json) -> None:
    """Declares what a door of FastAPI's says of a wrong field: our 400, where FastAPI expects its own 422."""
    for operation in (one for path in paths.values() for one in path.values()):
        responses: Json = operation["responses"]
        if responses.pop("422", None) is not None:
            responses.setdefault("400", {"description": _ERROR_RESPONSES["400"]})["content"] = {
                "application/json": {"schema": _ERROR}
            }


def _operation(door: InferenceRoute, path: str) -> Json:
    required = _DIALECT_REQUIRED.get(door.dialect.name, ["model", ENDPOINTS[door.endpoint].required])
    body: Json = {
        "type": "object",
        "required": required,
        "properties": {name: _PROPERTIES[name] for name in ("model", *required)},
    }
    if door.endpoint != "embeddings" and door.dialect.name != "generate":
        body["properties"]["stream"] = {"type": "boolean"}
    content: Json = {"application/json": {"schema": {"type": "object"}}}
    if door.endpoint != "embeddings":
        content["text/event-stream"] = {"schema": {"type": "string"}}
    refusals = {
        status: {"description": text, "content": {"application/json": {"schema": _error_of(door)}}}
        for status, text in _ERROR_RESPONSES.items()
    }
    return {
        "summary": door.summary,
        "operationId": path.strip("/").replace("/", "_").replace("-", "_"),
        "security": [{"bearer": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "The answer.", "content": content}, **refusals},
    }


def _error_of(door: InferenceRoute) -> Json:
    return _ERROR if door.dialect.name == "openai" else {"type": "object"}


log = logging.getLogger(__name__)


def create_management_app(
    routers: Iterable[APIRouter],
    *,
    version: str,
    lifespan: Lifespan[FastAPI],
    refused: Callable[[Scope, APIError], None],
    reader: Callable[[Request], Awaitable[object]],
    record: Callable[[Request, APIError], Awaitable[None]] | None = None,
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
    for router in (*routers, _openapi_router(app, reader)):
        app.include_router(router)
        routes += router.routes
    app.state.routes = routes
    _add_exception_handlers(app, routes, refused, record)
    return app


def _add_exception_handlers(
    app: FastAPI,
    routes: Iterable[BaseRoute],
    refused: Callable[[Scope, APIError], None],
    record: Callable[[Request, APIError], Awaitable[None]] | None,
) -> None:
    """Registers how each kind of error is answered."""

    async def on_refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, APIError)  # noqa: S101 -- registered for this class
        refused(request.scope, error)
        if record is not None:
            await record(request, error)
        return error_response(error)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 -- registered for this class
        path = request.scope["path"]
        return await on_refused(
            request, error_from_http(error, request.method, path, _allowed_methods(routes, path))
        )

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 -- registered for this class
        return await on_refused(request, error_from_validation(error))

    async def on_bug(request: Request, error: Exception) -> Response:
        log.error("a request failed", extra={"path": request.scope["path"]}, exc_info=error)
        return await on_refused(request, InternalError())

    app.add_exception_handler(Exception, on_bug)
    app.add_exception_handler(APIError, on_refused)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)


def _openapi_router(app: FastAPI, reader: Callable[[Request], Awaitable[object]]) -> APIRouter:
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


def error_response(refused: APIError) -> Response:
    """A refusal as a response."""
    response = Response(
        orjson.dumps(refused.body()), status_code=refused.status, media_type="application/json"
    )
    response.raw_headers.extend(error_headers(refused))
    response.raw_headers.append((b"x-request-id", str(uuid7()).encode()))
    return response


def _allowed_methods(routes: Iterable[BaseRoute], path: str) -> str:
    """The methods of a path of the table, for `Allow`; empty where only a name of any shape fits the path."""
    fitting = [route for route in routes if isinstance(route, Route) and route.path_regex.match(path)]
    if all(":path}" in route.path for route in fitting):
        return ""
    methods = {method for route in fitting for method in route.methods or ()}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def error_from_http(error: HTTPException, method: str, path: str, methods: str) -> APIError:
    """The refusal a routing error is, or the one that stood in the way of the body's reading."""
    if isinstance(error.__cause__, APIError):
        return error.__cause__
    if error.status_code == 405 and methods:
        return MethodNotAllowed(f"This path takes {methods}.", headers=(("allow", methods),))
    if error.status_code in (404, 405):
        return NotFound(f"Unknown request URL: {method} {path[:200]}.", code="unknown_url")
    return BadRequest("The request could not be read.")


def error_from_validation(error: RequestValidationError) -> APIError:
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
        declare_bad_request(paths)
        paths.update(inference_paths())
        app.openapi_schema = schema
    return app.openapi_schema
