"""What each model serves, by the modes and paths of LiteLLM's price list, and what no model serves."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from loopback import NO_TLS
from running_stack import ADMIN_KEY, KEY, say
from sidecars import KEY as SIDECAR_KEY
from sidecars import Provider, deployment, run_provider, run_sidecar
from stack_processes import serve_gateway

Json = dict[str, Any]
CHATS = ["/v1/chat/completions", "/v1/responses", "/v1/messages"]
EMBEDDINGS = ["/v1/embeddings", "/v1/embed", "/v2/embed"]
MODELS = {
    "gpt": "openai/gpt-4o-mini",
    "claude": "anthropic/claude-sonnet-4-20250514",
    "vectors": "openai/text-embedding-3-small",
    "pictures": "openai/gpt-image-1",
    "reader": "mistral/mistral-ocr-latest",
}


OTHERS = {
    "ranks": "cohere/rerank-v3.5",
    "judges": "openai/omni-moderation-latest",
    "speaks": "openai/tts-1",
    "hears": "openai/whisper-1",
    "answers": "openai/o1-pro",
}


def config_of(provider: Provider, *, unknown: bool) -> Json:
    """A configuration of models that the price list knows, and of unknown ones."""
    known = [deployment(name, model, provider) for name, model in MODELS.items()]
    others: list[Json] = []
    if unknown:
        known += [deployment(name, model, provider) for name, model in OTHERS.items()]
        others = [deployment("mystery", "openai/mystery", provider)]
        for name, prices in (("dear", {"output_cost_per_image": 0.2}), ("unpriced", {})):
            made = deployment(name, f"openai/{name}", provider)
            others.append(made | {"model_info": {"id": name, "mode": "image_generation", **prices}})
    stated = deployment("stated", "openai/stated", provider)
    stated["model_info"] |= {"mode": "chat", "supported_endpoints": ["/v1/embeddings"]}
    return {
        "model_list": [*known, *others, stated],
        "router_settings": {
            "num_retries": 0,
            "disable_cooldowns": True,
            "model_group_alias": {"v": "vectors"},
        },
    }


def serve(folder: Path, *, unknown: bool = False) -> Generator[httpx.Client]:
    """A gateway before these models, and a client of it."""
    folder.mkdir()
    with (
        run_provider(folder) as provider,
        run_sidecar(config_of(provider, unknown=unknown), provider, folder) as sidecar,
        serve_gateway(folder, [sidecar.url], {"LITELLM_MASTER_KEY": SIDECAR_KEY}) as gateway,
        httpx.Client(
            base_url=gateway.url, headers={"Authorization": f"Bearer {KEY}"}, verify=NO_TLS, timeout=30
        ) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def known(service_folder: Path) -> Generator[httpx.Client]:
    """Models whose modes are known, all of them."""
    yield from serve(service_folder / "known-modes")


@pytest.fixture(scope="module")
def mixed(service_folder: Path) -> Generator[httpx.Client]:
    """The same and more, and one of which nothing is stated."""
    yield from serve(service_folder / "mixed-modes", unknown=True)


@pytest.mark.parametrize(
    ("model", "mode", "endpoints"),
    [
        ("gpt", "chat", CHATS),
        ("claude", "chat", [CHATS[0], "/v1/completions", *CHATS[1:]]),
        ("vectors", "embedding", EMBEDDINGS),
        ("v", "embedding", EMBEDDINGS),
        ("pictures", "image_generation", ["/v1/images/generations", "/v1/images/edits"]),
        ("reader", "ocr", None),
        ("stated", "chat", [CHATS[0], EMBEDDINGS[0], *CHATS[1:], *EMBEDDINGS[1:]]),
    ],
)
def test_a_model_tells_its_mode_and_its_endpoints(
    known: httpx.Client, model: str, mode: str, endpoints: list[str] | None
) -> None:
    """In the list and alone; none where the gateway serves it nowhere."""
    listed = {one["id"]: one for one in known.get("/v1/models").json()["data"]}
    assert known.get(f"/v1/models/{model}").json() == listed[model]
    paths = [path for path in listed[model].get("endpoints", []) if "/v1beta/" not in path]
    assert (listed[model]["mode"], paths) == (mode, endpoints or [])


def test_a_model_that_nobody_describes_is_listed_as_one_of_chats(mixed: httpx.Client) -> None:
    """And is refused nowhere; operators see that it is not known."""
    found = mixed.get("/v1/models/mystery").json()
    assert (found["mode"], found["endpoints"][0]) == ("chat", "/v1/chat/completions")
    groups = mixed.get("/admin/models", headers={"Authorization": f"Bearer {ADMIN_KEY}"}).json()["data"]
    known = {one["id"]: one["endpoints"] for one in groups}
    assert (known["mystery"], known["vectors"][0]) == (None, "/v1/embeddings")
    vectors = mixed.post("/v1/embeddings", json={"model": "mystery", "input": "x"})
    assert vectors.status_code == 200, vectors.text


@pytest.mark.parametrize(
    ("path", "model", "hint"),
    [
        ("/v1/chat/completions", "vectors", "`/v1/embeddings`"),
        ("/v1/chat/completions", "v", "`/v1/embeddings`"),
        ("/v1/chat/completions", "pictures", "`/v1/images/generations`"),
        ("/v1/messages", "vectors", "`/v1/embeddings`"),
        ("/v1/responses", "vectors", "`/v1/embeddings`"),
        ("/v1/completions", "vectors", "`/v1/embeddings`"),
        ("/v1/embeddings", "gpt", "`/v1/chat/completions`"),
        ("/v1/embeddings", "claude", "`/v1/chat/completions`"),
        ("/v1/chat/completions", "reader", "nor by another endpoint"),
        ("/openai/deployments/vectors/chat/completions", "gpt", "`/v1/embeddings`"),
        ("/openai/deployments/gpt/embeddings", "vectors", "`/v1/chat/completions`"),
    ],
)
def test_a_model_of_another_mode_is_refused_with_its_own_endpoint(
    known: httpx.Client, path: str, model: str, hint: str
) -> None:
    """Before anything is forwarded."""
    body = {"model": model, "messages": say("hi"), "input": "x", "prompt": "x", "max_tokens": 5}
    wanted = {"/v1/embeddings": ("input",), "/v1/completions": ("prompt",), "/v1/responses": ("input",)}
    fields = wanted.get(path) or (("input",) if path.endswith("embeddings") else ("messages",))
    named = (*fields, "model", *(["max_tokens"] if path == "/v1/messages" else []))
    answer = known.post(path, json={name: body[name] for name in named})
    error = answer.json()["error"]
    assert answer.status_code == 400, answer.text
    assert hint in error["message"]
    assert path not in error["message"]
    assert "/v1/chat/completions" not in error["message"].partition(";")[0]
    if path != "/v1/messages":
        assert (error["code"], error["param"]) == ("model_not_supported", "model")


def test_the_provider_judges_completions_of_chat_models(known: httpx.Client) -> None:
    """LiteLLM makes a chat of them for Claude, and requests OpenAI's own for GPT."""
    for model in ("gpt", "claude"):
        answer = known.post("/v1/completions", json={"model": model, "prompt": "once", "max_tokens": 5})
        assert (answer.status_code, bool(answer.json()["choices"][0]["text"])) == (200, True), answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/rerank", {"model": "vectors", "query": "x", "documents": ["a"]}),
        ("/v2/rerank", {"query": "x", "documents": ["a"]}),
        ("/v1/moderations", {"input": "x"}),
        ("/v1/audio/speech", {"model": "gpt", "input": "x", "voice": "alloy"}),
        ("/openai/deployments/gpt/audio/speech", {"input": "x", "voice": "alloy"}),
    ],
)
def test_an_endpoint_that_no_model_serves_is_404_for_everyone(
    known: httpx.Client, mixed: httpx.Client, path: str, body: Json
) -> None:
    """With a known model, an unknown one or none; where a model may serve anything it is no such error."""
    for sent in (body, body | {"model": "nobody-has-this"}):
        answer = known.post(path, json=sent)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (404, "endpoint_not_served"), answer.text
        assert "`/v1/" in error["message"]
    assert known.post(path, json=body, headers={"Authorization": "Bearer sk-no"}).status_code == 401
    assert "endpoint_not_served" not in mixed.post(path, json=body).text


@pytest.mark.parametrize("model", ["gpt", "vectors", "pictures", "mystery", *OTHERS])
def test_an_operator_s_test_makes_one_small_call_of_any_mode(mixed: httpx.Client, model: str) -> None:
    """At the cheapest where it is known; what it cost is shown."""
    admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
    found = mixed.post(f"/admin/models/{model}/test", headers=admin).json()
    assert (found["ok"], found["error"]) == (True, None), found
    assert float(found["cost_usd"] or 0) < 0.05


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("reader", "mode `ocr`"),
        ("dear", "may cost $0.2, which is more than $0.05"),
        ("unpriced", "not known"),
    ],
)
def test_a_test_that_has_no_way_or_may_cost_too_much_is_not_made(
    mixed: httpx.Client, model: str, reason: str
) -> None:
    """Neither a success nor a failure."""
    admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
    answer = mixed.post(f"/admin/models/{model}/test", headers=admin)
    found = answer.json()
    assert (answer.status_code, found["ok"], found["request_id"]) == (200, None, None)
    assert found["error"]["code"] == "not_tested"
    assert reason in found["error"]["message"]
