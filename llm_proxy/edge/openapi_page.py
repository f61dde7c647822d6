"""The OpenAPI page of every route: requests, answers and errors, each with its schema.

Invariants: every inference path and every error is declared. What models are sent and answer is
`schemas/wire.json` (scripts/wire_schemas.py), what the other routes answer `schemas/management.json`
(tests/management_answers.py); both are read when the page is first requested.
"""

import re
from pathlib import Path

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from llm_proxy.dialects.model_paths import MODEL
from llm_proxy.dialects.responses.native import OPERATIONS, STORED_PATH, StoredOperation
from llm_proxy.dialects.routes import InferenceRoute, RouteTable
from llm_proxy.endpoints import BYTE_ENDPOINTS, ENDPOINTS, TRANSCRIPTS, Endpoint, EndpointSpec
from llm_proxy.json_access import Json

ERROR_RESPONSES = {
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
ERROR: Json = {
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
_TEXT: Json = {"type": "string"}
_OPTIONAL_TEXT: Json = {"type": ["string", "null"]}


def _object(*required: str, **properties: Json) -> Json:
    return {"type": "object", "required": list(required or properties), "properties": properties}


_ERRORS: dict[str, Json] = {
    "messages": _object(
        type={"const": "error"}, error=_object("type", "message", type=_TEXT, message=_TEXT), request_id=_TEXT
    ),
    "gemini": _object(
        error=_object(
            "code",
            "message",
            "status",
            code={"type": "integer"},
            message=_TEXT,
            status=_TEXT,
            details={"type": "array", "items": {"type": "object"}},
        )
    ),
    "cohere": _object(id=_TEXT, message=_TEXT, detail=_TEXT, error=ERROR["properties"]["error"]),
    "internal": _object(detail=_TEXT, error=ERROR["properties"]["error"]),
    "generate": _object(
        statusCode={"type": "integer"}, message=_TEXT, error=_TEXT, code=_OPTIONAL_TEXT, param=_OPTIONAL_TEXT
    ),
}
"""By dialect; the others' is OpenAI's."""
_DIALECT_BY_PATH = {"/v1beta/": "gemini", "/v1/messages": "messages"}
"""Of the errors of management routes; the others' are OpenAI's."""
_HEALTH = "/health"
"""Begins the paths whose 503 has the same body as their 200."""
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
    "description": "The model. It takes precedence over the body's `model`; slashes may be percent-encoded.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 256},
}
_DELETED: Json = _object(id=_TEXT, object=_TEXT, deleted={"type": "boolean"})
_SCHEMAS = Path(__file__).parent / "schemas"


def _read(name: str) -> Json:
    found: Json = orjson.loads((_SCHEMAS / name).read_bytes())
    return found


def openapi_page(app: FastAPI, inference: RouteTable) -> bytes:
    """Returns the page as JSON."""
    schema: Json = get_openapi(title=app.title, version=app.version, routes=app.routes)
    paths: Json = schema.setdefault("paths", {})
    _declare_errors(paths)
    _declare_answers(paths, _read("management.json"))
    wires = _read("wire.json")
    paths.update(_inference_paths(inference, wires))
    components: Json = schema.setdefault("components", {})
    components.setdefault("schemas", {}).update(wires["schemas"])
    components.setdefault("securitySchemes", {})["bearer"] = {"type": "http", "scheme": "bearer"}
    return orjson.dumps(schema)


def _inference_paths(table: RouteTable, wires: Json) -> Json:
    """Returns the `paths` of every inference route."""
    found: Json = {
        path: {"post": _operation(route, path, wires)} for route in table.routes for path in route.paths
    }
    for one in OPERATIONS:
        at: Json = found.setdefault(f"{STORED_PATH}{{response_id}}{one.suffix}", {})
        at[one.method.lower()] = _stored(one, wires)
    return found


def _input_items(wires: Json) -> Json:
    """Returns the schema of a page of a stored response's input: items that a request may have."""
    forms: list[Json] = wires["schemas"]["ResponsesResponsesRequest"]["properties"]["input"]["anyOf"]
    return _object(
        object={"const": "list"},
        data={"type": "array", "items": next(form["items"] for form in forms if "items" in form)},
        first_id=_OPTIONAL_TEXT,
        last_id=_OPTIONAL_TEXT,
        has_more={"type": "boolean"},
    )


def _stored(one: StoredOperation, wires: Json) -> Json:
    named: Json = {"name": "response_id", "in": "path", "required": True, "schema": _TEXT}
    queries: list[Json] = [{"name": name, "in": "query", "schema": _TEXT} for name in one.parameters]
    schema = _reference("ResponsesResponsesResponse")
    if one.method == "DELETE":
        schema = _DELETED
    if one.suffix == "/input_items":
        schema = _input_items(wires)
    answer = {"description": "The answer.", "content": {"application/json": {"schema": schema}}}
    return {
        "summary": one.summary,
        "operationId": f"{one.method.lower()}_response{one.suffix.replace('/', '_')}",
        "security": [{"bearer": []}],
        "parameters": [named, *queries],
        "responses": {"200": answer, **_errors(ERROR)},
    }


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _errors(schema: Json) -> Json:
    return {
        status: {"description": text, "content": {"application/json": {"schema": schema}}}
        for status, text in ERROR_RESPONSES.items()
    }


def _declare_errors(paths: Json) -> None:
    """Declares the bodies of errors of management routes, and 400 for FastAPI's own 422; changes `paths`."""
    for path, operations in paths.items():
        for operation in operations.values():
            responses: Json = operation["responses"]
            if responses.pop("422", None) is not None:
                responses.setdefault("400", {"description": ERROR_RESPONSES["400"]})
            dialect = next((name for start, name in _DIALECT_BY_PATH.items() if path.startswith(start)), "")
            content = {"application/json": {"schema": _ERRORS.get(dialect, ERROR)}}
            for status, response in responses.items():
                if status >= "400" and not path.startswith(_HEALTH):
                    response["content"] = content


def _declare_answers(paths: Json, answers: Json) -> None:
    """Declares what management routes answer; changes `paths`."""
    for path, operations in paths.items():
        for method, operation in operations.items():
            if (schema := answers.get(f"{method.upper()} {path}")) is not None:
                _success(operation)["content"] = {"application/json": {"schema": schema}}


def _success(operation: Json) -> Json:
    found: Json = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
    return found


def wire_of(route: InferenceRoute, path: str) -> str:
    """Returns the name of a route's requests and answers in `schemas/wire.json`."""
    batch = " batch" if path.endswith(":batchEmbedContents") else ""
    return f"{route.dialect.name} {route.endpoint}{batch}"


def _operation(route: InferenceRoute, path: str, wires: Json) -> Json:
    spec = ENDPOINTS[route.endpoint]
    names: Json = wires["roles"][wire_of(route, path)]
    names_model = MODEL in path
    needed = ("model", *spec.required) if route.required is None else route.required
    required = [name for name in needed if name != "model" or not names_model]
    body: Json = {**wires["schemas"][names["request"]], "required": required, "additionalProperties": True}
    if route.endpoint in _NO_STREAM_FIELD or route.dialect.name in _STREAM_BY_PATH:
        body["properties"] = {name: one for name, one in body["properties"].items() if name != "stream"}
    return {
        "summary": route.summary,
        "operationId": re.sub(r"\W+", "_", path).strip("_"),
        "security": [{"bearer": []}],
        "parameters": [_MODEL_IN_PATH] if names_model else [],
        "requestBody": {"required": True, "content": _request_content(spec, body)},
        "responses": {
            "200": {"description": "The response.", "content": _answer_content(route, names)},
            **_errors(_ERRORS.get(route.dialect.name, ERROR)),
        },
    }


def _answer_content(route: InferenceRoute, names: Json) -> Json:
    content: Json = {"audio/*": {"schema": {"type": "string", "format": "binary"}}}
    if route.endpoint not in BYTE_ENDPOINTS:
        content = {"application/json": {"schema": _reference(names["response"])}}
    if route.endpoint in TRANSCRIPTS:
        content["text/plain"] = {"schema": _TEXT}
    if route.endpoint not in _NEVER_STREAMED:
        events = {"x-event": _reference(names["event"])} if "event" in names else {}
        content["text/event-stream"] = {"schema": _TEXT | events}
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
