"""The table `llm_calls` in Postgres, written with a role that may only insert."""

import asyncio
import json
from decimal import Decimal
from uuid import UUID, uuid4

import asyncpg
import pytest
from sidecars import Json, Mode, Sidecar
from stages.conftest import Reader

Rows = list[asyncpg.Record]
PROMPT = "the-prompt-of-nobody's-business"


async def call(sidecar: Sidecar, model: str, fields: Json | None = None, **directive: object) -> UUID:
    """Make one chat call with an id of its own."""
    call_id = uuid4()
    prompt = f"{PROMPT} {call_id} {json.dumps(directive)}"
    body: Json = {"model": model, "messages": [{"role": "user", "content": prompt}]} | (fields or {})
    await sidecar.post("/v1/chat/completions", body, **{"x-litellm-call-id": str(call_id)})
    return call_id


@pytest.mark.parametrize("mode", ["chat", "stream"])
async def test_a_success_is_one_row(sidecar: Sidecar, log: Reader, mode: Mode) -> None:
    """The provider's tokens, the cost to the nano-dollar, the request's id."""
    tokens = {"prompt_tokens": 101, "completion_tokens": 57, "cached_tokens": 11, "reasoning_tokens": 7}
    call_id = await call(sidecar, "openai", {"stream": mode == "stream"}, do="ok", **tokens)
    [row] = await log.rows(call_id)
    assert {name: row[name] for name in tokens} == tokens
    assert row["cost_usd"] == Decimal("0.000215")
    assert (row["status"], row["http_status"], row["attempts"]) == ("success", 200, 1)
    assert (row["model_group"], row["deployment"], row["provider"]) == ("openai", "openai", "openai")
    assert row["cache_hit"] is False
    assert row["error_class"] is None
    assert row["started_at"] < row["ended_at"]
    assert row["answer_id"].startswith("chatcmpl-")
    assert row["provider_request_id"] == "req_scripted"


@pytest.mark.parametrize("how", ["ok", "cut", "status-500"])
@pytest.mark.parametrize("mode", ["chat", "stream"])
async def test_a_row_names_the_configured_provider(
    sidecar: Sidecar, log: Reader, mode: Mode, how: str
) -> None:
    """Not the one whose protocol is used: the records of lost calls are completed from here."""
    rows = await log.rows(await call(sidecar, "own", {"stream": mode == "stream"}, do=how))
    assert {row["provider"] for row in rows} == {"inhouse"}
    unanswered = (mode, how) == ("chat", "cut")  # its headers are lost with it
    assert {row["provider_request_id"] for row in rows} == {None if unanswered else "req_scripted"}
    assert None not in {row["deployment"] for row in rows}


async def test_a_stream_of_a_disconnected_caller_names_its_deployment(sidecar: Sidecar, log: Reader) -> None:
    """A gateway's worker that crashed has no other source for the lost call."""
    call_id = uuid4()
    prompt = f"{PROMPT} {call_id} {json.dumps({'do': 'slow', 'frames': 50, 'gap_ms': 50})}"
    body: Json = {"model": "own", "messages": [{"role": "user", "content": prompt}], "stream": True}
    await sidecar.leave_stream(body, 1, **{"x-litellm-call-id": str(call_id)})
    [row] = await log.rows(call_id)
    assert (row["provider"], row["deployment"], row["model_group"]) == ("inhouse", "own", "own")


async def test_an_unknown_price_is_null(sidecar: Sidecar, log: Reader) -> None:
    """LiteLLM reports 0."""
    [row] = await log.rows(await call(sidecar, "unpriced", do="ok"))
    assert row["cost_usd"] is None


async def test_a_price_of_zero_is_zero(sidecar: Sidecar, log: Reader) -> None:
    """A self-hosted model costs nothing, and that is known."""
    [row] = await log.rows(await call(sidecar, "own", do="ok"))
    assert row["cost_usd"] == 0


async def test_unstated_tokens_are_null(sidecar: Sidecar, log: Reader) -> None:
    """LiteLLM reports 0 tokens at a cost of 0."""
    [row] = await log.rows(await call(sidecar, "openai", do="ok", counted=False))
    assert (row["status"], row["prompt_tokens"], row["completion_tokens"]) == ("success", None, None)
    assert row["cost_usd"] is None


async def test_a_retry_leaves_a_failure_and_a_success(sidecar: Sidecar, log: Reader) -> None:
    """The failure has its error."""
    key = str(uuid4())
    failed, good = await log.rows(await call(sidecar, "solo", do="flaky", key=key, fails=1, status=500), 2)
    assert (failed["status"], failed["http_status"]) == ("failure", 500)
    assert failed["normalized_error"] == "500_PROVIDER_INTERNAL_ERROR"
    assert failed["error_class"] == "InternalServerError"
    assert (good["status"], good["attempts"]) == ("success", 2)


async def test_a_fallback_names_the_deployment_that_served(sidecar: Sidecar, log: Reader) -> None:
    """The first group's failure has a row of its own."""
    key = str(uuid4())
    call_id = await call(sidecar, "first", do="flaky", key=key, fails=3, status=500)
    *failed, good = await log.rows(call_id, 4)
    assert [(row["deployment"], row["status"], row["http_status"]) for row in failed] == [
        ("first", "failure", 500)
    ] * 3
    assert [row["attempts"] for row in failed] == [1, 2, 3]
    assert (good["deployment"], good["status"], good["model_group"]) == ("second", "success", "second")


@pytest.mark.parametrize("mode", ["chat", "stream"])
@pytest.mark.parametrize(("model", "how"), [("solo", "status-500"), ("lone", "status-401"), ("solo", "hang")])
async def test_every_attempt_is_a_row(
    sidecar: Sidecar, log: Reader, model: str, how: str, mode: Mode
) -> None:
    """As many as the response's header says, each with its error; no status where no provider answered."""
    call_id = uuid4()
    prompt = f"{PROMPT} {call_id} {json.dumps({'do': how})}"
    body: Json = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": mode == "stream",
    }
    headers = {"x-litellm-call-id": str(call_id)}
    answer = await sidecar.post("/v1/chat/completions", body | {"timeout": 1, "stream_timeout": 1}, **headers)
    assert answer.status >= 400
    attempts = int(answer.headers["x-llmp-attempts"])
    assert attempts == len(await sidecar.provider.calls(str(call_id)))
    rows = await log.rows(call_id, attempts)
    await asyncio.sleep(1)
    assert len(await log.rows(call_id, attempts)) == attempts
    assert {(row["status"], row["deployment"], row["model_group"]) for row in rows} == {
        ("failure", model, model)
    }
    assert all(row["error_class"] and row["provider"] == "openai" for row in rows)
    answered = None if how == "hang" else int(how.removeprefix("status-"))
    assert {row["http_status"] for row in rows} == {answered}
    hops = json.loads(answer.headers["x-llmp-hops"])
    assert [hop[:3] for hop in hops] == [[model, model, answered or 0]] * len(rows)
    assert {*map(len, hops)} == ({4} if how == "status-401" else {3})


@pytest.mark.parametrize("family", ["openai", "anthropic", "ollama_chat"])
async def test_a_stream_that_breaks_is_one_row(sidecar: Sidecar, log: Reader, family: str) -> None:
    """It answered first and failed later."""
    call_id = await call(sidecar, family, {"stream": True}, do="cut", after=5, frames=9)
    [row] = await log.rows(call_id)
    await asyncio.sleep(1)
    assert len(await log.rows(call_id)) == 1
    assert row["status"] == "failure"


async def test_a_cache_hit_is_marked_and_costs_nothing(sidecar: Sidecar, log: Reader) -> None:
    """The second of two equal calls."""
    prompt = str(uuid4())
    body: Json = {"model": "openai", "messages": [{"role": "user", "content": prompt}]}
    ids = [uuid4(), uuid4()]
    for call_id in ids:
        await sidecar.post("/v1/chat/completions", body, **{"x-litellm-call-id": str(call_id)})
        await asyncio.sleep(0.3)
    [first], [second] = [await log.rows(call_id) for call_id in ids]
    assert (first["cache_hit"], second["cache_hit"]) == (False, True)
    assert second["cost_usd"] == 0
    assert len(await sidecar.provider.calls(prompt)) == 1


async def test_no_prompt_answer_or_key_is_in_the_log(sidecar: Sidecar, log: Reader) -> None:
    """Neither in the table nor in the process's log."""
    [row] = await log.rows(await call(sidecar, "openai", do="ok", text="the-answer-itself"))
    for text in (repr(dict(row)), sidecar.log.read_text()):
        assert PROMPT not in text
        assert "the-answer-itself" not in text


async def test_the_warm_up_is_not_logged(sidecar: Sidecar, log: Reader) -> None:
    """Its calls are nobody's usage."""
    await log.rows(await call(sidecar, "openai", do="ok"))
    assert (
        await log.connection.fetchval("SELECT count(*) FROM llm_calls WHERE model_group LIKE 'llm-proxy%'")
        == 0
    )


@pytest.mark.parametrize("mode", ["chat", "stream"])
async def test_impossible_token_counts_are_null(sidecar: Sidecar, log: Reader, mode: Mode) -> None:
    """A provider's number never prevents a row."""
    tokens = {"prompt_tokens": 10**25, "completion_tokens": 10**25, "cached_tokens": 10**25}
    call_id = await call(sidecar, "openai", {"stream": mode == "stream"}, do="ok", **tokens)
    [row] = await log.rows(call_id)
    assert [row[name] for name in tokens] == [None, None, None]
    assert row["cost_usd"] is None
