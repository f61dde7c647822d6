"""The OpenAPI page declares what the routes return."""

import httpx
import pytest
from running_stack import RunningStack

from llm_proxy.dialects.messages.dialect import MESSAGES
from llm_proxy.dialects.responses.dialect import responses_dialect
from llm_proxy.dialects.routes import inference_routes


@pytest.mark.parametrize(
    ("method", "path", "declared"),
    [
        ("GET", "/admin/payloads/nope", "/admin/payloads/{request_id}"),
        ("GET", "/v1/usage?group_by=nope", "/v1/usage"),
        ("POST", "/admin/keys", "/admin/keys"),
    ],
)
async def test_a_wrong_field_gets_a_status_that_the_page_declares(
    stack: RunningStack, method: str, path: str, declared: str
) -> None:
    """400, in the shape of every error; FastAPI's own 422 is neither sent nor declared."""
    headers = {"Authorization": f"Bearer {stack.admin_key}"}
    async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=20) as client:
        page = (await client.get("/openapi.json")).json()
        answer = await client.request(method, path)
    responses = page["paths"][declared][method.lower()]["responses"]
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"]
    assert "422" not in responses
    schema = responses["400"]["content"]["application/json"]["schema"]
    assert schema["properties"]["error"]["required"] == ["message", "type", "param", "code"]


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
