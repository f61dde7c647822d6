"""Which frames are plain: those that an answer's row and price take nothing from but counts, tier and id."""

from typing import Any

import pytest

from llm_proxy.sidecar.direct_frames import is_plain

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
