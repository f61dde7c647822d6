"""The OpenAPI page declares what the routes return."""

import json
from collections.abc import Iterator
from importlib.resources import files

import httpx
import jsonschema_rs
import pytest
from management_answers import visit
from running_stack import Json, RunningStack, say, script

from llm_proxy.dialects.messages.dialect import MESSAGES
from llm_proxy.dialects.responses.dialect import responses_dialect
from llm_proxy.dialects.routes import inference_routes


@pytest.mark.parametrize(
    ("method", "path", "declared"),
    [
        ("GET", "/admin/payloads/nope", "/admin/payloads/{request_id}"),
        ("GET", "/v1/usage?group_by=nope", "/v1/usage"),
        ("POST", "/admin/keys", "/admin/keys"),
        ("POST", "/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("POST", "/v1beta/models/plain:countTokens", "/v1beta/models/{model}:countTokens"),
    ],
)
async def test_a_wrong_field_gets_a_status_that_the_page_declares(
    stack: RunningStack, method: str, path: str, declared: str
) -> None:
    """400, in the error shape of the route's dialect; FastAPI's own 422 is neither sent nor declared."""
    admin = {"Authorization": f"Bearer {stack.admin_key}"}
    headers = stack.auth if "count" in path else admin
    async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=20) as client:
        page = (await client.get("/openapi.json")).json()
        answer = await client.request(method, path)
    responses = page["paths"][declared][method.lower()]["responses"]
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"].get("param", "no field of this dialect")
    assert "422" not in responses
    _check(page, responses["400"]["content"]["application/json"]["schema"], answer.json())


async def test_the_page_declares_every_inference_path(stack: RunningStack) -> None:
    """With its body's required fields, and a parameter for each part of a path that is a name."""
    async with httpx.AsyncClient(base_url=stack.url, headers=stack.auth, timeout=20) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    table = inference_routes(responses_dialect(None), MESSAGES)
    for route in table.routes:
        for path in route.paths:
            operation = paths[path]["post"]
            named = [one["name"] for one in operation.get("parameters", ())]
            assert named == (["model"] if "{model}" in path else []), path
            [body, *_] = operation["requestBody"]["content"].values()
            assert body["schema"]["required"], path
    speech = paths["/v1/audio/speech"]["post"]
    assert set(speech["responses"]["200"]["content"]) == {"audio/*", "text/event-stream"}
    fields = speech["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert "stream_format" in fields
    assert "stream" not in fields
    embed = paths["/v2/embed"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert embed["required"] == ["model", "texts"]


CHAT = {"model": "p/helpful", "messages": say("hello")}
CALLS: dict[str, Json] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "p/ok", "prompt": "hello"},
    "/v1/embeddings": {"model": "all-minilm-l6-v2", "input": "hello"},
    "/v1/moderations": {"model": "moderator", "input": "hello"},
    "/v1/responses": {"model": "p/helpful", "input": "hello"},
    "/v1/messages": {**CHAT, "max_tokens": 50},
    "/v1beta/models/{model}:generateContent": {"contents": [{"parts": [{"text": "hello"}]}]},
    "/v1/rerank": {"model": "ranker", "query": "a cat", "documents": ["a dog", "a cat"]},
    "/v2/embed": {"model": "all-minilm-l6-v2", "texts": ["hello"], "input_type": "search_document"},
    "/internal/llm/proxy": CHAT,
    "/llm-proxy/generate": CHAT,
}


WRONG = {"temperature": "hot", "input": 1, "contents": 1, "documents": 1, "texts": 1}


async def test_models_answer_as_the_page_says(stack: RunningStack) -> None:
    """The whole schema of an answer, and of an error in each dialect."""
    async with httpx.AsyncClient(base_url=stack.url, headers=stack.auth, timeout=30) as client:
        page = (await client.get("/openapi.json")).json()
        for path, body in CALLS.items():
            operation = page["paths"][path]["post"]
            _check(page, operation["requestBody"]["content"]["application/json"]["schema"], body)
            at = path.replace("{model}", "plain")
            answer = await client.post(at, json=body)
            assert answer.status_code == 200, f"{path}: {answer.text}"
            _check(page, _answer_schema(operation, 200), answer.json())
            wrong = await client.post(at, json=body | WRONG)
            assert wrong.status_code == 400, f"{path}: {wrong.text}"
            _check(page, _answer_schema(operation, 400), wrong.json())


@pytest.mark.parametrize("model", ["native-pair", "plain"])
async def test_stored_responses_answer_as_the_page_says(stack: RunningStack, model: str) -> None:
    """Read, its input listed, deleted; kept by the provider, and by the gateway."""
    headers = stack.auth | {"x-tenant-id": "keeper"}
    async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=30) as client:
        page = (await client.get("/openapi.json")).json()
        played = script(do="ok", cache_write_tokens=1)  # OpenAI's type requires the field
        asked = [{"role": "user", "content": one} for one in ("one", f"two {played}")]
        made = await client.post("/v1/responses", json={"model": model, "input": asked})
        assert made.status_code == 200, made.text
        for method, end in (("GET", ""), ("GET", "/input_items"), ("DELETE", "")):
            answer = await client.request(method, f"/v1/responses/{made.json()['id']}{end}")
            assert answer.status_code == 200, answer.text
            operation = page["paths"][f"/v1/responses/{{response_id}}{end}"][method.lower()]
            _check(page, _answer_schema(operation, 200), answer.json())


def test_no_field_of_an_answer_is_left_open() -> None:
    """Every field of every management route has a type."""
    answers = json.loads((files("llm_proxy.edge") / "schemas" / "management.json").read_text("utf-8"))
    assert not {route: found for route, schema in answers.items() if (found := [*_open_fields(schema, "")])}


def _open_fields(schema: Json, at: str) -> Iterator[str]:
    if not schema.keys() & {"type", "anyOf", "const"}:
        yield at
    kinds = schema.get("type", ())
    if "object" in kinds and not schema.keys() & {"properties", "additionalProperties"}:
        yield at
    if "array" in kinds and "items" not in schema:
        yield f"{at}[]"
    for name, inner in schema.get("properties", {}).items():
        yield from _open_fields(inner, f"{at}.{name}")
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            yield from _open_fields(schema[word], f"{at}[]")


async def test_management_routes_answer_as_the_page_says(stack: RunningStack) -> None:
    """After a changed answer: `PYTHONPATH=tests python -m management_answers` writes the schemas anew."""
    answers = await visit(stack.url, has_call_log=False)
    async with httpx.AsyncClient(base_url=stack.url, headers=stack.auth, timeout=30) as client:
        page = (await client.get("/openapi.json")).json()
    for route, found in answers.items():
        method, path = route.split(" ", 1)
        operation = page["paths"][path][method.lower()]
        status = next(int(one) for one in operation["responses"] if one.startswith("2"))
        schema = _answer_schema(operation, status)
        for body in found:
            _check(page, schema, body)
            assert set(body) <= set(schema["properties"]), route


def _answer_schema(operation: Json, status: int) -> Json:
    found: Json = operation["responses"][str(status)]["content"]["application/json"]["schema"]
    return found


def _check(page: Json, schema: Json, value: object) -> None:
    whole = {"components": page["components"], **schema}
    faults = [fault.message for fault in jsonschema_rs.validator_for(whole).iter_errors(value)]
    assert faults == []
