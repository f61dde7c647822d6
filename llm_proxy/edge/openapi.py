"""The hot doors on the OpenAPI page, from the one table of doors.

Invariants: every path of the table is there; every refusal a door can answer with is declared.
"""

from llm_proxy.edge.doors import HOT_DOORS, HotDoor
from llm_proxy.endpoints import ENDPOINTS
from llm_proxy.json_access import Json

_REFUSALS = {
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
_OWN_REQUIRED = {"internal": ["messages"], "generate": ["messages"]}


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


def hot_paths() -> Json:
    """The `paths` of every hot door."""
    return {path: {"post": _operation(door, path)} for door in HOT_DOORS for path in door.paths}


def own_words(paths: Json) -> None:
    """Declares what a door of FastAPI's says of a wrong field: our 400, where FastAPI expects its own 422."""
    for operation in (one for path in paths.values() for one in path.values()):
        responses: Json = operation["responses"]
        if responses.pop("422", None) is not None:
            responses.setdefault("400", {"description": _REFUSALS["400"]})["content"] = {
                "application/json": {"schema": _ERROR}
            }


def _operation(door: HotDoor, path: str) -> Json:
    required = _OWN_REQUIRED.get(door.dialect.name, ["model", ENDPOINTS[door.door].required])
    body: Json = {
        "type": "object",
        "required": required,
        "properties": {name: _PROPERTIES[name] for name in ("model", *required)},
    }
    if door.door != "embeddings" and door.dialect.name != "generate":
        body["properties"]["stream"] = {"type": "boolean"}
    content: Json = {"application/json": {"schema": {"type": "object"}}}
    if door.door != "embeddings":
        content["text/event-stream"] = {"schema": {"type": "string"}}
    refusals = {
        status: {"description": text, "content": {"application/json": {"schema": _error_of(door)}}}
        for status, text in _REFUSALS.items()
    }
    return {
        "summary": door.summary,
        "operationId": path.strip("/").replace("/", "_").replace("-", "_"),
        "security": [{"bearer": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "The answer.", "content": content}, **refusals},
    }


def _error_of(door: HotDoor) -> Json:
    return _ERROR if door.dialect.name == "openai" else {"type": "object"}
