"""Google's `generateContent` behind a real LiteLLM, at deployments that speak it: nothing is rebuilt."""

import asyncio
import json
from uuid import UUID, uuid4

import pytest
from sidecars import Answer, Json, Sidecar
from stages.conftest import Reader

from llm_proxy.endpoints import ENDPOINTS

NO_CACHE: Json = {"cache": {"no-cache": True, "no-store": True}}
PATH = ENDPOINTS["generate_content"].path
SIGNED: Json = {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "_-8="}
BREAKS = ("cut", "reset", "eof", "half-frame", "error-in-200")
TOKENS = {"cached_tokens": 4, "reasoning_tokens": 5}
COSTS_USD = {
    "gemini-vertex": (13 * 0.3 + 4 * 0.03 + 23 * 2.5) / 1e6,
    "gemini-flash": (13 * 1 + 4 * 0.03 + 23 * 2) / 1e6,
}
"""Of `TOKENS` in a prompt of 17 and an answer of 23: the published price, and the deployment's own."""


def contents(model: str, mark: str = "", **directive: object) -> Json:
    """A request with fields that LiteLLM drops, keeps for itself or changes."""
    text = f"{mark} {json.dumps(directive)}"
    return {
        "model": model,
        "contents": [
            {"role": "model", "parts": [SIGNED]},
            {"role": "user", "parts": [{"text": text, "partMetadata": {"x": 1}}]},
        ],
        "system_instruction": {"parts": {"text": "s"}},
        "generationConfig": {
            "maxOutputTokens": 50,
            "response_schema": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}},
            "newSetting": None,
        },
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}],
        "tool_config": {"function_calling_config": {"mode": "NONE"}},
        "tools": [
            {"googleSearch": {}},
            {"functionDeclarations": [{"name": "f", "parameters": {"anyOf": []}}]},
        ],
        "newField": {"kept": None},
        **NO_CACHE,
    }


async def ask(sidecar: Sidecar, body: Json, **headers: str) -> Answer:
    """Send a body where it belongs."""
    return await sidecar.post(PATH, body, **headers)


def sent(body: Json) -> Json:
    """What the provider has to see of a body."""
    return {name: value for name, value in body.items() if name not in {"cache", "model", "stream"}}


@pytest.mark.parametrize("group", ["gemini-flash", "gemini-vertex"])
async def test_a_request_and_its_answer_stay_as_they_are(sidecar: Sidecar, group: str) -> None:
    """Every field, in its spelling; with the cost and the deployment."""
    body = contents(group, mark := str(uuid4()), do="ok", **TOKENS)
    answer = await ask(sidecar, body)
    assert answer.status == 200
    (call,) = await sidecar.provider.calls(mark)
    assert call["path"].endswith("/gemini-2.5-flash:generateContent")
    assert {name: value for name, value in call["body"].items() if name != "model"} == sent(body)
    assert answer.json["candidates"][0]["citationMetadata"] == {
        "citationSources": [{"uri": "https://a.example"}]
    }
    assert answer.json["providerAddition"] == {"kept": None}
    assert float(answer.headers["x-litellm-response-cost"]) == pytest.approx(COSTS_USD[group])
    if group == "gemini-flash":
        assert answer.headers["x-litellm-model-id"] == group


@pytest.mark.parametrize("group", ["gemini-flash", "gemini-vertex"])
async def test_a_stream_stays_as_it_is_and_states_its_cost(sidecar: Sidecar, group: str) -> None:
    """The provider's events; then the cost of a whole answer with the same usage."""
    body = contents(group, mark := str(uuid4()), do="ok", **TOKENS)
    answer = await ask(sidecar, body | {"stream": True})
    (call,) = await sidecar.provider.calls(mark)
    assert call["path"].endswith(":streamGenerateContent")
    assert {name: value for name, value in call["body"].items() if name != "model"} == sent(body)
    *frames, last, rest = answer.text.split("\n\n")
    assert rest == ""
    assert float(last.removeprefix(": llmp-cost ")) == pytest.approx(COSTS_USD[group])
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert all("providerAddition" in chunk for chunk in chunks)
    assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"
    assert len(chunks) == 8


@pytest.mark.parametrize("how", BREAKS)
async def test_a_broken_stream_ends_in_an_error(sidecar: Sidecar, how: str) -> None:
    """What came before it was passed on; no event ends the answer, and no cost is stated."""
    answer = await ask(sidecar, contents("gemini-flash", do=how, after=5) | {"stream": True})
    assert answer.status == 200
    last = answer.events[-1]
    assert isinstance(last, dict)
    assert "error" in last
    assert len(answer.events) >= 5
    assert "finishReason" not in answer.text
    assert "llmp-cost" not in answer.text


@pytest.mark.parametrize("how", ["stays-open", "torn-end"])
async def test_a_stream_ends_with_its_last_event(sidecar: Sidecar, log: Reader, how: str) -> None:
    """Whatever becomes of the connection: the caller has the whole answer, and the log a success."""
    body = contents("gemini-flash", mark := str(uuid4()), do=how) | {"stream": True}
    async with asyncio.timeout(10):
        answer = await ask(sidecar, body, **{"x-litellm-call-id": mark})
    events, mark_of_cost, _ = answer.text.rpartition(": llmp-cost ")
    assert mark_of_cost
    assert ("finishReason" in events, "error" in events) == (True, False)
    [row] = await log.rows(UUID(mark))
    assert row["status"] == "success"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_fallback_keeps_the_cost(sidecar: Sidecar, stream: bool) -> None:  # noqa: FBT001 -- a parameter
    """An overloaded group falls back; LiteLLM states no cost for that."""
    fields = {"contents": [{"parts": [{"text": "hello"}]}], "stream": stream}
    answer = await ask(sidecar, contents("gemini-away") | fields)
    assert answer.status == 200
    hops = json.loads(answer.headers["x-llmp-hops"])
    assert [hop[::2] for hop in hops] == [["gemini-away", 503], ["gemini-flash", 200]]
    stated = (
        answer.text.rpartition(": llmp-cost ")[2] if stream else answer.headers["x-litellm-response-cost"]
    )
    assert float(stated) == pytest.approx((17 * 1 + 23 * 2) / 1e6)


async def test_google_counts_a_prompt_itself(sidecar: Sidecar) -> None:
    """LiteLLM's counter needs a library that is not installed."""
    body = contents("gemini-flash", mark := str(uuid4()))
    asked = {name: body[name] for name in ("contents", "system_instruction", "tools")}
    counted = await sidecar.post("/llmp/count_tokens", {"model": "gemini-flash", "google": asked})
    (call,) = await sidecar.provider.calls(mark)
    assert call["path"].endswith(":countTokens")
    assert counted.json["input_tokens"] > 1000


async def test_an_error_keeps_its_status_and_its_text(sidecar: Sidecar) -> None:
    """In the headers that the gateway reads."""
    for stream in (False, True):
        answer = await ask(sidecar, contents("gemini-flash", do="status-400") | {"stream": stream})
        assert answer.status == 400
        assert answer.headers["x-llmp-provider-status"] == "400"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_native_call_is_a_row_of_the_call_log(
    sidecar: Sidecar,
    log: Reader,
    stream: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """With the tokens and the cost that the gateway records."""
    call_id = uuid4()
    body = contents("gemini-flash", str(call_id), do="ok", **TOKENS) | {"stream": stream}
    await ask(sidecar, body, **{"x-litellm-call-id": str(call_id)})
    [row] = await log.rows(call_id)
    assert (row["status"], row["deployment"]) == ("success", "gemini-flash")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (17, 23)
    assert float(row["cost_usd"]) == pytest.approx(COSTS_USD["gemini-flash"])


async def test_the_catalog_says_which_deployments_speak_it(sidecar: Sidecar) -> None:
    """By provider and address; another address only as `supported_endpoints` states."""
    catalog = (await sidecar.get("/llmp/catalog")).json
    native = {
        group["name"]: group["deployments"][0]["native"]
        for group in catalog["groups"]
        if group["deployments"]
    }
    assert native["gemini-own"] == native["gemini-vertex"] == native["gemini-flash"] == ["generate_content"]
    assert native["gemini"] == []
    assert native["claude-vertex"] == ["messages"]
