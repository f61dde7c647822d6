"""What providers really send, beside the letter of their documents, through a real LiteLLM, each on its wire.

A correct answer arrives as it was said, and what is none is an error. The scripted provider sends the bytes.
"""

import asyncio
import json
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sidecars import CUT, Answer, Json, Mode, Sidecar

OPENAI_S = ("openai", "azure", "hosted_vllm", "deepseek", "openrouter", "groq", "mistral")
USAGE: Json = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
ODD = "a\u2028b\u2029c\u0085d\u000be\u000cf"
DONE = "data: [DONE]\n\n"


def chunk(delta: Json | None = None, finish: str | None = None, **more: Any) -> Json:
    """A frame with one choice; `choice` is put into it, the rest beside it."""
    choice: Json = {"index": 0, "delta": delta, "finish_reason": finish} | more.pop("choice", {})
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    } | more


def event(said: Json, *, escaped: bool = True) -> str:
    """A frame on the wire."""
    return f"data: {json.dumps(said, ensure_ascii=escaped)}\n\n"


HELLO, STOP = chunk({"role": "assistant", "content": "Hello"}), chunk({}, "stop")


def stream(*said: Json | str, done: bool = True) -> list[str]:
    """The writes of a stream; text goes as it is."""
    writes = [one if isinstance(one, str) else event(one) for one in said]
    return [*writes, DONE] if done else writes


def whole(message: Json, finish: str | None = "stop", **more: Any) -> Json:
    """A whole answer; `choice` is put into its choice, the rest beside it."""
    choice = {"index": 0, "message": message, "finish_reason": finish} | more.pop("choice", {})
    made: Json = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return made | {"usage": USAGE} | more


def wire(text: str) -> str:
    """Its bytes, as the script takes them."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


async def played(sidecar: Sidecar, family: str, *writes: str) -> Answer:
    """A stream that the provider answers with these bytes."""
    return await sidecar.stream(family, str(uuid4()), do="raw", raw=[wire(one) for one in writes])


async def answered(sidecar: Sidecar, family: str, body: Json | str) -> Answer:
    """A whole answer of this body."""
    text = body if isinstance(body, str) else json.dumps(body)
    return await sidecar.chat(family, str(uuid4()), do="raw", raw=[wire(text)])


def frames(answer: Answer) -> list[Json]:
    """A stream's frames; the stream is whole."""
    assert answer.status == 200, answer.text
    assert answer.events[-1] == "[DONE]"
    found = [one for one in answer.events if isinstance(one, dict)]
    assert not any("error" in one for one in found)
    return found


def deltas(answer: Answer) -> list[Json]:
    """What a stream's frames add."""
    return [choice["delta"] for one in frames(answer) for choice in one["choices"]]


FINISHED: dict[str, list[str]] = {
    "usage in a frame with a choice": stream(HELLO, STOP, chunk({}, usage=USAGE)),
    "empty text": stream(HELLO, STOP, chunk({"content": ""})),
    "annotations": stream(HELLO, STOP, chunk(choice={"content_filter_offsets": {"check_offset": 1}})),
    "no choices": stream(HELLO, STOP, {"id": "c", "object": "chat.completion.chunk"}),
    "null choices": stream({"id": "c", "choices": None}, HELLO, STOP, chunk(choices=None, usage=USAGE)),
    "null delta": stream(HELLO, chunk(None, "stop")),
    "two ends": stream(HELLO, STOP, STOP, chunk({}, "length")),
    "empty reasons": stream(chunk({"content": "Hello"}, ""), STOP),
    "usage before the end": stream(HELLO, chunk(choices=[], usage=USAGE), STOP),
    "no done": stream(HELLO, STOP, done=False),
    "spaced done": stream(HELLO, STOP, "data:   [DONE]  \n\n", done=False),
    "comments": stream(
        ": OPENROUTER PROCESSING\n\n", HELLO, ": ping\n\nevent: message\nid: 7\nretry: 10\n", STOP
    ),
    "mark": stream("\ufeff", HELLO, STOP),
    "no space": [one.replace("data: ", "data:") for one in stream(HELLO, STOP)],
    "lines of one event": [one.replace('"choices"', '\ndata: "choices"') for one in stream(HELLO, STOP)],
    "carriage returns": [one.replace("\n", "\r") for one in stream(HELLO, STOP)],
    "no empty lines": [one.replace("\n\n", "\n") for one in stream(HELLO, STOP)],
    "bytes one by one": list("".join(stream(HELLO, STOP)).replace("\n", "\r\n")),
}


@pytest.mark.parametrize("how", FINISHED)
async def test_a_finished_stream_is_finished(sidecar: Sidecar, how: str) -> None:
    """Whatever follows the end, and however its bytes are laid out."""
    for answer in await asyncio.gather(*(played(sidecar, family, *FINISHED[how]) for family in OPENAI_S)):
        assert answer.content == "Hello"
        ends = [choice.get("finish_reason") for one in frames(answer) for choice in one["choices"]]
        assert [end for end in ends if end] == ["stop"]


@pytest.mark.parametrize(
    "writes",
    [
        stream(chunk({"content": "Hello"}, ""), chunk({"content": "!"}, ""), done=False),
        stream(chunk({"content": "Hello"}, ""), chunk({"content": "!"}, "")),
        stream(HELLO, chunk({}, "error")),
        stream(HELLO, chunk({"content": ""}, "stop", choice={"error": {"code": 502, "message": "Upstream"}})),
        stream(HELLO, chunk({}, "insufficient_system_resource")),
        stream(HELLO, {"error": {"code": 429, "message": "slow"}}, done=False),
        stream(HELLO, {"error": "overloaded"}),
        stream(HELLO, "event: error\ndata: overloaded\n\n", STOP),
        stream(HELLO, STOP, {"error": {"code": 500, "message": "late"}}),
        stream(HELLO, "data: {oops\n\n", STOP),
    ],
)
async def test_what_is_no_end_is_no_success(sidecar: Sidecar, writes: list[str]) -> None:
    """One error event, no [DONE]."""
    for answer in await asyncio.gather(*(played(sidecar, family, *writes) for family in OPENAI_S)):
        assert answer.status == 200
        last = answer.events[-1]
        assert isinstance(last, dict)
        assert last["error"]["code"] == CUT
        assert answer.content.startswith("Hello")


ANTHROPIC_S: tuple[tuple[str, Json], ...] = (
    (
        "message_start",
        {"message": {"id": "m", "role": "assistant", "content": [], "usage": {"input_tokens": 3}}},
    ),
    ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
    ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": ODD}}),
    ("content_block_stop", {"index": 0}),
    ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}),
    ("message_stop", {}),
)
OTHERS: dict[str, str] = {
    "anthropic": "".join(
        f"event: {kind}\ndata: {json.dumps({'type': kind} | said, ensure_ascii=False)}\n\n"
        for kind, said in ANTHROPIC_S
    ),
    "gemini": ": hello\n\nevent: message\n"
    + event({"candidates": [{"content": {"parts": [{"text": ODD}]}, "finishReason": "STOP"}]}, escaped=False),
    "ollama_chat": json.dumps(
        {"model": "m", "message": {"role": "assistant", "content": ODD}, "done": False}, ensure_ascii=False
    )
    + "\n"
    + json.dumps({"model": "m", "message": {"content": ""}, "done": True, "done_reason": "stop"})
    + "\n",
} | dict.fromkeys(OPENAI_S, event(chunk({"content": ODD}), escaped=False) + event(STOP) + DONE)


@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize("step", [1, 7, 10_000])
async def test_lines_end_at_line_ends_alone(sidecar: Sidecar, family: str, step: int) -> None:
    """Not at U+2028, U+2029, U+0085, U+000B, U+000C, wherever the bytes were cut."""
    sent = wire(OTHERS[family])
    pieces = [sent[at : at + step] for at in range(0, len(sent), step)]
    answer = await sidecar.stream(family, str(uuid4()), do="raw", raw=pieces)
    assert answer.content == ODD
    assert answer.events[-1] == "[DONE]"


FIRST: list[tuple[Json | str, int, str | None]] = [
    ({"error": {"code": 400, "message": "bad", "type": "invalid_request_error", "param": "n"}}, 400, None),
    ({"error": {"code": 429, "metadata": {"headers": {"Retry-After": "0.1"}}}}, 429, "0.1"),
    ({"error": {"message": "slow", "type": "rate_limit_error"}}, 429, None),
    ({"error": "Rate limit exceeded"}, 429, None),
    ({"object": "error", "message": "maximum context length is 8", "code": 400}, 400, None),
    ('event: error\ndata: {"message": "slow", "code": 429}\n\n', 429, None),
    (": keep-alive\n\nevent: error\ndata: overloaded\n\n", 529, None),
    (chunk({"content": ""}, "error", choice={"error": {"code": 503, "message": "away"}}), 503, None),
    (chunk({}, "error"), 502, None),
]


@pytest.mark.parametrize(("said", "status", "wait"), FIRST)
async def test_an_error_as_the_first_event_has_its_status(
    sidecar: Sidecar, said: Json | str, status: int, wait: str | None
) -> None:
    """As if the provider had answered with it: retries and fallbacks act on it, the gateway hears of it."""
    for family in OPENAI_S:
        answer = await played(sidecar, family, *stream(said))
        assert answer.status >= 400
        assert answer.headers["x-llmp-provider-status"] == str(status)
        assert answer.headers.get("x-llmp-retry-after") == wait


@pytest.mark.parametrize(
    ("family", "said", "status"),
    [
        (
            "anthropic",
            'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}}\n\n',
            529,
        ),
        (
            "anthropic",
            'event: error\ndata: {"type":"error","error":{"type":"rate_limit_error","message":"x"}}\n\n',
            429,
        ),
        ("gemini", 'data: {"error":{"code":400,"message":"x","status":"INVALID_ARGUMENT"}}\r\n\r\n', 400),
        ("ollama_chat", '{"error":"model requires more system memory"}\n', 500),
        ("text", 'data: {"error":{"code":429,"message":"x"}}\n\n', 429),
    ],
)
async def test_so_has_one_of_another_wire(sidecar: Sidecar, family: str, said: str, status: int) -> None:
    """Anthropic's, Google's, Ollama's."""
    if family == "text":
        prompt = f"{uuid4()} {json.dumps({'do': 'raw', 'raw': [said]})}"
        answer = await sidecar.post("/v1/completions", {"model": "text", "prompt": prompt, "stream": True})
    else:
        answer = await played(sidecar, family, said)
    assert answer.status >= 400
    assert answer.headers["x-llmp-provider-status"] == str(status)


async def test_fallbacks_act_on_an_error_as_the_first_event(sidecar: Sidecar) -> None:
    """A stream that failed before its first word is another model's to answer."""
    mark, failed = str(uuid4()), stream({"error": {"code": 503, "message": "away"}})
    answer = await sidecar.stream("first", mark, do="raw", raw=failed)
    models = {call["model"] for call in await sidecar.provider.calls(mark)}
    assert models == {"first", "second"}
    assert answer.status >= 500


async def test_two_tools_of_ollama_are_two(sidecar: Sidecar) -> None:
    """Called in frames of their own, which have no index."""
    calls = [{"function": {"name": name, "arguments": {"city": name}}} for name in ("a", "b")]
    lines = [
        {"model": "m", "message": {"role": "assistant", "content": "", "tool_calls": [one]}, "done": False}
        for one in calls
    ]
    end = {"model": "m", "message": {"content": ""}, "done": True, "done_reason": "stop"}
    answer = await played(sidecar, "ollama_chat", *(json.dumps(one) + "\n" for one in [*lines, end]))
    found: list[Json] = [call for delta in deltas(answer) for call in delta.get("tool_calls", ())]
    assert [(call["index"], call["function"]["name"]) for call in found] == [(0, "a"), (1, "b")]


TORN = {
    "openai": [
        r'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%s"}}]}' + "\n\n",
        event(STOP) + DONE,
    ],
    "groq": [
        r'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%s"}}]}' + "\n\n",
        event(STOP) + DONE,
    ],
    "gemini": [
        r'data: {"candidates":[{"content":{"parts":[{"text":"%s"}]}}]}' + "\n\n",
        'data: {"candidates":[{"content":{"parts":[{"text":""}]},"finishReason":"STOP"}]}\n\n',
    ],
    "ollama_chat": [
        r'{"model":"m","message":{"role":"assistant","content":"%s"},"done":false}' + "\n",
        '{"model":"m","message":{"content":""},"done":true,"done_reason":"stop"}\n',
    ],
}


@pytest.mark.parametrize("family", TORN)
async def test_torn_characters_are_joined_or_replaced(sidecar: Sidecar, family: str) -> None:
    """A surrogate pair over two frames is a character; half of one is U+FFFD."""
    frame, end = TORN[family]
    for halves, text in (
        (("a\\ud83d", "\\ude00b"), "a\U0001f600b"),
        (("a\\ud83d", "b\\ude00c"), "a\ufffdb\ufffdc"),
    ):
        answer = await played(sidecar, family, *(frame % half for half in halves), end)
        assert answer.content == text
        assert answer.events[-1] == "[DONE]"


@pytest.mark.parametrize("family", OPENAI_S)
async def test_what_a_provider_adds_arrives_in_both_modes(sidecar: Sidecar, family: str) -> None:
    """Beside the text, in the choice, beside the choices."""
    added: Json = {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}
    results, prompt = {"hate": {"filtered": False}}, [{"prompt_index": 0}]
    streamed = deltas(await played(sidecar, family, *stream(chunk(added), HELLO, STOP)))
    assert added["reasoning_details"] in [delta.get("reasoning_details") for delta in streamed]
    thought = [{"type": "thinking", "thinking": "hm", "signature": "s"}]
    said = whole(
        {"role": "assistant", "content": "Hello", "thinking_blocks": thought} | added,
        choice={"content_filter_results": results},
        prompt_filter_results=prompt,
        usage=USAGE | {"queue_time": 0.5},
    )
    told = (await answered(sidecar, family, said)).json
    message = told["choices"][0]["message"]
    assert message["reasoning_details"] == added["reasoning_details"]
    assert message["thinking_blocks"] == thought
    assert told["choices"][0]["content_filter_results"] == results
    assert told["prompt_filter_results"] == prompt
    assert told["usage"]["queue_time"] == 0.5


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
    "mark": "\ufeff" + json.dumps(whole({"content": "Hello"})),
}


@pytest.mark.parametrize("how", GOOD)
async def test_an_answer_that_lacks_what_is_optional_is_one(sidecar: Sidecar, how: str) -> None:
    """Missing, null, or of another type."""
    for answer in await asyncio.gather(*(answered(sidecar, family, GOOD[how]) for family in OPENAI_S)):
        assert answer.status == 200, answer.text
        [choice] = answer.json["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("Hello", "stop")
        assert choice["message"]["role"] == "assistant"


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
async def test_so_is_one_of_another_wire_without_usage(sidecar: Sidecar, family: str, body: Json) -> None:
    """No usage is told, or LiteLLM's own count, marked; never zeros."""
    answer = await answered(sidecar, family, body)
    assert answer.status == 200, answer.text
    assert answer.json["choices"][0]["message"]["content"] == "Hello"
    assert answer.json.get("usage", {"llmp_counted": True})["llmp_counted"]


@pytest.mark.parametrize("family", OPENAI_S)
async def test_a_stated_zero_stays(sidecar: Sidecar, family: str) -> None:
    """In both modes."""
    zero = dict.fromkeys(USAGE, 0)
    told = (await answered(sidecar, family, whole({"content": "Hello"}, usage=zero))).json
    assert told["usage"] | zero == told["usage"]
    streamed = frames(await played(sidecar, family, *stream(HELLO, STOP, chunk(choices=[], usage=zero))))
    assert [one["usage"]["total_tokens"] for one in streamed if one.get("usage")] == [0]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (whole({"content": ""}, "error"), 502),
        (whole({"content": "He"}, "stop", choice={"error": {"code": 429, "message": "slow"}}), 429),
        ({"error": {"code": 503, "message": "away"}}, 503),
        ({"error": "boom"}, 500),
    ],
)
async def test_a_failure_in_a_whole_answer_is_one(sidecar: Sidecar, body: Json, status: int) -> None:
    """It is no answer, and nobody keeps it."""
    for family in OPENAI_S:
        answer = await answered(sidecar, family, body)
        assert answer.status >= 400
        assert answer.headers["x-llmp-provider-status"] == str(status)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("eos", "stop"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("odd", "odd"),
    ],
)
@pytest.mark.parametrize("family", ["openai", "groq", "openrouter"])
async def test_finish_reasons_are_the_same_in_both_modes(
    sidecar: Sidecar, family: str, said: str, expected: str
) -> None:
    """The nearest of OpenAI's; one that nobody knows is the provider's own."""
    streamed = frames(await played(sidecar, family, *stream(HELLO, chunk({}, said))))
    ends = [choice.get("finish_reason") for one in streamed for choice in one["choices"]]
    assert [end for end in ends if end] == [expected]
    told = (await answered(sidecar, family, whole({"content": "Hello"}, said))).json
    assert told["choices"][0]["finish_reason"] == expected


@pytest.mark.parametrize("family", ["openai", "anthropic", "gemini", "ollama_chat"])
@pytest.mark.parametrize("piece", ["\x00\xff\xfe" * 40, "data: " + "x" * 60, "{" * 60 + "\n", "data: {\n"])
async def test_garbage_is_an_error(sidecar: Sidecar, family: str, piece: str) -> None:
    """Bytes that are no text, frames without an end: a clean error, whole or streamed."""
    for answer in (
        await sidecar.stream(family, str(uuid4()), do="raw", raw=[piece] * 20, repeat=100),
        await sidecar.chat(family, str(uuid4()), do="raw", raw=[piece], repeat=10),
    ):
        assert answer.status == 200 or answer.status >= 400
        failed = answer.events[-1] if answer.status == 200 else answer.json
        assert isinstance(failed, dict)
        assert "error" in failed


@pytest.mark.parametrize("mode", ["stream", "chat"])
@pytest.mark.parametrize(
    ("family", "said", "noted"),
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
    said: str,
    noted: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """Where it says more than the one the caller reads."""
    call_id, streamed = uuid4(), mode == "stream"
    if family == "gemini":
        candidate = {"content": {"parts": [{"text": "Hello"}]}, "finishReason": said}
        text = json.dumps({"candidates": [candidate], "usageMetadata": {"promptTokenCount": 3}})
        raw = [f"data: {text}\n\n"] if streamed else [text]
    else:
        raw = stream(HELLO, chunk({}, said)) if streamed else [json.dumps(whole({"content": "Hello"}, said))]
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
    assert [row["normalized_error"] for row in rows] == [f"finish_reason: {said}" if noted else None]
