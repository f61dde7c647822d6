"""Complete answers as providers really send them, beyond their documents, through a real LiteLLM."""

import asyncio
import json
from uuid import uuid4

import asyncpg
import pytest
from odd_provider_answers import (
    HELLO,
    OPENAI_S,
    STOP,
    USAGE,
    answered,
    chunk,
    deltas,
    event,
    frames,
    message_of,
    played,
    stream,
    whole,
)
from sidecar_parts import needs_parts
from sidecars import Json, Mode, Sidecar


@needs_parts("frames")
async def test_usage_of_xai_and_openrouter_is_complete(sidecar: Sidecar) -> None:
    """The provider's cost beside LiteLLM's; xAI's reasoning counts as completion."""
    usage = USAGE | {"cost": 0.5, "is_byok": False, "cost_details": {"upstream": 0.25}}
    received = frames(
        await played(sidecar, "openrouter", *stream(HELLO, STOP, chunk(choices=[], usage=usage)))
    )
    assert received[-1]["usage"]["llmp_stated_cost"] == 0.5
    assert received[-1]["usage"]["cost_details"] == {"upstream": 0.25}
    whole_told = (await answered(sidecar, "openrouter", whole({"content": "Hello"}, usage=usage))).json[
        "usage"
    ]
    assert (whole_told["llmp_stated_cost"], whole_told["is_byok"]) == (0.5, False)
    apart = USAGE | {
        "total_tokens": 9,
        "num_sources_used": 3,
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    received = frames(
        await played(sidecar, "xai", *stream(HELLO, STOP, chunk(choices=[], usage=apart, citations=["x"])))
    )
    assert received[-1]["citations"] == ["x"]
    assert (received[-1]["usage"]["completion_tokens"], received[-1]["usage"]["num_sources_used"]) == (6, 3)


async def test_embeddings_have_the_object_name(sidecar: Sidecar) -> None:
    """Where the provider states none or null; usage that nobody stated is absent."""
    body = {"data": [{"embedding": [0.5]}, {"object": None, "index": 1, "embedding": [0.25]}], "model": "m"}
    directive = json.dumps({"do": "raw", "raw": [json.dumps(body)]})
    request = {"model": "embed", "input": [f"{uuid4()} {directive}", str(uuid4())]}
    received = (await sidecar.post("/v1/embeddings", request)).json
    assert received["object"] == "list"
    assert [(one["object"], one["index"]) for one in received["data"]] == [("embedding", 0), ("embedding", 1)]
    assert "usage" not in received


@needs_parts("frames")
@pytest.mark.parametrize("family", OPENAI_S)
async def test_fields_beyond_openai_s_are_kept_in_both_modes(sidecar: Sidecar, family: str) -> None:
    """In the message, in the choice, beside the choices."""
    added: Json = {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}
    results, prompt = {"hate": {"filtered": False}}, [{"prompt_index": 0}]
    streamed = deltas(await played(sidecar, family, *stream(chunk(added), HELLO, STOP)))
    assert added["reasoning_details"] in [delta.get("reasoning_details") for delta in streamed]
    thought = [{"type": "thinking", "thinking": "hm", "signature": "s"}]
    stated = whole(
        {"role": "assistant", "content": "Hello", "thinking_blocks": thought} | added,
        choice={"content_filter_results": results},
        prompt_filter_results=prompt,
        usage=USAGE | {"queue_time": 0.5},
    )
    received = (await answered(sidecar, family, stated)).json
    message = received["choices"][0]["message"]
    assert message["reasoning_details"] == added["reasoning_details"]
    assert message["thinking_blocks"] == thought
    assert received["choices"][0]["content_filter_results"] == results
    assert received["prompt_filter_results"] == prompt
    assert received["usage"]["queue_time"] == 0.5


GOOD: dict[str, Json | str] = {
    "no role": whole({"content": "Hello"}),
    "nulls": whole(
        {"role": None, "content": "Hello", "tool_calls": None, "function_call": None, "audio": None}
    ),
    "no finish reason": whole({"role": "assistant", "content": "Hello"}, None),
    "empty error": whole({"role": "assistant", "content": "Hello"}, error={"message": "", "code": None}),
    "odd logprobs": whole(
        {"content": "Hello"}, choice={"logprobs": {"content": [{"token": "H", "logprob": -1}]}}
    ),
    "odd usage": whole({"content": "Hello"}, usage={"prompt_tokens": 3.0, "completion_tokens": None}),
    "null usage": whole({"content": "Hello"}, usage=None),
    "null id": whole({"content": "Hello"}, id=None, created=None, model=None, system_fingerprint=None),
    "images": whole({"content": "Hello", "images": [{"type": "image_url", "image_url": {"url": "data:x"}}]}),
    "empty usage": whole({"content": "Hello"}, usage={}),
    "null counts": whole({"content": "Hello"}, usage=dict.fromkeys(USAGE)),
    "odd annotations": whole({"content": "Hello", "annotations": [{"type": "file", "file": {"hash": "a"}}]}),
    "odd additions": whole({"content": "Hello", "audio": {}, "images": ["x"], "thinking_blocks": ["x"]}),
    "no numbers": whole(
        {"content": "Hello"},
        choice={"logprobs": {"content": [{"token": "H", "logprob": float("-inf"), "top_logprobs": []}]}},
        usage={"prompt_tokens": float("nan"), "completion_tokens": 2, "total_tokens": float("inf")},
    ),
    "too large": json.dumps(whole({"content": "Hello"}, score="x")).replace('"x"', "1e999"),
    "mark": "\ufeff" + json.dumps(whole({"content": "Hello"})),
}


@pytest.mark.parametrize("how", GOOD)
async def test_missing_optional_fields_are_no_error(sidecar: Sidecar, how: str) -> None:
    """Missing, null, or of another type."""
    for answer in await asyncio.gather(*(answered(sidecar, family, GOOD[how]) for family in OPENAI_S)):
        assert answer.status == 200, answer.text
        [choice] = answer.json["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("Hello", "stop")
        assert choice["message"]["role"] == "assistant"
        assert answer.json.get("usage", USAGE)["total_tokens"] > 0
        stated: Json = message_of(GOOD[how])
        assert choice["message"].get("annotations") == stated.get("annotations")


@pytest.mark.parametrize(
    ("family", "body"),
    [
        (
            "anthropic",
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "text", "text": "Hello"}],
                "stop_reason": "end_turn",
            },
        ),
        ("gemini", {"candidates": [{"content": {"parts": [{"text": "Hello"}]}, "finishReason": "STOP"}]}),
        (
            "ollama_chat",
            {
                "model": "m",
                "message": {"role": "assistant", "content": "Hello"},
                "done": True,
                "eval_count": None,
                "prompt_eval_count": None,
            },
        ),
    ],
)
async def test_another_format_without_usage_is_no_error(sidecar: Sidecar, family: str, body: Json) -> None:
    """No usage, or LiteLLM's own count, marked; never zeros."""
    answer = await answered(sidecar, family, body)
    assert answer.status == 200, answer.text
    assert answer.json["choices"][0]["message"]["content"] == "Hello"
    assert answer.json.get("usage", {"llmp_counted": True})["llmp_counted"]


@pytest.mark.parametrize("family", OPENAI_S)
async def test_a_stated_zero_is_kept(sidecar: Sidecar, family: str) -> None:
    """In both modes."""
    zero = dict.fromkeys(USAGE, 0)
    received = (await answered(sidecar, family, whole({"content": "Hello"}, usage=zero))).json
    assert received["usage"] | zero == received["usage"]
    streamed = frames(await played(sidecar, family, *stream(HELLO, STOP, chunk(choices=[], usage=zero))))
    assert [one["usage"]["total_tokens"] for one in streamed if one.get("usage")] == [0]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (whole({"content": ""}, "error"), 502),
        (whole({"content": "He"}, "stop", choice={"error": {"code": 429, "message": "slow"}}), 429),
        ({"error": {"code": 503, "message": "away"}}, 503),
        ({"error": "boom"}, 500),
        ({"id": "x", "choices": None}, 502),
        ({"id": "x", "choices": [{"index": 0, "message": None, "finish_reason": "stop"}]}, 502),
        ('"ok"', 502),
    ],
)
async def test_a_failure_stated_in_a_complete_answer_is_an_error(
    sidecar: Sidecar, body: Json | str, status: int
) -> None:
    """It is not cached."""
    for answer in await asyncio.gather(*(answered(sidecar, family, body) for family in OPENAI_S)):
        assert answer.status >= 400
        assert answer.headers["x-llmp-provider-status"] == str(status)


@needs_parts("frames")
@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("eos", "stop"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("odd", "odd"),
    ],
)
@pytest.mark.parametrize("family", ["openai", "groq", "openrouter"])
async def test_finish_reasons_are_the_same_in_both_modes(
    sidecar: Sidecar, family: str, stated: str, expected: str
) -> None:
    """The nearest of OpenAI's; an unknown one stays."""
    streamed = frames(await played(sidecar, family, *stream(HELLO, chunk({}, stated))))
    ends = [choice.get("finish_reason") for one in streamed for choice in one["choices"]]
    assert [end for end in ends if end] == [expected]
    received = (await answered(sidecar, family, whole({"content": "Hello"}, stated))).json
    assert received["choices"][0]["finish_reason"] == expected


@pytest.mark.parametrize("family", ["openai", "anthropic", "gemini", "ollama_chat"])
@pytest.mark.parametrize("piece", ["\x00\xff\xfe" * 40, "data: " + "x" * 60, "{" * 60 + "\n", "data: {\n"])
async def test_garbage_is_an_error(sidecar: Sidecar, family: str, piece: str) -> None:
    """Bytes that are no text, frames without an end: a clean error, streamed or not."""
    for answer in await asyncio.gather(
        sidecar.stream(family, str(uuid4()), do="raw", raw=[piece] * 20, repeat=100),
        sidecar.chat(family, str(uuid4()), do="raw", raw=[piece], repeat=10),
    ):
        assert answer.status == 200 or answer.status >= 400
        failed = answer.events[-1] if answer.status == 200 else answer.json
        assert isinstance(failed, dict)
        assert "error" in failed


@needs_parts("frames")
@pytest.mark.parametrize("mode", ["stream", "chat"])
@pytest.mark.parametrize(
    ("family", "stated", "recorded"),
    [
        ("openai", "eos", True),
        ("groq", "eos", True),
        ("gemini", "MALFORMED_FUNCTION_CALL", True),
        ("openai", "stop", False),
    ],
)
async def test_the_provider_s_own_finish_reason_is_in_the_log(
    sidecar: Sidecar,
    call_log_dsn: str,
    mode: Mode,
    family: str,
    stated: str,
    recorded: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """If it says more than the caller's."""
    call_id, streamed = uuid4(), mode == "stream"
    if family == "gemini":
        candidate = {"content": {"parts": [{"text": "Hello"}]}, "finishReason": stated}
        text = json.dumps({"candidates": [candidate], "usageMetadata": {"promptTokenCount": 3}})
        raw = [f"data: {text}\n\n"] if streamed else [text]
    else:
        raw = (
            stream(HELLO, chunk({}, stated))
            if streamed
            else [json.dumps(whole({"content": "Hello"}, stated))]
        )
    prompt = f"{call_id} {json.dumps({'do': 'raw', 'raw': raw})}"
    body: Json = {"model": family, "messages": [{"role": "user", "content": prompt}], "stream": streamed}
    answer = await sidecar.post("/v1/chat/completions", body, **{"x-litellm-call-id": str(call_id)})
    assert answer.status == 200
    connection = await asyncpg.connect(call_log_dsn)
    try:
        async with asyncio.timeout(10):
            query = "SELECT * FROM llm_calls WHERE call_id = $1"
            while not (rows := await connection.fetch(query, call_id)):  # noqa: ASYNC110 -- a database has no event
                await asyncio.sleep(0.2)
    finally:
        await connection.close()
    assert [row["normalized_error"] for row in rows] == [f"finish_reason: {stated}" if recorded else None]


CALLED = {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}]}, "finishReason": "STOP"}]}
COUNTED = {"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "promptTokensDetails": None}}


async def test_a_tool_call_of_gemini_without_arguments(sidecar: Sidecar) -> None:
    """Its token counts may have no sum."""
    text = json.dumps(CALLED | COUNTED)
    [whole_call] = (await answered(sidecar, "gemini", text)).json["choices"][0]["message"]["tool_calls"]
    answer = await played(sidecar, "gemini", f"data: {text}\n\n")
    [streamed] = [call for delta in deltas(answer) for call in delta.get("tool_calls") or ()]
    assert whole_call["function"] == streamed["function"] == {"name": "f", "arguments": "{}"}
    assert [one["usage"]["total_tokens"] for one in frames(answer) if one.get("usage")] == [5]


async def test_lines_of_ollama_may_lack_fields(sidecar: Sidecar) -> None:
    """The last line its message, each of them model and time."""
    end = {"done": True, "done_reason": "stop", "prompt_eval_count": 11, "eval_count": 5}
    lines = [{"message": {"content": "Hello"}, "done": False}, end]
    answer = await played(sidecar, "ollama_chat", *(json.dumps(line) + "\n" for line in lines))
    assert answer.content == "Hello"
    assert [one["usage"]["total_tokens"] for one in frames(answer) if one.get("usage")] == [16]
    received = (await answered(sidecar, "ollama_chat", lines[0] | end)).json
    assert received["choices"][0]["message"]["content"] == "Hello"


def no_constant(name: str) -> None:
    """Reject NaN and infinities, which Python's parser accepts and JSON does not have."""
    raise ValueError(name)


UNLIKELY: Json = {"content": [{"token": "H", "logprob": float("-inf"), "bytes": None, "top_logprobs": []}]}


@needs_parts("frames")
@pytest.mark.parametrize("family", OPENAI_S)
async def test_numbers_that_are_not_json_are_never_sent(sidecar: Sidecar, family: str) -> None:
    """NaN, infinities, too large numbers: null, and OpenAI's own number for a logprob; the text arrives."""
    end = chunk(
        {"content": "Hi"},
        "stop",
        choice={"logprobs": UNLIKELY},
        usage={"prompt_tokens": float("nan"), "completion_tokens": 1, "total_tokens": float("inf")},
    )
    writes = [one.replace('"m"', '"m", "score": 1e999') for one in stream(end)]
    answer = await played(sidecar, family, *writes)
    for line in answer.text.split("\n"):
        if line.startswith("data: {"):
            json.loads(line[6:], parse_constant=no_constant)
    assert answer.content == "Hi"
    [choice] = [one["choices"][0] for one in frames(answer) if one["choices"]]
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"]["content"][0]["logprob"] == -9999.0
    received = await answered(sidecar, family, whole({"content": "Hi"}, choice={"logprobs": UNLIKELY}))
    found = json.loads(received.text, parse_constant=no_constant)
    assert found["choices"][0]["logprobs"]["content"][0]["logprob"] == -9999.0


HALF = r'{"error": {"message": "bad \ud800 temperature", "param": "\udc00", "type": "x\ud83d", "n": NaN}}'


@pytest.mark.parametrize("mode", ["stream", "chat"])
@pytest.mark.parametrize("family", [*OPENAI_S, "anthropic", "gemini", "ollama_chat"])
async def test_a_surrogate_half_in_an_error_is_harmless(sidecar: Sidecar, mode: Mode, family: str) -> None:
    """Its status and message arrive; the sidecar logs no traceback."""
    mark = str(uuid4())
    answer = await sidecar.ask(mode, family, mark, do="raw-error", raw=[HALF], status=400)
    assert answer.status == 400
    assert answer.headers["x-llmp-provider-status"] == "400"
    assert "temperature" in answer.headers["x-llmp-message"]
    assert "Traceback" not in sidecar.log.read_text(encoding="utf-8", errors="replace")


@needs_parts("frames")
@pytest.mark.parametrize("family", OPENAI_S)
async def test_a_surrogate_half_beside_the_text_is_harmless(sidecar: Sidecar, family: str) -> None:
    """In fields that are not joined."""
    odd = event(chunk({"content": "Hello"}, noted={"say\ud83d": "\ude00"}))
    answer = await played(sidecar, family, odd, *stream(STOP))
    assert answer.content == "Hello"
    assert frames(answer)[0]["noted"] == {"say\ufffd": "\ufffd"}


@pytest.mark.parametrize("code", ["9" * 5000, "0429", "\u0664\u0662\u0669"])
@pytest.mark.parametrize("mode", ["chat", "stream"])
async def test_a_stated_code_that_is_no_status_is_a_provider_error(
    sidecar: Sidecar, mode: Mode, code: str
) -> None:
    """Whatever digits it has."""
    stated = json.dumps({"error": {"code": code, "message": "broken"}})
    raw = [f"data: {stated}\n\n"] if mode == "stream" else [stated]
    answer = await sidecar.ask(mode, "lone", str(uuid4()), do="raw", raw=raw)
    assert answer.status >= 400
    assert "error" in answer.json
