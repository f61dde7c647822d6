"""What of LiteLLM can be reached: six doors, with the traffic key, and nothing of its own application."""

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
        "/v1/messages",
    ),
    *("/key/generate", "/model/new", "/config/update", "/cache/flushall", "/health", "/health/services"),
    *("/v1/responses", "/chat/completions", "/v1/models/openai", "/engines/x/chat/completions"),
    *("/v1/chat/completions/", "//v1/chat/completions", "/v1/../key/generate", "/mcp", "/v1/files"),
)


@pytest.mark.parametrize("path", ELSEWHERE)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_every_route_but_our_doors_is_404(sidecar: Sidecar, method: str, path: str) -> None:
    """No admin API, no documentation, no pass-through: the key that opens the doors opens none of them."""
    async with httpx.AsyncClient(base_url=sidecar.url) as client:
        reply = await client.request(method, path, headers={"authorization": f"Bearer {KEY}"})
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("key", [None, "sk-1234", KEY + "x", KEY[:-1]])
async def test_without_the_traffic_key_nothing_is_answered(sidecar: Sidecar, key: str | None) -> None:
    """A wrong key is told so in OpenAI's shape, on a door and elsewhere alike."""
    for path in ("/v1/models", "/llmp/catalog", "/key/generate"):
        reply = await sidecar.get(path, key)
        assert reply.status == 401
        assert reply.json["error"]["code"] == "invalid_api_key"


async def test_the_key_goes_in_one_header_only(sidecar: Sidecar) -> None:
    """LiteLLM's other key headers open nothing here."""
    async with httpx.AsyncClient(base_url=sidecar.url) as client:
        for name in ("x-api-key", "api-key", "x-goog-api-key", "x-litellm-api-key"):
            assert (await client.get("/v1/models", headers={name: KEY})).status_code == 401


@pytest.mark.parametrize("path", ["/health/liveliness", "/health/readiness"])
async def test_health_needs_no_key_and_calls_no_model(sidecar: Sidecar, path: str) -> None:
    """A supervisor may ask as often as it likes."""
    before = len(await sidecar.provider.calls())
    assert (await sidecar.get(path, None)).status == 200
    assert len(await sidecar.provider.calls()) == before


async def test_models_are_the_configured_groups_and_aliases(sidecar: Sidecar) -> None:
    """A group whose key is absent is not listed, nor an alias that leads to it, nor the warm-up's own."""
    names = [model["id"] for model in (await sidecar.get("/v1/models")).json["data"]]
    assert {"openai", "anthropic", "gemini", "pair", "embed", "nickname"} <= set(names)
    assert len(names) == len(set(names))
    assert not {"keyless", "gone", "llm-proxy-warm-up"} & set(names)


async def test_the_catalog_tells_groups_deployments_prices_and_fallbacks(sidecar: Sidecar) -> None:
    """Prices are decimal strings, null when nobody stated one; fallbacks to what is absent are gone."""
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
    }
    assert groups["unpriced"]["deployments"][0]["input_cost_per_token"] is None
    assert groups["first"]["fallbacks"] == ["second", "wide"]
    assert groups["second"]["fallbacks"] == []
    [own] = groups["own"]["deployments"]
    assert (own["provider"], own["wire"]) == ("inhouse", "openai")
    assert groups["nickname"]["deployments"] == groups["second"]["deployments"]
    assert catalog["default_fallbacks"] == []


async def test_a_body_is_read_as_json_whatever_its_type_says(sidecar: Sidecar) -> None:
    """LiteLLM would read a form where the content type says so."""
    body = {"model": "openai", "messages": [{"role": "user", "content": "typed-as-a-form"}]}
    kind = "application/x-www-form-urlencoded"
    reply = await sidecar.post("/v1/chat/completions", body, **{"content-type": kind})
    assert reply.status == 200


@pytest.mark.parametrize("name", ["nickname", "oldname", "veiled", "shadowed"])
async def test_whoever_an_alias_stands_for_is_told_and_serves(sidecar: Sidecar, name: str) -> None:
    """In whatever section it stands, hidden, or under a group's own name: the gateway judges its target."""
    groups = {group["name"]: group for group in (await sidecar.get("/llmp/catalog")).json["groups"]}
    assert groups[name]["alias_of"] == "second"
    assert groups[name]["hidden"] is (name == "veiled")
    answer = await sidecar.chat(name, f"alias-{name}")
    assert (answer.status, answer.headers["x-litellm-model-id"]) == (200, "second")
    listed = [model["id"] for model in (await sidecar.get("/v1/models")).json["data"]]
    assert (name in listed) is (name != "veiled")
