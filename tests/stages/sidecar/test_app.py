"""The sidecar's routes: six, with the traffic key, and none of LiteLLM's own application."""

import httpx
import pytest
from sidecars import KEY, Sidecar

ELSEWHERE = (
    *(
        "/",
        "/docs",
        "/openapi.json",
        "/ui/",
        "/routes",
        "/metrics",
        "/test",
        "/public/providers",
        "/v1/messages/batches",
    ),
    *("/key/generate", "/model/new", "/config/update", "/cache/flushall", "/health", "/health/services"),
    *("/v1/responses/compact", "/chat/completions", "/v1/models/openai", "/engines/x/chat/completions"),
    *("/v1/chat/completions/", "//v1/chat/completions", "/v1/../key/generate", "/mcp", "/v1/files"),
)


@pytest.mark.parametrize("path", ELSEWHERE)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_every_other_route_of_litellm_is_404(sidecar: Sidecar, method: str, path: str) -> None:
    """No admin API, no documentation, no pass-through, with the key or without."""
    async with httpx.AsyncClient(base_url=sidecar.url) as client:
        reply = await client.request(method, path, headers={"authorization": f"Bearer {KEY}"})
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("key", [None, "sk-1234", KEY + "x", KEY[:-1]])
async def test_requests_without_the_traffic_key_are_rejected(sidecar: Sidecar, key: str | None) -> None:
    """With 401 in OpenAI's format, on every path."""
    for path in ("/v1/models", "/llmp/catalog", "/key/generate"):
        reply = await sidecar.get(path, key)
        assert reply.status == 401
        assert reply.json["error"]["code"] == "invalid_api_key"


async def test_the_key_is_accepted_in_one_header_only(sidecar: Sidecar) -> None:
    """LiteLLM's other key headers are ignored."""
    async with httpx.AsyncClient(base_url=sidecar.url) as client:
        for name in ("x-api-key", "api-key", "x-goog-api-key", "x-litellm-api-key"):
            assert (await client.get("/v1/models", headers={name: KEY})).status_code == 401


@pytest.mark.parametrize("path", ["/health/liveliness", "/health/readiness"])
async def test_health_needs_no_key_and_calls_no_model(sidecar: Sidecar, path: str) -> None:
    """A supervisor may check as often as it likes."""
    before = len(await sidecar.provider.calls())
    assert (await sidecar.get(path, None)).status == 200
    assert len(await sidecar.provider.calls()) == before


async def test_models_are_the_configured_groups_and_aliases(sidecar: Sidecar) -> None:
    """Without groups whose key is unset, aliases of those, and the warm-up's group."""
    names = [model["id"] for model in (await sidecar.get("/v1/models")).json["data"]]
    assert {"openai", "anthropic", "gemini", "pair", "embed", "nickname"} <= set(names)
    assert len(names) == len(set(names))
    assert not {"keyless", "gone", "llm-proxy-warm-up"} & set(names)


async def test_the_catalog_has_groups_deployments_prices_and_fallbacks(sidecar: Sidecar) -> None:
    """Prices are decimal strings, null if nobody stated one; fallbacks to missing groups are left out."""
    catalog = (await sidecar.get("/llmp/catalog")).json
    groups = {group["name"]: group for group in catalog["groups"]}
    pair = groups["pair"]
    assert [one["id"] for one in pair["deployments"]] == ["pair-a", "pair-b"]
    assert pair["deployments"][0]["created"] > 1_700_000_000
    assert pair["deployments"][0] | {"id": "", "created": 0} == {
        "id": "",
        "created": 0,
        "provider": "openai",
        "wire": "openai",
        "physical": "pair-a",
        "max_tokens": None,
        "max_input_tokens": None,
        "max_output_tokens": None,
        "input_cost_per_token": "0.000001",
        "output_cost_per_token": "0.000002",
        "native": [],
        "timeout_s": 120,
        "stream_timeout_s": 60,
        "attempts": 3,
        "features": [],
        "prices": {},
    }
    assert groups["unpriced"]["deployments"][0]["input_cost_per_token"] is None
    assert groups["first"]["fallbacks"] == ["second", "wide"]
    assert groups["second"]["fallbacks"] == []
    [own] = groups["own"]["deployments"]
    assert (own["provider"], own["wire"]) == ("inhouse", "openai")
    assert groups["nickname"]["deployments"] == groups["second"]["deployments"]
    assert catalog["default_fallbacks"] == []


async def test_a_body_is_json_with_any_content_type(sidecar: Sidecar) -> None:
    """LiteLLM would parse a form."""
    body = {"model": "openai", "messages": [{"role": "user", "content": "typed-as-a-form"}]}
    kind = "application/x-www-form-urlencoded"
    reply = await sidecar.post("/v1/chat/completions", body, **{"content-type": kind})
    assert reply.status == 200


@pytest.mark.parametrize("name", ["nickname", "oldname", "veiled", "shadowed"])
async def test_an_alias_is_in_the_catalog_and_serves_its_target(sidecar: Sidecar, name: str) -> None:
    """In either section, hidden, or with a group's own name: the gateway authorizes its target."""
    groups = {group["name"]: group for group in (await sidecar.get("/llmp/catalog")).json["groups"]}
    assert groups[name]["alias_of"] == "second"
    assert groups[name]["hidden"] is (name == "veiled")
    answer = await sidecar.chat(name, f"alias-{name}")
    assert (answer.status, answer.headers["x-litellm-model-id"]) == (200, "second")
    listed = [model["id"] for model in (await sidecar.get("/v1/models")).json["data"]]
    assert (name in listed) is (name != "veiled")
