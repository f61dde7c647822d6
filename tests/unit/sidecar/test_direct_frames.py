"""Which frames are plain: those that an answer's row and price take nothing from but counts, tier and id."""

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import orjson
import pytest

from llm_proxy.sidecar.direct_frames import is_plain, read_plain
from llm_proxy.sidecar.json_repair import encode, repair_frame_data
from llm_proxy.sidecar.openai_repair import StreamRepair, informative_finish_reason
from llm_proxy.sidecar.provider_errors import find_failure

Json = dict[str, Any]
USAGE: Json = {
    "prompt_tokens": 9,
    "completion_tokens": 3,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": None},
    "completion_tokens_details": {"reasoning_tokens": 1, "audio_tokens": 0},
}
CALL: Json = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{"}}


def frame(delta: Json, choice: Json | None = None, **more: object) -> Json:
    """A frame of OpenAI's, repaired."""
    choices = [{"index": 0, "delta": delta, "finish_reason": None} | (choice or {})]
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return head | {"choices": choices} | more


@pytest.mark.parametrize(
    "chunk",
    [
        frame({"role": "assistant", "content": "", "refusal": None}),
        frame({"content": "a"}, system_fingerprint=None, service_tier="flex", obfuscation="x"),
        frame({"refusal": "no"}, {"finish_reason": "stop", "logprobs": None}),
        frame({"tool_calls": [CALL]}),
        frame({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}),
        frame({}, choices=[], usage=USAGE),
        frame({}, choices=[], usage={name: USAGE[name] for name in list(USAGE)[:3]}),
    ],
)
def test_frames_of_openai_are_plain(chunk: Json) -> None:
    """Texts, calls of functions and counts."""
    assert is_plain(chunk)


@pytest.mark.parametrize(
    "chunk",
    [
        frame({"reasoning_content": "a"}),
        frame({"annotations": [{"type": "url_citation"}]}),
        frame({"audio": {"id": "a"}}),
        frame({"content": 5}),
        frame({"tool_calls": [CALL | {"type": "custom"}]}),
        frame({"tool_calls": [{"index": 0, "id": "c"}]}),
        frame({}, {"logprobs": {"content": []}}),
        frame({}, {"content_filter_results": {}}),
        frame({}, citations=[]),
        frame({}, id=""),
        frame({}, created=1.5),
        frame({}, object="text_completion"),
        frame({}, system_fingerprint="fp_ollama"),
        frame({}, service_tier=1),
        *(
            frame({}, usage=USAGE | odd)
            for odd in (
                {"cost": 0.1},
                {"completion_tokens": None},
                {"prompt_tokens": -1},
                {"prompt_tokens": True},
                {"cache_read_input_tokens": 1},
                {"prompt_tokens_details": {"web_search_requests": 1}},
                {"completion_tokens_details": {"text_tokens": 1}},
                {"completion_tokens_details": [1]},
            )
        ),
    ],
)
def test_others_are_litellm_s(chunk: Json) -> None:
    """A field that a row or a price may depend on, or that LiteLLM may not parse."""
    assert not is_plain(chunk)


ODD: list[Any] = [
    *(None, True, 0, -1, 2**70, 1.0, 1.5, float("inf"), "", "ab", "stop", "end_turn", "error"),
    *("\u00e4\ud83d\ude00", "\ud83d", [], ["a"], [{"text": "a"}], [CALL], {}, {"a": 1}),
    [{"id": "c", "function": {"name": "f", "arguments": ""}}],
]
PLACES: dict[tuple[str, ...], tuple[str, ...]] = {
    (): (
        *("id", "object", "created", "model", "choices", "usage", "service_tier", "system_fingerprint"),
        *("obfuscation", "error", "citations"),
    ),
    ("choices",): ("index", "delta", "finish_reason", "logprobs", "error", "message"),
    ("choices", "delta"): ("role", "content", "refusal", "reasoning", "reasoning_content", "tool_calls"),
    ("usage",): (*USAGE, "cost", "cached_tokens", "service_tier"),
    ("usage", "prompt_tokens_details"): ("cached_tokens", "web_search_requests"),
}
"""Where a frame may differ from OpenAI's -> the names there."""


def odd_frames() -> Iterator[Json]:
    """Frames with one value that is not OpenAI's."""
    for place, names in PLACES.items():
        for name, value in product(names, ODD):
            chunk = frame({"content": "a"}, usage=json.loads(json.dumps(USAGE)))
            found: Any = chunk
            for part in place:
                found = found[part][0] if part == "choices" else found[part]
            found[name] = value
            yield chunk


def test_what_is_read_at_once_is_what_is_repaired() -> None:
    """It states no failure, and is sent as the other way sends it."""
    for given in odd_frames():
        text = json.dumps(given)
        found = read_plain(f"data: {text}".encode())
        if found is not None:
            chunk = json.loads(repair_frame_data(text))
            assert find_failure(chunk) is None
            assert not any(informative_finish_reason(one.get("finish_reason")) for one in chunk["choices"])
            StreamRepair().repair_chunk(chunk)
            assert orjson.dumps(found | {"model": "m"}) == encode(chunk | {"model": "m"})


@pytest.mark.parametrize(
    "chunk",
    [
        frame({"role": "assistant", "content": "", "refusal": None}, usage=None),
        frame({"content": "\u00e4\ud83d\ude00 1e999 NaN"}, service_tier="default", obfuscation="x"),
        frame({}, {"finish_reason": "length"}),
        frame({}, choices=[], usage=USAGE),
    ],
)
def test_usual_frames_are_read_at_once(chunk: Json) -> None:
    """Those of OpenAI."""
    assert read_plain(b"data: " + json.dumps(chunk).encode()) is not None
