"""Responses and Messages behind a real LiteLLM, at deployments that speak them: nothing is rebuilt."""

import asyncio
import json
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from sidecars import CUT, Answer, Json, Sidecar
from stages.conftest import Reader
from stages.sidecar.native_call_cases import COMPLETED, CREATED, DELTAS, STARTED, STOPPED, events

NO_CACHE: Json = {"cache": {"no-cache": True, "no-store": True}}
BETAS = "claude-code-20250219,thinking-token-count-2026-05-13,made-up-2030-01-01"
TOKENS = {"cached_tokens": 3, "cache_write_tokens": 5, "cache_write_1h_tokens": 2}
COST_USD = 7.915e-05
"""Of `TOKENS`, 9 further prompt tokens and 23 of the answer: reads cost 0.1, writes 1.25, for an hour 2."""
PUBLISHED_USD = 3.9615e-04
"""Of the same at the published price."""
BREAKS = ("cut", "reset", "eof", "half-frame", "error-in-200")


def responses(model: str, mark: str = "", **directive: object) -> Json:
    """A request with fields that LiteLLM drops, keeps for itself or changes."""
    return {
        "model": model,
        "input": [{"role": "user", "content": f"{mark} {json.dumps(directive)}"}],
        "temperature": 0.5,
        "max_output_tokens": 3,
        "reasoning": {"effort": "low"},
        "metadata": {"tags": "a"},
        "client_metadata": {"x": "y"},
        "new_field": {"kept": None},
        "tools": [{"type": "function", "name": "f", "parameters": {"anyOf": []}, "strict": False}],
        **NO_CACHE,
    }


def messages(model: str, mark: str = "", **directive: object) -> Json:
    """The same for Messages."""
    return {
        "model": model,
        "max_tokens": 50,
        "messages": [{"role": "user", "content": f"{mark} {json.dumps(directive | TOKENS)}"}],
        "metadata": {"user_id": "u", "more": 1},
        "top_k": 3,
        "new_field": {"kept": None},
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        **NO_CACHE,
    }


async def ask(sidecar: Sidecar, body: Json, **headers: str) -> Answer:
    """Send a body where it belongs."""
    path = "/v1/responses" if "input" in body else "/v1/messages"
    return await sidecar.post(path, body, **headers)


def sent(body: Json, model: str) -> Json:
    """What the provider has to see of a body."""
    return {name: value for name, value in body.items() if name != "cache"} | {"model": model}


@pytest.mark.parametrize("group", ["gpt", "gpt-azure"])
async def test_a_response_and_its_request_stay_as_they_are(sidecar: Sidecar, group: str) -> None:
    """Every field, the provider's own id and what it adds; with its cost and its deployment."""
    body = responses(group, mark := str(uuid4()), do="ok")
    answer = await ask(sidecar, body)
    assert answer.status == 200
    (call,) = await sidecar.provider.calls(mark)
    assert call["body"] == sent(body, "gpt-4.1")
    assert answer.json["id"].startswith("resp_0000")
    assert answer.json["provider_addition"] == {"kept": True}
    assert "error" in answer.json
    assert float(answer.headers["x-litellm-response-cost"]) == pytest.approx(6.3e-05)
    assert answer.headers["x-litellm-model-id"] == group


@pytest.mark.parametrize("group", ["claude", "claude-vllm"])
async def test_a_message_and_its_request_stay_as_they_are(sidecar: Sidecar, group: str) -> None:
    """Anthropic gets the version and every beta that the gateway passes on."""
    body = messages(group, mark := str(uuid4()), do="ok") | {"speed": "fast"}
    versioned = {"anthropic-version": "2026-10-21", "anthropic-beta": BETAS}
    answer = await ask(sidecar, body, **versioned)
    assert answer.status == 200
    (call,) = await sidecar.provider.calls(mark)
    assert sent(body, call["body"]["model"]).items() <= call["body"].items() or group == "claude-vllm"
    assert call["body"].keys() - sent(body, "").keys() <= {"stream"}
    assert answer.json["usage"]["cache_creation"] == {
        "ephemeral_5m_input_tokens": 3,
        "ephemeral_1h_input_tokens": 2,
    }
    if group == "claude":
        assert call["headers"]["anthropic-version"] == "2026-10-21"
        assert {*BETAS.split(",")} <= {*call["headers"]["anthropic-beta"].split(",")}
        assert float(answer.headers["x-litellm-response-cost"]) == pytest.approx(COST_USD)


@pytest.mark.parametrize(
    ("thinking", "fitted"),
    [
        ({"type": "enabled", "budget_tokens": 31999, "display": "summarized"}, None),
        ({"type": "adaptive"}, {"type": "enabled", "budget_tokens": 1024}),
    ],
    ids=["budget", "adaptive"],
)
async def test_a_budget_of_thinking_stays_beside_an_effort(
    sidecar: Sidecar, thinking: Json, fitted: Json | None
) -> None:
    """Where the model knows neither adaptive thinking nor efforts, as Claude 4.5."""
    wanted: Json = {"max_tokens": 32000, "thinking": thinking, "output_config": {"effort": "low"}}
    body = messages("claude", mark := str(uuid4()), do="ok") | wanted
    assert (await ask(sidecar, body)).status == 200
    (call,) = await sidecar.provider.calls(mark)
    assert call["body"]["thinking"] == (fitted or thinking)
    assert "output_config" not in call["body"]


@pytest.mark.parametrize("group", ["claude-bedrock", "claude-vertex"])
async def test_claude_at_a_cloud_is_native(sidecar: Sidecar, group: str) -> None:
    """The cloud's own path and body; whole and streamed cost the same, with the region's surcharge."""
    body = messages(group, mark := str(uuid4()), do="ok")
    whole = await ask(sidecar, body)
    stream = await ask(sidecar, body | {"stream": True})
    assert (whole.status, stream.status) == (200, 200)
    calls = await sidecar.provider.calls(mark)
    assert [call["path"].rpartition("/" if "bedrock" in group else ":")[2] for call in calls] == (
        ["invoke", "invoke-with-response-stream"]
        if "bedrock" in group
        else ["rawPredict", "streamRawPredict"]
    )
    assert all("anthropic_version" in call["body"] and call["body"]["top_k"] == 3 for call in calls)
    kinds = [event["type"] for event in stream.events if isinstance(event, dict)]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    costs = whole.headers["x-litellm-response-cost"], stream.text.rpartition(": llmp-cost ")[2]
    assert [float(cost) for cost in costs] == pytest.approx([1.1 * PUBLISHED_USD] * 2)
    broken = await ask(sidecar, messages(group, do="eof", after=5) | {"stream": True})
    last = broken.events[-1]
    assert isinstance(last, dict)
    assert last["error"]["code"] == CUT


@pytest.mark.parametrize(
    "body", [responses("gpt", do="ok"), messages("claude", do="ok")], ids=["gpt", "claude"]
)
async def test_a_stream_stays_as_it_is_and_states_its_cost(sidecar: Sidecar, body: Json) -> None:
    """The provider's events with their names; then the cost of a complete answer with the same usage."""
    whole = await ask(sidecar, body)
    answer = await ask(sidecar, body | {"stream": True})
    *frames, last, rest = answer.text.split("\n\n")
    assert rest == ""
    cost = float(last.removeprefix(": llmp-cost "))
    assert cost == pytest.approx(float(whole.headers["x-litellm-response-cost"]))
    for frame in frames:
        name, _, data = frame.partition("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"
    assert frames[-1].startswith(("event: response.completed", "event: message_stop"))
    assert "[DONE]" not in answer.text


@pytest.mark.parametrize(
    ("make", "group", "said"),
    [
        (responses, "gpt", (CREATED, COMPLETED)),
        (messages, "claude", (STARTED, *DELTAS, *STOPPED)),
    ],
    ids=["gpt", "claude"],
)
async def test_events_are_the_provider_s_bytes(
    sidecar: Sidecar, make: Callable[..., Json], group: str, said: tuple[Json, ...]
) -> None:
    """LiteLLM adds a cost to the usage of some."""
    script = events(*said)
    answer = await ask(sidecar, make(group, **script) | {"stream": True})
    assert answer.text.rpartition(": llmp-cost ")[0].encode() == "".join(script["raw"]).encode("latin-1")


@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize("group", ["gpt", "claude"])
async def test_a_broken_stream_ends_in_an_error(sidecar: Sidecar, group: str, how: str) -> None:
    """What came before it was passed on; no event ends the answer, and no cost is stated."""
    make = responses if group == "gpt" else messages
    answer = await ask(sidecar, make(group, do=how, after=5) | {"stream": True})
    assert answer.status == 200
    last = answer.events[-1]
    assert isinstance(last, dict)
    assert last["error"]["code"] == CUT
    assert len(answer.events) >= 6
    assert not {"response.completed", "message_stop"} & {
        e["type"] for e in answer.events[:-1] if isinstance(e, dict)
    }
    assert "llmp-cost" not in answer.text


@pytest.mark.parametrize("how", ["stays-open", "torn-end"])
@pytest.mark.parametrize("group", ["gpt", "claude"])
async def test_a_stream_ends_with_its_last_event(sidecar: Sidecar, log: Reader, group: str, how: str) -> None:
    """Whatever becomes of the connection: the caller has the whole answer, and the log one success."""
    make, last = (responses, "response.completed") if group == "gpt" else (messages, "message_stop")
    for _ in range(2):
        body = make(group, mark := str(uuid4()), do=how) | {"stream": True}
        async with asyncio.timeout(10):
            answer = await ask(sidecar, body, **{"x-litellm-call-id": mark})
        *_, end, cost, rest = answer.text.split("\n\n")
        assert end.startswith(f"event: {last}\n")
        assert (cost.startswith(": llmp-cost "), rest) == (True, "")
        [row] = await log.rows(UUID(mark))
        assert row["status"] == "success"


async def test_a_model_that_litellm_does_not_know_streams(sidecar: Sidecar) -> None:
    """LiteLLM asks for its answer whole and makes events of its own."""
    body = responses("of-openai/gpt-of-tomorrow", mark := str(uuid4()), do="ok")
    answer = await ask(sidecar, body | {"stream": True})
    (call,) = await sidecar.provider.calls(mark)
    assert call["body"]["stream"] is True
    kinds = [event["type"] for event in answer.events if isinstance(event, dict)]
    assert kinds.count("response.output_text.delta") == 8
    assert kinds[-1] == "response.completed"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_fallback_keeps_the_cost(sidecar: Sidecar, stream: bool) -> None:  # noqa: FBT001 -- a parameter
    """An overloaded Anthropic falls back; LiteLLM states no cost for that."""
    said = {"messages": [{"role": "user", "content": "hello"}], "stream": stream}
    answer = await ask(sidecar, messages("claude-away") | said)
    assert answer.status == 200
    hops = json.loads(answer.headers["x-llmp-hops"])
    assert [hop[::2] for hop in hops] == [["claude-away", 529], ["claude", 200]]
    stated = (
        answer.text.rpartition(": llmp-cost ")[2] if stream else answer.headers["x-litellm-response-cost"]
    )
    assert float(stated) == pytest.approx(6.3e-05)


async def test_an_error_keeps_its_status_code_and_parameter(sidecar: Sidecar) -> None:
    """In the headers that the gateway reads."""
    answer = await ask(sidecar, responses("gpt", do="status-400"))
    headers = answer.headers
    assert answer.status == 400
    assert headers["x-llmp-provider-param"] == "top_logprobs"
    assert headers["x-llmp-provider-code"] == "invalid_value"
    overloaded = await ask(sidecar, messages("claude", do="status-529"))
    assert overloaded.headers["x-llmp-provider-status"] == "529"
    assert overloaded.headers["x-llmp-provider-type"] == "overloaded_error"


async def test_the_catalog_says_which_deployments_speak_them(sidecar: Sidecar) -> None:
    """By provider and address; another address only as `supported_endpoints` states."""
    catalog = (await sidecar.get("/llmp/catalog")).json
    native = {
        group["name"]: group["deployments"][0]["native"]
        for group in catalog["groups"]
        if group["deployments"]
    }
    assert native["gpt-own"] == ["responses"]
    assert native["claude-own"] == ["messages"]
    assert native["azure"] == []  # its version of the API is older than Responses
    assert native["azure-new"] == ["responses"]
    assert native["gpt"] == ["messages", "responses"]
    assert native["claude"] == native["claude-bedrock"] == native["claude-vertex"] == ["messages"]
    assert native["claude-vllm"] == ["messages", "responses"]
    assert native["openai"] == native["anthropic"] == native["groq"] == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("group", ["gpt", "claude"])
async def test_a_native_call_is_a_row_of_the_call_log(
    sidecar: Sidecar,
    log: Reader,
    group: str,
    stream: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """With the tokens and the cost that the gateway records."""
    call_id = uuid4()
    body = (responses if group == "gpt" else messages)(group, do="ok") | {"stream": stream}
    await ask(sidecar, body, **{"x-litellm-call-id": str(call_id)})
    [row] = await log.rows(call_id)
    assert (row["status"], row["deployment"]) == ("success", group)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (17, 23)
    assert float(row["cost_usd"]) == pytest.approx(6.3e-05 if group == "gpt" else COST_USD)
