"""Moderations behind a real LiteLLM: nothing is rebuilt, and a failure is retried and falls back."""

import json
from uuid import UUID, uuid4

import pytest
from sidecars import Json, Sidecar
from stages.conftest import Reader

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@pytest.mark.parametrize(
    "given", ["{mark}", ["{mark}", "I kill you", "c"], [{"type": "text", "text": "{mark}"}, IMAGE]]
)
async def test_a_moderation_and_its_request_stay_as_they_are(sidecar: Sidecar, given: object) -> None:
    """LiteLLM names each category twice and drops what it does not know; its price of 0 is known."""
    mark = str(uuid4())
    sent = json.loads(json.dumps(given).replace("{mark}", mark))
    answer = await sidecar.post("/v1/moderations", {"model": "rank-moderator", "input": sent})
    assert answer.status == 200
    [call] = await sidecar.provider.calls(mark)
    assert call["body"] == {"model": "omni-moderation-latest", "input": sent}
    results: list[Json] = answer.json["results"]
    assert [one["flagged"] for one in results] == ([False, True, False] if len(results) > 1 else [False])
    assert len(results[0]["categories"]) == 13
    assert answer.json["provider_addition"] == {"kept": True}
    assert float(answer.headers["x-litellm-response-cost"]) == 0


async def test_a_moderation_is_retried_and_falls_back(sidecar: Sidecar) -> None:
    """LiteLLM's router asks one deployment, once."""
    answer = await sidecar.post("/v1/moderations", {"model": "rank-unsure-moderator", "input": "hello"})
    assert answer.status == 200
    attempts = json.loads(answer.headers["x-llmp-hops"])
    assert [group for group, _, status in attempts if status == 500] == ["rank-unsure-moderator"] * 3
    assert attempts[-1] == ["rank-moderator", "rank-moderator", 200]


@pytest.mark.parametrize("do", ["error-in-200", "garbage", "empty"])
async def test_an_answer_that_judges_nothing_is_a_failure(sidecar: Sidecar, do: str) -> None:
    """Not an answer without results."""
    body = {"model": "rank-moderator", "input": f"{(mark := uuid4().hex)} {json.dumps({'do': do})}"}
    answer = await sidecar.post("/v1/moderations", body)
    assert answer.status >= 500
    calls = await sidecar.provider.calls(mark)
    assert str(len(calls)) == answer.headers["x-llmp-attempts"]  # the SDK repeats nothing on its own


async def test_a_moderation_is_a_row_of_the_call_log(sidecar: Sidecar, log: Reader) -> None:
    """Whether it succeeds or fails."""
    for words, status in (("hello", "success"), (json.dumps({"do": "status-400"}), "failure")):
        call_id: UUID = uuid4()
        body = {"model": "rank-moderator", "input": words}
        await sidecar.post("/v1/moderations", body, **{"x-litellm-call-id": str(call_id)})
        [row] = await log.rows(call_id)
        assert (row["status"], row["deployment"]) == (status, "rank-moderator")
