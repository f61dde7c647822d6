"""Streams as providers really send them, beyond their documents, through a real LiteLLM.

A complete stream arrives as sent, any other ends in an error. The scripted provider sends the bytes.
"""

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest
from odd_provider_answers import (
    DONE,
    HELLO,
    ODD,
    OPENAI_S,
    STOP,
    USAGE,
    chunk,
    deltas,
    event,
    frames,
    played,
    stream,
    wire,
)
from sidecar_parts import needs_parts
from sidecars import CUT, Answer, Json, Sidecar

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


@needs_parts("frames")
@pytest.mark.parametrize("how", FINISHED)
async def test_a_complete_stream_is_complete(sidecar: Sidecar, how: str) -> None:
    """Whatever follows its end, and however its bytes are chunked."""
    for answer in await asyncio.gather(*(played(sidecar, family, *FINISHED[how]) for family in OPENAI_S)):
        assert answer.content == "Hello"
        ends = [choice.get("finish_reason") for one in frames(answer) for choice in one["choices"]]
        assert [end for end in ends if end] == ["stop"]


@needs_parts("frames")
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
async def test_a_stream_without_an_end_is_an_error(sidecar: Sidecar, writes: list[str]) -> None:
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
        f"event: {kind}\ndata: {json.dumps({'type': kind} | sent, ensure_ascii=False)}\n\n"
        for kind, sent in ANTHROPIC_S
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
async def test_lines_end_at_cr_and_lf_only(sidecar: Sidecar, family: str, step: int) -> None:
    """Not at U+2028, U+2029, U+0085, U+000B, U+000C, however the bytes are chunked."""
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


@pytest.mark.parametrize(("sent", "status", "wait"), FIRST)
async def test_an_error_as_the_first_event_is_an_error_status(
    sidecar: Sidecar, sent: Json | str, status: int, wait: str | None
) -> None:
    """Retries and fallbacks apply, and the gateway gets the status."""
    for answer in await asyncio.gather(*(played(sidecar, family, *stream(sent)) for family in OPENAI_S)):
        assert answer.status >= 400
        assert answer.headers["x-llmp-provider-status"] == str(status)
        assert answer.headers.get("x-llmp-retry-after") == wait


@pytest.mark.parametrize(
    ("family", "sent", "status"),
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
async def test_an_error_as_the_first_event_of_another_format(
    sidecar: Sidecar, family: str, sent: str, status: int
) -> None:
    """Anthropic's, Google's, Ollama's."""
    if family == "text":
        prompt = f"{uuid4()} {json.dumps({'do': 'raw', 'raw': [sent]})}"
        answer = await sidecar.post("/v1/completions", {"model": "text", "prompt": prompt, "stream": True})
    else:
        answer = await played(sidecar, family, sent)
    assert answer.status >= 400
    assert answer.headers["x-llmp-provider-status"] == str(status)


@needs_parts("frames")
@pytest.mark.parametrize("family", ["openai", "hosted_vllm", "anthropic", "gemini", "ollama_chat"])
async def test_control_characters_are_accepted(sidecar: Sidecar, family: str) -> None:
    """JSON forbids them in a text, providers send them."""
    bare = OTHERS[family].replace("\\u000b", "\u000b").replace("\\f", "\u000c")
    assert bare != OTHERS[family]
    assert (await played(sidecar, family, bare)).content == ODD


@pytest.mark.parametrize("stated", ["null", '""', None])
@pytest.mark.parametrize("stopped", [False, True])
async def test_anthropic_s_end_without_a_reason_is_an_error(
    sidecar: Sidecar,
    stated: str | None,
    stopped: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """Unless the event says that the message stopped."""
    reason = '"stop_reason": "end_turn"'
    raw = OTHERS["anthropic"].replace(
        reason, f'"stop_reason": {stated}' if stated else '"stop_sequence": null'
    )
    assert raw != OTHERS["anthropic"]
    if not stopped:
        raw = raw[: raw.index("event: message_stop")]
    answer = await played(sidecar, "anthropic", raw)
    assert answer.content == ODD
    assert (answer.events[-1] == "[DONE]") is stopped
    assert ("error" in answer.text) is not stopped


async def test_fallbacks_act_on_an_error_as_the_first_event(sidecar: Sidecar) -> None:
    """A stream that failed before its first text is answered by another group."""
    mark, failed = str(uuid4()), stream({"error": {"code": 503, "message": "away"}})
    answer = await sidecar.stream("first", mark, do="raw", raw=failed)
    models = {call["model"] for call in await sidecar.provider.calls(mark)}
    assert models == {"first", "second"}
    assert answer.status >= 500


async def test_two_tool_calls_of_ollama_have_two_indices(sidecar: Sidecar) -> None:
    """They come in frames of their own, without an index."""
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
async def test_split_surrogate_pairs_are_joined(sidecar: Sidecar, family: str) -> None:
    """A single half becomes U+FFFD."""
    frame, end = TORN[family]
    for halves, text in (
        (("a\\ud83d", "\\ude00b"), "a\U0001f600b"),
        (("a\\ud83d", "b\\ude00c"), "a\ufffdb\ufffdc"),
    ):
        answer = await played(sidecar, family, *(frame % half for half in halves), end)
        assert answer.content == text
        assert answer.events[-1] == "[DONE]"


def text_chunk(index: int | None, text: str | None, finish: str | None = None, **more: Any) -> Json:
    """Return a frame of a text completion."""
    choice = {"index": index, "text": text, "finish_reason": finish} | more
    return {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}


async def text_completion(sidecar: Sidecar, group: str, writes: list[str]) -> Answer:
    """Return a streamed text completion."""
    directive = json.dumps({"do": "raw", "raw": [wire(one) for one in writes]})
    options = {"stream": True, "stream_options": {"include_usage": True}}
    body = {"model": group, "prompt": f"{uuid4()} {directive}", "n": 2}
    return await sidecar.post("/v1/completions", body | options)


PROBS: Json = {"tokens": ["B"], "token_logprobs": [-0.5], "top_logprobs": [{"B": -0.5}], "text_offset": [0]}


@pytest.mark.parametrize("group", ["text", "hosted_vllm"])
async def test_each_choice_of_a_text_completion_is_complete(sidecar: Sidecar, group: str) -> None:
    """Index, finish reason and logprobs of each; two in one frame; split surrogate pairs."""
    both = text_chunk(0, "H") | {
        "choices": [text_chunk(0, "H")["choices"][0], text_chunk(1, "B", logprobs=PROBS)["choices"][0]]
    }
    half, rest = text_chunk(1, "\ud83d"), text_chunk(1, "\ude00")
    ends = (text_chunk(1, "", "length"), text_chunk(0, "i", "stop"), text_chunk(0, "", None))
    counted: Json = text_chunk(0, "")
    counted |= {"choices": [], "usage": USAGE}
    answer = await text_completion(
        sidecar, group, stream(both, half, text_chunk(0, "ell"), rest, *ends, counted)
    )
    received = frames(answer)
    choices = [choice for one in received for choice in one["choices"]]
    texts = {at: "".join(one["text"] for one in choices if one["index"] == at) for at in (0, 1)}
    assert texts == {0: "Helli", 1: "B\U0001f600"}
    assert {one["index"]: one["finish_reason"] for one in choices if one["finish_reason"]} == {
        0: "stop",
        1: "length",
    }
    assert [one["logprobs"] for one in choices if one.get("logprobs")] == [PROBS]
    assert {one["object"] for one in received} == {"text_completion"}
    assert {one["model"] for one in received} == {group}
    assert [one["usage"]["total_tokens"] for one in received if one.get("usage")] == [5]


@needs_parts("frames")
@pytest.mark.parametrize("group", ["text", "hosted_vllm"])
@pytest.mark.parametrize(
    "writes",
    [
        stream(text_chunk(0, "Hello"), text_chunk(1, "B"), text_chunk(0, "", "stop")),
        stream(text_chunk(0, "Hello"), text_chunk(0, "", ""), done=False),
        stream(text_chunk(0, "Hello"), text_chunk(0, "", "error")),
        stream(text_chunk(0, "Hello"), {"error": {"code": 429, "message": "slow"}}),
        stream(text_chunk(0, "Hello"), "data: {oops\n\n", text_chunk(0, "", "stop")),
    ],
)
async def test_a_truncated_text_completion_is_an_error_event(
    sidecar: Sidecar, group: str, writes: list[str]
) -> None:
    """One error event, no [DONE]."""
    last = (await text_completion(sidecar, group, writes)).events[-1]
    assert isinstance(last, dict)
    assert last["error"]["code"] == CUT


@needs_parts("frames")
@pytest.mark.parametrize(
    ("raw", "repeat"),
    [
        (["data:{\n", "data:}\n"], 40_000),
        (["data:{\n", "data:\n"], 200_000),
        ([": " + "x" * 1000 + "\n"], 36_000),
    ],
)
async def test_an_event_without_an_end_is_bounded(sidecar: Sidecar, raw: list[str], repeat: int) -> None:
    """It ends in an error, after work linear in its length."""
    async with asyncio.timeout(15):
        answer = await sidecar.stream("lone", str(uuid4()), do="raw", raw=raw, repeat=repeat)
    if answer.status == 200:
        last = answer.events[-1]
        assert isinstance(last, dict)
        assert "error" in last
    assert answer.status == 200 or answer.status >= 500
