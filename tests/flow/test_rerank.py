"""Rerank and moderations from outside: what callers send and hear, what is recorded, billed and refused."""

import asyncio
import json
from uuid import uuid4

import httpx
import pytest
from loopback import NO_TLS
from openai.types import ModerationMultiModalInputParam
from running_stack import Json, RunningStack, script

DOCUMENTS = ["Carson City", {"text": "Paris", "title": "p"}, "Berlin"]
PNG = "data:image/png;base64,iVBORw0KGgo="
RERANK, MODERATIONS = "/v1/rerank", "/v1/moderations"


async def post(stack: RunningStack, path: str, key: str | None = None, /, **body: object) -> httpx.Response:
    """One call."""
    headers = {"Authorization": f"Bearer {key or stack.key}"}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=20) as client:
        return await client.post(stack.url + path, json=body, headers=headers)


def ranking(**fields: object) -> Json:
    """A request that ranks."""
    return {"model": "ranker", "query": "capital?", "documents": DOCUMENTS, **fields}


@pytest.mark.parametrize("path", [RERANK, "/v2/rerank", "/rerank", "/v1/rerank/"])
async def test_documents_are_ranked_at_every_path(stack: RunningStack, path: str) -> None:
    """In Cohere's shape; the record has the search units and the published price of one."""
    answer = await post(stack, path, **ranking(top_n=1, return_documents=True))
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["results"] == [{"index": 2, "relevance_score": 0.9, "document": {"text": "Berlin"}}]
    assert found["meta"]["billed_units"] == {"search_units": 1}
    assert answer.headers["content-type"] == "application/json"
    [call] = await stack.calls()
    assert call["body"]["documents"] == DOCUMENTS
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["door"], story["dialect"], story["outcome"]) == ("rerank", "cohere", "ok")
    assert float(story["cost_usd"]) == 0.002
    assert (story["usage_source"], story["provider"], story["cache"]) == ("provider", "cohere", "off")


async def test_a_reranker_that_counts_tokens_costs_its_tokens(stack: RunningStack) -> None:
    """LiteLLM knows no price of this one by itself; the operator's counts."""
    answer = await post(stack, RERANK, **ranking(model="ranker-by-token"))
    assert answer.json()["usage"]["total_tokens"] == 17
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["prompt_tokens"], story["completion_tokens"]) == (17, 0)
    assert float(story["cost_usd"]) == pytest.approx(0.000017)


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"query": ...}, "query", "missing_required_parameter"),
        ({"query": ""}, "query", "empty_string"),
        ({"query": 3}, "query", "invalid_type"),
        ({"documents": ...}, "documents", "missing_required_parameter"),
        ({"documents": []}, "documents", "empty_array"),
        ({"documents": "one"}, "documents", "invalid_type"),
        ({"documents": ["a", 3]}, "documents[1]", "invalid_type"),
        ({"documents": ["a"] * 10_001}, "documents", "array_above_max_length"),
        ({"documents": ["a" * 1_000_001]}, "documents[0]", "string_above_max_length"),
        ({"documents": [{"text": "a" * 1_000_001}]}, "documents[0]", "string_above_max_length"),
        ({"documents": [{"image": "http://10.0.0.1/a.png"}]}, "documents[0].image", "invalid_url"),
        ({"query": {"image": "http://localhost/a.png"}}, "query.image", "invalid_url"),
        ({"top_n": 0}, "top_n", "integer_below_min_value"),
        ({"rank_fields": "text"}, "rank_fields", "invalid_type"),
        ({"return_documents": "yes"}, "return_documents", "invalid_type"),
        ({"max_tokens_per_doc": -1}, "max_tokens_per_doc", "integer_below_min_value"),
        ({"stream": True}, "stream", "unknown_parameter"),
        ({"api_base": "http://evil"}, "api_base", "unknown_parameter"),
        ({"custom_llm_provider": "jina_ai"}, "custom_llm_provider", "unknown_parameter"),
        ({"model": ...}, "model", "missing_required_parameter"),
    ],
)
async def test_a_wrong_field_is_named(stack: RunningStack, change: Json, param: str, code: str) -> None:
    """In OpenAI's envelope, with Cohere's and Jina's spelling of the message; no provider is called."""
    body = {name: value for name, value in ranking(**change).items() if value != ...}
    answer = await post(stack, RERANK, **body)
    assert answer.status_code == 400
    document = answer.json()
    assert (document["error"]["param"], document["error"]["code"]) == (param, code)
    assert document["message"] == document["detail"] == document["error"]["message"]
    assert await stack.calls() == []


async def test_a_document_s_links_are_only_read(stack: RunningStack) -> None:
    """A text about a private address, and a document's own link, are what is ranked."""
    documents: list[object] = ["http://10.0.0.1 is the router", {"text": "a", "url": "http://intranet/a"}]
    assert (await post(stack, RERANK, **ranking(documents=documents))).status_code == 200


async def test_the_provider_s_own_fields_reach_it(stack: RunningStack) -> None:
    """Cohere's `priority`, NVIDIA's `truncate`."""
    answer = await post(stack, RERANK, **ranking(priority=3, truncate="END", extra_body={"x": 1}))
    assert answer.status_code == 200, answer.text
    [call] = await stack.calls()
    assert (call["body"]["priority"], call["body"]["truncate"], call["body"]["x"]) == (3, "END", 1)


@pytest.mark.parametrize(
    ("directive", "status", "origin"),
    [
        ({"do": "status-400"}, 400, "provider"),
        ({"do": "status-429", "retry_after": "7"}, 429, "provider"),
        ({"do": "status-500"}, 502, "provider"),
        ({"do": "garbage"}, 502, "provider"),
        ({"do": "error-in-200"}, 502, "provider"),
        ({"do": "drop"}, 502, "provider"),
    ],
)
async def test_a_provider_s_failure_is_told_as_everywhere(
    stack: RunningStack, directive: Json, status: int, origin: str
) -> None:
    """Its status, who refused, no key and no address; the record says the same."""
    answer = await post(stack, RERANK, **ranking(query=script(**directive)))
    assert answer.status_code == status, answer.text
    assert answer.headers["x-llm-proxy-refused-by"] == origin
    assert "canary" not in answer.text
    assert "127.0.0.1" not in answer.text
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["status"], story["outcome"]) == (status, "error")


async def test_a_field_that_the_model_s_provider_lacks_is_the_caller_s(stack: RunningStack) -> None:
    """LiteLLM makes an error of its own of it, with status 500."""
    answer = await post(stack, RERANK, **ranking(model="ranker-by-token", max_chunks_per_doc=3))
    assert answer.status_code == 400, answer.text
    assert await stack.calls() == []


async def test_a_caller_who_leaves_cancels_the_provider_s_call(stack: RunningStack) -> None:
    """The record says who left."""
    query = script(do="slow-first", first_ms=20000, key=uuid4().hex)
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(stack.url + RERANK, json=ranking(query=query), headers=stack.auth, timeout=1)
    async with asyncio.timeout(10):
        while not [one for one in await stack.calls() if one["client_left_s"]]:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.05)


async def test_limits_and_budgets_of_a_key_hold(stack: RunningStack) -> None:
    """The second call of a key whose budget the first one has used is refused; explain says so before."""
    key = await stack.new_key(budgets=[{"limit_usd": "0.002", "period": "day"}])
    assert (await post(stack, RERANK, key, **ranking())).status_code == 200
    refused = await post(stack, RERANK, key, **ranking())
    assert refused.status_code == 429
    assert refused.json()["message"] == refused.json()["error"]["message"]
    explained = await post(stack, f"/v1/explain?path={RERANK}", key, **ranking())
    assert explained.status_code == 200, explained.text
    assert explained.json()["verdict"] == "refused"


async def test_a_limit_of_tokens_holds_for_what_states_none(stack: RunningStack) -> None:
    """Cohere counts search units: the prompt's size counts in their place; a rest admits one more."""
    key = await stack.new_key(tpm=300)
    documents = ["a" * 1000]
    statuses = [
        (await post(stack, RERANK, key, **ranking(documents=documents))).status_code for _ in range(3)
    ]
    assert statuses == [200, 200, 429]


@pytest.mark.parametrize("model", ["ranker", "moderator", "speaker"])
async def test_an_operator_tries_such_a_model(stack: RunningStack, model: str) -> None:
    """By one small call, as any other."""
    headers = {"Authorization": f"Bearer {stack.admin_key}"}
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        tried = await client.post(f"{stack.url}/admin/models/{model}/test", headers=headers)
    assert tried.json()["ok"] is True, tried.text


@pytest.mark.parametrize("path", [MODERATIONS, "/moderations", "/openai/v1/moderations"])
async def test_texts_are_moderated_one_by_one(stack: RunningStack, path: str) -> None:
    """The provider's answer as it was, free of charge, and known to be."""
    answer = await post(stack, path, model="moderator", input=["a", "I kill you", ""])
    assert [one["flagged"] for one in answer.json()["results"]] == [False, True, False]
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["door"], float(story["cost_usd"])) == ("moderations", 0)


async def test_the_sdk_moderates_text_and_image_by_the_default_model(stack: RunningStack) -> None:
    """`model` may be left out."""
    parts: list[ModerationMultiModalInputParam] = [
        {"type": "text", "text": "see http://10.0.0.1 for more"},
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
    ]
    answer = await stack.openai.moderations.create(input=parts)
    assert answer.model == "omni-moderation-latest"
    [result] = answer.results
    assert result.category_applied_input_types.violence == ["text", "image"]
    assert (result.categories.self_harm, result.flagged) == (False, False)
    [call] = await stack.calls()
    assert [one["type"] for one in call["body"]["input"]] == ["text", "image_url", "image_url"]


WRONG_INPUTS: list[tuple[object, str, str]] = [
    (..., "input", "missing_required_parameter"),
    (3, "input", "invalid_type"),
    ([], "input", "empty_array"),
    (["a", {"type": "text", "text": "b"}], "input[1]", "invalid_type"),
    ([{"type": "text"}], "input[0].text", "missing_required_parameter"),
    ([{"type": "image_url", "image_url": {}}], "input[0].image_url.url", "missing_required_parameter"),
    (["a"] * 2049, "input", "array_above_max_length"),
    (
        [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}],
        "input[0].image_url.url",
        "invalid_url",
    ),
]


@pytest.mark.parametrize(("given", "param", "code"), WRONG_INPUTS)
async def test_a_wrong_input_is_named(stack: RunningStack, given: object, param: str, code: str) -> None:
    """By its place."""
    body: Json = {} if given is ... else {"input": given}
    answer = await post(stack, MODERATIONS, model="moderator", **body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


async def test_a_moderation_that_fails_has_the_provider_s_status_and_words(stack: RunningStack) -> None:
    """As a chat that fails."""
    answer = await post(stack, MODERATIONS, model="moderator", input=json.dumps({"do": "status-400"}))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "Invalid value for 'top_logprobs'."
