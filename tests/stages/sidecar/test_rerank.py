"""Rerank behind a real LiteLLM, at each provider's wire: what it gets, and what comes back."""

import json
from uuid import UUID, uuid4

import httpx
import pytest
from loopback import NO_TLS
from sidecars import KEY, Answer, Json, Sidecar
from stages.conftest import Reader

TOKEN_BILLED = ("rank-jina", "rank-voyage", "rank-bge", "rank-together", "rank-infinity")
GROUPS = ("rank-cohere", *TOKEN_BILLED)
DOCUMENTS = ["Paris", "Carson City", "Berlin"]


def requested(group: str, mark: str, **fields: object) -> Json:
    """A request that ranks three documents."""
    return {"model": group, "query": f"{mark} capital?", "documents": DOCUMENTS, **fields}


async def rank(sidecar: Sidecar, group: str, **fields: object) -> tuple[Answer, list[Json]]:
    """The answer, and what the provider saw."""
    answer = await sidecar.post("/v1/rerank", requested(group, mark := str(uuid4()), **fields))
    return answer, await sidecar.provider.calls(mark)


def stated(answer: Answer) -> Json:
    """What the sidecar states that the answer used."""
    found: Json = json.loads(answer.headers["x-llmp-usage"])
    return found


@pytest.mark.parametrize("group", GROUPS)
async def test_every_provider_s_answer_has_one_shape(sidecar: Sidecar, group: str) -> None:
    """Cohere's, with Jina's `model` and `usage`; `top_n` and documents as the request says."""
    answer, [call] = await rank(sidecar, group, top_n=2, return_documents=True)
    assert answer.status == 200, answer.text
    assert answer.json["model"] == group
    assert answer.json["results"] == [
        {"index": 2, "relevance_score": 0.9, "document": {"text": "Berlin"}},
        {"index": 1, "relevance_score": 0.8, "document": {"text": "Carson City"}},
    ]
    assert call["body"].get("top_n", call["body"].get("top_k")) == 2
    assert call["body"]["documents"] == DOCUMENTS
    assert answer.json["id"]


async def test_a_server_of_texts_ranks_them_too(sidecar: Sidecar) -> None:
    """Hugging Face's TEI: a list of scores, of which LiteLLM counts tokens that were not stated."""
    answer, [call] = await rank(sidecar, "rank-tei", return_documents=True, extra_body={"truncate": True})
    assert answer.status == 200, answer.text
    assert [one["index"] for one in answer.json["results"]] == [2, 1, 0]
    assert answer.json["results"][0]["document"] == {"text": "Berlin"}
    assert call["body"]["texts"] == DOCUMENTS
    assert call["body"]["truncate"] is True
    assert "usage" not in answer.json
    assert "x-llmp-usage" not in answer.headers


@pytest.mark.parametrize("group", GROUPS)
async def test_no_document_that_is_refused_comes_back(sidecar: Sidecar, group: str) -> None:
    """Some providers send them whatever is requested."""
    answer, _ = await rank(sidecar, group, return_documents=False)
    assert [one.keys() for one in answer.json["results"]] == [{"index", "relevance_score"}] * 3


async def test_an_answer_in_search_units_states_them_and_their_price(sidecar: Sidecar) -> None:
    """Cohere bills each hundred documents begun; its meta stays as it is."""
    answer, _ = await rank(sidecar, "rank-cohere", documents=["a"] * 201)
    assert stated(answer) == {"search_units": 3, "cost": "0.006"}
    assert float(answer.headers["x-litellm-response-cost"]) == pytest.approx(0.006)
    assert answer.json["meta"]["billed_units"] == {"search_units": 3}
    assert answer.json["meta"]["warnings"] == ["a warning"]
    assert "usage" not in answer.json


@pytest.mark.parametrize("group", TOKEN_BILLED)
async def test_an_answer_in_tokens_states_them(sidecar: Sidecar, group: str) -> None:
    """Once for Cohere's clients, once for Jina's; without a price no cost, never 0."""
    answer, _ = await rank(sidecar, group)
    assert answer.json["meta"]["tokens"]["input_tokens"] == 17
    assert answer.json["usage"]["total_tokens"] == 17
    assert "search_units" not in answer.json["meta"]["billed_units"]
    used = stated(answer)
    assert used["prompt_tokens"] == 17
    priced = {"rank-jina": 17 * 5e-8, "rank-voyage": 17 * 5e-8}
    assert float(used.get("cost", "nan")) == pytest.approx(priced.get(group, float("nan")), nan_ok=True)
    assert ("x-litellm-response-cost" in answer.headers) == (group in priced)


async def test_cohere_is_called_in_the_version_that_knows_the_fields(sidecar: Sidecar) -> None:
    """Objects, their fields and documents in the answer are version 1; a bound in tokens is version 2."""
    objects = [{"text": "Paris", "title": "p"}]
    for fields, version in (
        ({}, 2),
        ({"max_tokens_per_doc": 9}, 2),
        ({"documents": objects, "rank_fields": ["title"]}, 1),
        ({"documents": objects}, 1),
        ({"return_documents": True}, 1),
        ({"max_chunks_per_doc": 3}, 1),
    ):
        _, [call] = await rank(sidecar, "rank-cohere", **fields)
        assert call["path"] == f"/v{version}/rerank", fields
        assert call["body"].items() >= fields.items()


@pytest.mark.parametrize("group", GROUPS)
async def test_the_model_s_own_fields_reach_it(sidecar: Sidecar, group: str) -> None:
    """LiteLLM drops each field that its table does not have."""
    _, [call] = await rank(sidecar, group, extra_body={"truncate": "END", "priority": 1})
    assert (call["body"]["truncate"], call["body"]["priority"]) == ("END", 1)
    assert "extra_body" not in call["body"]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("status", [400, 429, 500])
async def test_a_provider_s_failure_keeps_its_status(sidecar: Sidecar, group: str, status: int) -> None:
    """And its words, whatever LiteLLM makes of them."""
    answer = await sidecar.post("/v1/rerank", requested(group, json.dumps({"do": f"status-{status}"})))
    assert answer.headers["x-llmp-provider-status"] == str(status)
    assert answer.status >= 400
    assert (answer.headers["x-llmp-attempts"] == "1") == (status == 400)  # a caller's fault is not repeated


@pytest.mark.parametrize("do", ["error-in-200", "garbage", "empty", "not-sse"])
async def test_an_answer_that_ranks_nothing_is_a_failure(sidecar: Sidecar, do: str) -> None:
    """LiteLLM passes an error with status 200 on as an answer without results; here it is repeated."""
    answer = await sidecar.post("/v1/rerank", requested("rank-cohere", json.dumps({"do": do})))
    assert answer.status in {500, 502}
    assert answer.headers["x-llmp-attempts"] == "3"


async def test_a_caller_who_hangs_up_cancels_the_provider_s_call(sidecar: Sidecar) -> None:
    """LiteLLM cancels chats alone."""
    mark = str(uuid4())
    body = requested("rank-cohere", json.dumps({"do": "slow-first", "first_ms": 20000, "key": mark}))
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(f"{sidecar.url}/v1/rerank", json=body, headers=headers, timeout=0.5)
    assert await sidecar.provider.client_left_s(mark) < 20


@pytest.fixture
def call_id() -> UUID:
    """The id of a call."""
    return uuid4()


async def test_a_rerank_is_a_row_of_the_call_log(sidecar: Sidecar, log: Reader, call_id: UUID) -> None:
    """With what it cost."""
    await sidecar.post("/v1/rerank", requested("rank-cohere", "x"), **{"x-litellm-call-id": str(call_id)})
    [row] = await log.rows(call_id)
    assert (row["status"], row["deployment"], float(row["cost_usd"])) == ("success", "rank-cohere", 0.002)
