"""Cohere's embeddings: `/v1/embed` and `/v2/embed`, on Cohere's models and on others."""

import base64
import json
import struct
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from loopback import NO_TLS
from running_stack import ADMIN_KEY, KEY
from sidecars import KEY as SIDECAR_KEY
from sidecars import Provider, deployment, run_provider, run_sidecar
from stack_processes import serve_gateway

Json = dict[str, Any]
PNG = "data:image/png;base64,iVBORw0KGgo="
EVERY_TYPE = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
IMAGE_INPUT = {"content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": PNG}}]}


def config_of(provider: Provider) -> Json:
    """Cohere's models, one that answers too little, and OpenAI's, which only some may fall back to."""

    def cohere(name: str, model: str) -> Json:
        made = deployment(name, f"cohere/{model}", provider, api_base=f"{provider.url}/v2/embed")
        return made | {"model_info": {"id": name, "mode": "embedding"}}

    models = [
        cohere("cohere", "embed-v4.0"),
        cohere("short", "embed-short"),
        cohere("falls-back", "embed-v4.0"),
        deployment("openai", "openai/text-embedding-3-small", provider),
        deployment("chat", "openai/gpt-4o-mini", provider),
    ]
    fallbacks = [{"falls-back": ["openai"]}, {"cohere": ["chat"]}]
    settings = {"num_retries": 0, "disable_cooldowns": True, "fallbacks": fallbacks}
    return {"model_list": models, "router_settings": settings}


@pytest.fixture(scope="module")
def served(service_folder: Path) -> Generator[tuple[httpx.Client, Provider]]:
    """A client of a gateway before these models, and their provider."""
    folder = service_folder / "cohere-embed"
    folder.mkdir()
    with (
        run_provider(folder) as provider,
        run_sidecar(config_of(provider), provider, folder) as sidecar,
        serve_gateway(folder, [sidecar.url], {"LITELLM_MASTER_KEY": SIDECAR_KEY}) as gateway,
        httpx.Client(
            base_url=gateway.url, headers={"Authorization": f"Bearer {KEY}"}, verify=NO_TLS, timeout=30
        ) as client,
    ):
        yield client, provider


@pytest.fixture
def client(served: tuple[httpx.Client, Provider]) -> httpx.Client:
    """The client; the provider's memory is wiped."""
    client, provider = served
    httpx.post(f"{provider.url}/_reset").raise_for_status()
    return client


def sent_to(served: tuple[httpx.Client, Provider]) -> list[Json]:
    """The bodies the provider got, oldest first."""
    found: list[Json] = httpx.get(f"{served[1].url}/_calls").json()["calls"]
    return [one["body"] for one in found]


@pytest.mark.parametrize(
    "body",
    [
        {"texts": ["a", "b"], "input_type": "search_query"},
        {"texts": ["a"], "input_type": "clustering", "embedding_types": EVERY_TYPE, "truncate": "START"},
        {"images": [PNG], "input_type": "image", "embedding_types": ["int8"]},
        {"inputs": [IMAGE_INPUT], "input_type": "search_document", "output_dimension": 16, "max_tokens": 9},
        {"texts": ["data:text/plain;base64,aGk="], "input_type": "classification", "priority": 3},
    ],
)
def test_a_model_of_cohere_gets_the_body_as_it_was_sent(
    served: tuple[httpx.Client, Provider], client: httpx.Client, body: Json
) -> None:
    """And its answer has every type; LiteLLM would send texts alone, and mix the types."""
    answer = client.post("/v2/embed", json={"model": "cohere", **body})
    assert answer.status_code == 200, answer.text
    [sent] = sent_to(served)
    assert sent == {"embedding_types": ["float"], **body, "model": "embed-v4.0"}
    found = answer.json()
    types = body.get("embedding_types", ["float"])
    inputs = next(len(body[name]) for name in ("texts", "images", "inputs") if name in body)
    assert {kind: len(found["embeddings"][kind]) for kind in types} == dict.fromkeys(types, inputs)
    assert found["response_type"] == "embeddings_by_type"
    assert found["meta"]["api_version"] == {"version": "2"}
    assert "usage" not in found
    assert found["meta"]["billed_units"]
    assert len(answer.headers["x-request-id"]) == 36


def test_version_1_has_vectors_without_a_type_unless_one_is_named(client: httpx.Client) -> None:
    """Both shapes, for Cohere's models and others."""
    for model in ("cohere", "openai"):
        plain = client.post("/v1/embed", json={"model": model, "texts": ["a", "b"]}).json()
        assert (plain["response_type"], plain["texts"]) == ("embeddings_floats", ["a", "b"])
        assert [len(one) for one in plain["embeddings"]] == [8, 8]
        assert plain["meta"]["api_version"]["version"] == "1"
        body = {"model": model, "texts": ["a"], "embedding_types": ["float", "base64"]}
        typed = client.post("/v1/embed", json=body).json()
        assert typed["response_type"] == "embeddings_by_type"
        [floats], [text] = typed["embeddings"]["float"], typed["embeddings"]["base64"]
        packed = base64.b64decode(text)
        assert struct.unpack(f"<{len(floats)}f", packed) == pytest.approx(floats)


def test_what_it_used_and_cost_is_recorded(client: httpx.Client) -> None:
    """Texts at their price, images at theirs: 17 and 100 tokens."""
    texts = client.post("/v2/embed", json={"model": "cohere", "texts": ["a"], "input_type": "x"})
    mixed = client.post("/v2/embed", json={"model": "cohere", "inputs": [IMAGE_INPUT], "input_type": "x"})
    other = client.post("/v2/embed", json={"model": "openai", "texts": ["a"], "input_type": "x"})
    costs = [float(one.headers["x-llm-proxy-cost-usd"]) for one in (texts, mixed, other)]
    assert costs == pytest.approx([17 * 0.12e-6, 17 * 0.12e-6 + 100 * 0.47e-6, 17 * 1e-6])
    assert other.json()["meta"]["billed_units"] == {"input_tokens": 17}


@pytest.mark.parametrize("model", ["openai", "falls-back"])
def test_another_model_gets_openai_s_embeddings(
    served: tuple[httpx.Client, Provider], client: httpx.Client, model: str
) -> None:
    """A model of Cohere's that may fall back to another too: the body must suit both."""
    inputs = [{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    body = {"model": model, "inputs": inputs, "input_type": "search_query", "output_dimension": 4}
    answer = client.post("/v2/embed", json=body | {"truncate": "END"})
    assert answer.status_code == 200, answer.text
    assert [len(one) for one in answer.json()["embeddings"]["float"]] == [4]
    [sent] = sent_to(served)
    assert sent.get("input") == ["a\nb"] or sent.get("texts") == ["a\nb"]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"images": [PNG]}, "images"),
        ({"inputs": [IMAGE_INPUT]}, "inputs[0].content[1]"),
        ({"texts": ["a"], "embedding_types": ["float", "int8"]}, "embedding_types[1]"),
        ({"texts": ["a"], "truncate": "START"}, "truncate"),
        ({"texts": ["a"], "max_tokens": 5}, "max_tokens"),
    ],
)
def test_what_another_model_cannot_do_is_refused_by_name(
    client: httpx.Client, changes: Json, param: str
) -> None:
    """In Cohere's envelope; nothing is left out silently."""
    answer = client.post("/v2/embed", json={"model": "openai", "input_type": "x", **changes})
    error = answer.json()
    assert answer.status_code == 400, answer.text
    assert (error["error"]["param"], error["error"]["code"]) == (param, "unsupported_value")
    assert param in error["message"]
    assert error["id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "texts"),
        ({"texts": []}, "texts"),
        ({"texts": "a"}, "texts"),
        ({"texts": [1]}, "texts[0]"),
        ({"texts": ["a"], "images": [PNG]}, "images"),
        ({"images": ["http://10.0.0.1/x.png"]}, "images[0]"),
        ({"inputs": [{"content": [{"type": ["text"]}]}]}, "inputs[0].content[0].type"),
        ({"inputs": [{"content": [{"type": "text"}]}]}, "inputs[0].content[0].text"),
        ({"inputs": [{"other": 1}]}, "inputs[0].content"),
        (
            {"inputs": [{"content": [{"type": "image_url", "image_url": {"url": "http://x/"}}]}]},
            "inputs[0].content[0].image_url.url",
        ),
        ({"texts": ["a"], "embedding_types": ["float", "half"]}, "embedding_types[1]"),
        ({"texts": ["a"], "output_dimension": 0}, "output_dimension"),
        ({"texts": ["a"], "api_base": "http://x"}, "api_base"),
        ({"texts": ["a"] * 2049}, "texts"),
    ],
)
@pytest.mark.parametrize("model", ["cohere", "openai"])
def test_a_body_that_is_none_of_cohere_s_is_refused(
    served: tuple[httpx.Client, Provider], client: httpx.Client, model: str, body: Json, param: str
) -> None:
    """Before anything is forwarded; links are none that Cohere would fetch."""
    answer = client.post("/v2/embed", json={"model": model, "input_type": "x", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert sent_to(served) == []


def test_errors_have_cohere_s_envelope(client: httpx.Client) -> None:
    """A model that is not served or makes no embeddings, the provider's own, too few vectors."""
    body = {"input_type": "x", "texts": ["a"]}
    failing = {"input_type": "x", "texts": [json.dumps({"do": "status-429"})]}
    for sent, status in (
        (body | {"model": "nobody-has-this"}, 404),
        (body | {"model": "chat"}, 400),
        (failing | {"model": "cohere"}, 429),
        (failing | {"model": "openai"}, 429),
        (body | {"model": "short"}, 502),
        (body, 400),
    ):
        answer = client.post("/v2/embed", json=sent)
        assert answer.status_code == status, (sent, answer.text)
        assert answer.json()["message"] == answer.json()["error"]["message"]


def test_operators_see_the_call_as_one_of_embeddings(client: httpx.Client) -> None:
    """In Cohere's dialect."""
    client.post("/v2/embed", json={"model": "cohere", "texts": ["a"], "input_type": "x"})
    page = client.get("/metrics", headers={"Authorization": f"Bearer {ADMIN_KEY}"}).text
    assert 'door="embeddings"' in page
