"""The FastAPI application of every route that is no inference route, and the OpenAPI page of all routes.

Invariants: every error is sent in OpenAI's envelope with a request id; unknown paths are 404, known paths
with another method 405 with `Allow`; nothing is redirected; every inference path and every error is declared.
"""

import logging
import re
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

from llm_proxy.dialects.cohere import COHERE
from llm_proxy.dialects.gemini.dialect import GENERATE_CONTENT
from llm_proxy.dialects.messages.dialect import MESSAGES
from llm_proxy.dialects.model_paths import MODEL
from llm_proxy.dialects.request.rerank_schema import MAX_DOCUMENTS, MAX_INPUTS, MAX_PARTS
from llm_proxy.dialects.responses.native import OPERATIONS, STORED_PATH, StoredOperation
from llm_proxy.dialects.routes import InferenceRoute, RouteTable
from llm_proxy.edge.litellm_paths import where_it_went
from llm_proxy.edge.request import Scope
from llm_proxy.edge.responses import error_headers
from llm_proxy.edge.routes.gemini import speaks_google
from llm_proxy.edge.unserved_paths import is_cohere, not_served
from llm_proxy.endpoints import BYTE_ENDPOINTS, ENDPOINTS, TRANSCRIPTS, Endpoint, EndpointSpec
from llm_proxy.errors import APIError, BadRequest, InternalError, MethodNotAllowed, NotFound
from llm_proxy.json_access import Json
from llm_proxy.telemetry import uuid7

log = logging.getLogger(__name__)

_ERROR_RESPONSES = {
    "400": "The request is wrong; `param` names the field.",
    "401": "No credential, or an invalid one.",
    "403": "The key may not act for the tenant, agent or user named, or a kill switch is on.",
    "404": "No such model, or none that the key may use.",
    "405": "Wrong method.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "Not JSON.",
    "422": "The provider rejected the request.",
    "429": "A limit, a budget, or the provider's own limit.",
    "431": "The headers are too large.",
    "500": "An internal error.",
    "502": "The provider or the model backend failed.",
    "503": "Overloaded, draining, or the model is cooling down.",
    "504": "No response in time.",
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
_STREAM_BY_PATH = frozenset({"generate", "gemini"})
_NEVER_STREAMED: frozenset[Endpoint] = frozenset(
    {"embeddings", "rerank", "moderations", "audio.translations"}
)
_NO_STREAM_FIELD = _NEVER_STREAMED | BYTE_ENDPOINTS

_LINK: Json = {
    "type": "object",
    "properties": {
        "image_url": {"type": "string", "minLength": 1},
        "file_id": {"type": "string", "minLength": 1},
    },
}
_FILE: Json = {"type": "string", "format": "binary"}
_MODEL_IN_PATH: Json = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "It counts before the body's `model`; with slashes as they are, or encoded.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 256},
}
_STRINGS: Json = {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}
_MESSAGE: Json = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {"type": "string"},
    },
}
_CONTENT: Json = {
    "type": "object",
    "required": ["parts"],
    "properties": {
        "role": {"enum": ["user", "model"]},
        "parts": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
        },
    },
}
_PROPERTIES: Json = {
    "content": _CONTENT,
    "contents": {"type": "array", "minItems": 1, "items": _CONTENT},
    "requests": {
        "type": "array",
        "minItems": 1,
        "items": {"type": "object", "required": ["content"], "properties": {"content": _CONTENT}},
    },
    "model": {"type": "string", "minLength": 1, "maxLength": 256},
    "messages": {"type": "array", "minItems": 1, "items": _MESSAGE},
    "prompt": {"anyOf": [{"type": "string"}, _STRINGS]},
    "input": {"anyOf": [{"type": "string", "minLength": 1}, _STRINGS]},
    "texts": _STRINGS,
    "voice": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "object"}]},
    "query": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "object"}]},
    "documents": {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_DOCUMENTS,
        "items": {"anyOf": [{"type": "string"}, {"type": "object"}]},
    },
}
_SPEECH_FIELDS: Json = {
    "instructions": {"type": "string"},
    "response_format": {"type": "string"},
    "speed": {"type": "number"},
    "stream_format": {"enum": ["audio", "sse"]},
}
_PART: Json = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"type": "string"},
        "text": {"type": "string"},
        "image_url": {"type": "object", "required": ["url"], "properties": {"url": {"type": "string"}}},
    },
}
_INPUTS: Json = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS, "items": {"type": "string"}},
        {"type": "array", "minItems": 1, "maxItems": MAX_PARTS, "items": _PART},
    ]
}
_IMAGE_FIELDS: Json = {
    "prompt": {"type": "string"},
    "n": {"type": "integer", "minimum": 1, "maximum": 10},
    "size": {"type": "string"},
    "quality": {"type": "string"},
    "partial_images": {"type": "integer", "minimum": 0, "maximum": 3},
}
_ITEMS: Json = {
    "anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1, "items": _MESSAGE}]
}
_OWN_PROPERTIES: dict[Endpoint, Json] = {
    "responses": {"input": _ITEMS},
    "moderations": {"input": _INPUTS},
    "images.generations": _IMAGE_FIELDS,
    "images.edits": _IMAGE_FIELDS,
    "audio.speech": _SPEECH_FIELDS,
}
"""What an endpoint has beside or instead of `_PROPERTIES`; every other field is in OpenAI's own document."""


def inference_paths(table: RouteTable) -> Json:
    """Returns the OpenAPI `paths` of every inference route."""
    found: Json = {path: {"post": _operation(route, path)} for route in table.routes for path in route.paths}
    for one in OPERATIONS:
        at: Json = found.setdefault(f"{STORED_PATH}{{response_id}}{one.suffix}", {})
        at[one.method.lower()] = _stored(one)
    return found


def _stored(one: StoredOperation) -> Json:
    named: Json = {"name": "response_id", "in": "path", "required": True, "schema": {"type": "string"}}
    asked: list[Json] = [
        {"name": name, "in": "query", "schema": {"type": "string"}} for name in one.parameters
    ]
    errors = {
        status: {"description": text, "content": {"application/json": {"schema": {"type": "object"}}}}
        for status, text in _ERROR_RESPONSES.items()
    }
    answer = {"description": "The answer.", "content": {"application/json": {"schema": {"type": "object"}}}}
    return {
        "summary": one.summary,
        "operationId": f"{one.method.lower()}_response{one.suffix.replace('/', '_')}",
        "security": [{"bearer": []}],
        "parameters": [named, *asked],
        "responses": {"200": answer, **errors},
    }


def declare_bad_request(paths: Json) -> None:
    """Declares 400 for a wrong field of a management route, instead of FastAPI's own 422; changes `paths`."""
    for operation in (one for path in paths.values() for one in path.values()):
        responses: Json = operation["responses"]
        if responses.pop("422", None) is not None:
            responses.setdefault("400", {"description": _ERROR_RESPONSES["400"]})["content"] = {
                "application/json": {"schema": _ERROR}
            }


def _operation(route: InferenceRoute, path: str) -> Json:
    spec = ENDPOINTS[route.endpoint]
    names_model = MODEL in path
    needed = ("model", *spec.required) if route.required is None else route.required
    required = [name for name in needed if name != "model" or not names_model]
    properties: Json = {name: _PROPERTIES[name] for name in ("model", *required)}
    properties |= _OWN_PROPERTIES.get(route.endpoint, {})
    if route.endpoint not in _NO_STREAM_FIELD and route.dialect.name not in _STREAM_BY_PATH:
        properties["stream"] = {"type": "boolean"}
    body: Json = {"type": "object", "required": required, "properties": properties}
    errors = {
        status: {"description": text, "content": {"application/json": {"schema": _error_of(route)}}}
        for status, text in _ERROR_RESPONSES.items()
    }
    return {
        "summary": route.summary,
        "operationId": re.sub(r"\W+", "_", path).strip("_"),
        "security": [{"bearer": []}],
        "parameters": [_MODEL_IN_PATH] if names_model else [],
        "requestBody": {"required": True, "content": _request_content(spec, body)},
        "responses": {"200": {"description": "The response.", "content": _answer_content(route)}, **errors},
    }


def _answer_content(route: InferenceRoute) -> Json:
    content: Json = {"application/json": {"schema": {"type": "object"}}}
    if route.endpoint in BYTE_ENDPOINTS:
        content = {"audio/*": {"schema": {"type": "string", "format": "binary"}}}
    if route.endpoint in TRANSCRIPTS:
        content["text/plain"] = {"schema": {"type": "string"}}
    if route.endpoint not in _NEVER_STREAMED:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return content


def _request_content(spec: EndpointSpec, body: Json) -> Json:
    """The media types of a request: JSON, or a form whose files JSON may link to instead."""
    if not spec.files:
        return {"application/json": {"schema": body}}
    files: Json = {
        part.name: _FILE if part.max_count == 1 else {"type": "array", "items": _FILE} for part in spec.files
    }
    needed = [*body["required"], *(part.name for part in spec.files if part.required)]
    form = body | {"required": needed, "properties": body["properties"] | files}
    content: Json = {"multipart/form-data": {"schema": form}}
    if spec.linked_files:
        links: Json = {spec.linked_files: {"type": "array", "minItems": 1, "items": _LINK}}
        linked = body | {
            "required": [*body["required"], spec.linked_files],
            "properties": body["properties"] | links,
        }
        content["application/json"] = {"schema": linked}
    return content


def _error_of(route: InferenceRoute) -> Json:
    return _ERROR if route.dialect.name == "openai" else {"type": "object"}


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
        dependencies=[Depends(_decode_parameters)],
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

    @routes.get("/openapi.json", include_in_schema=False, dependencies=[Depends(access)])
    async def openapi() -> Response:
        return Response(orjson.dumps(_openapi(app, inference)), media_type="application/json")

    return routes


async def _decode_parameters(request: Request) -> None:
    """Decodes path parameters: paths are matched as they were sent."""
    parameters: Json = request.scope["path_params"]
    request.scope["path_params"] = {name: unquote(value) for name, value in parameters.items()}


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
    first = error.errors()[0]
    where = ".".join(str(part) for part in first.get("loc", ())[1:]) or "body"
    return BadRequest(
        f"Invalid '{where}': {first.get('msg', 'not valid')}.", param=where, code="invalid_value"
    )


def _openapi(app: FastAPI, inference: RouteTable) -> Json:
    if app.openapi_schema is None:
        schema: Json = get_openapi(title=app.title, version=app.version, routes=app.routes)
        paths: Json = schema.setdefault("paths", {})
        declare_bad_request(paths)
        paths.update(inference_paths(inference))
        app.openapi_schema = schema
    return app.openapi_schema
