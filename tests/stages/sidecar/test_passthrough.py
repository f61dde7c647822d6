"""The provider's answer arrives as sent: choices, tools, refusals, probabilities, counts."""

from typing import Literal
from uuid import uuid4

import pytest
from sidecars import Answer, Json, Mode, Sidecar

TOOLS: Json = {
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
}
COUNTS: Json = {"prompt_tokens": 31, "completion_tokens": 29, "cached_tokens": 5, "reasoning_tokens": 3}


def chunks(answer: Answer) -> list[Json]:
    """Return the events of a stream without [DONE]."""
    return [event for event in answer.events if isinstance(event, dict)]


def choices(answer: Answer) -> list[Json]:
    """Return all choices of all chunks."""
    return [choice for chunk in chunks(answer) for choice in chunk["choices"]]


def mark() -> str:
    """A prompt of its own."""
    return str(uuid4())


@pytest.mark.parametrize("family", ["openai", "hosted_vllm"])
async def test_only_the_model_s_name_changes_in_a_frame(sidecar: Sidecar, family: str) -> None:
    """Ids, times, fingerprint, nulls and order stay the provider's."""
    answer = await sidecar.stream(family, mark(), fields={"logprobs": True}, do="ok", frames=3)
    first, *_, last = chunks(answer)
    assert first["model"] == family
    assert first["created"] == 1_790_000_000
    assert first["system_fingerprint"] == "fp_scripted"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert "usage" not in first
    assert last["choices"] == []
    probs = [choice["logprobs"]["content"][0] for choice in choices(answer) if choice.get("logprobs")]
    assert [p["logprob"] for p in probs] == [-0.25] * 3


async def test_every_choice_of_a_stream_ends(sidecar: Sidecar) -> None:
    """LiteLLM drops the ends of all but the first."""
    answer = await sidecar.stream("openai", mark(), fields={"n": 3}, do="ok", frames=4)
    ends = {choice["index"]: choice["finish_reason"] for choice in choices(answer) if choice["finish_reason"]}
    assert ends == {0: "stop", 1: "stop", 2: "stop"}
    texts = {
        at: "".join(c["delta"].get("content") or "" for c in choices(answer) if c["index"] == at)
        for at in ends
    }
    assert len(set(texts.values())) == 3


async def test_a_stream_with_one_truncated_choice_is_an_error(sidecar: Sidecar) -> None:
    """One finished choice does not finish the others."""
    answer = await sidecar.stream("openai", mark(), fields={"n": 2}, do="eof", after=6, frames=4)
    assert "error" in chunks(answer)[-1]


async def test_a_refusal_is_streamed(sidecar: Sidecar) -> None:
    """In pieces."""
    answer = await sidecar.stream("openai", mark(), do="refusal")
    received = "".join(choice["delta"].get("refusal") or "" for choice in choices(answer))
    assert received == "I will not say that."


async def test_a_complete_refusal_is_in_the_message(sidecar: Sidecar) -> None:
    """Not in LiteLLM's own fields."""
    message = (await sidecar.chat("openai", mark(), do="refusal")).json["choices"][0]["message"]
    assert message["refusal"] == "I will not say that."
    assert message["content"] is None


@pytest.mark.parametrize("family", ["openai", "anthropic", "gemini"])
async def test_tool_calls_are_complete(sidecar: Sidecar, family: str) -> None:
    """Two calls, their arguments in pieces, the finish reason tool_calls."""
    answer = await sidecar.stream(family, mark(), fields=TOOLS, do="tools")
    calls: dict[int, str] = {}
    for choice in choices(answer):
        pieces: list[Json] = choice["delta"].get("tool_calls") or []
        for call in pieces:
            calls[call["index"]] = calls.get(call["index"], "") + (call["function"].get("arguments") or "")
    assert [value.replace(" ", "") for value in calls.values()] == ['{"city":"Oslo"}', '{"city":"Turku"}']
    assert [c["finish_reason"] for c in choices(answer) if c.get("finish_reason")] == ["tool_calls"]
    whole = (await sidecar.chat(family, mark(), fields=TOOLS, do="tools")).json["choices"][0]
    assert [call["function"]["name"] for call in whole["message"]["tool_calls"]] == ["weather", "weather"]


@pytest.mark.parametrize("family", ["openai", "anthropic", "gemini"])
async def test_token_counts_are_the_provider_s(sidecar: Sidecar, family: str) -> None:
    """Cached and reasoning tokens included, where the format states them."""
    usage = [
        c["usage"] for c in chunks(await sidecar.stream(family, mark(), do="ok", **COUNTS)) if c.get("usage")
    ]
    whole = (await sidecar.chat(family, mark(), do="ok", **COUNTS)).json["usage"]
    for found in (*usage, whole):
        assert (found["prompt_tokens"], found["completion_tokens"]) == (31, 29)
        assert found["prompt_tokens_details"]["cached_tokens"] == 5
        if family != "anthropic":
            assert found["completion_tokens_details"]["reasoning_tokens"] == 3
    assert len(usage) == 1
    assert usage[0]["cost"] > 0


@pytest.mark.parametrize(
    ("family", "mode", "marked"),
    [
        ("openai", "stream", True),
        ("hosted_vllm", "stream", True),
        ("ollama_chat", "stream", True),
        ("ollama_chat", "chat", True),
        ("openai", "chat", None),
        ("hosted_vllm", "chat", None),
    ],
)
async def test_counts_of_litellm_are_marked(
    sidecar: Sidecar, family: str, mode: Mode, marked: Literal[True] | None
) -> None:
    """Where the server states none; stated counts have no mark; without any count there is no usage."""
    for counted in (False, True):
        answer = await sidecar.ask(mode, family, mark(), do="ok", counted=counted)
        received = chunks(answer) if mode == "stream" else [answer.json]
        usages: list[Json] = [one["usage"] for one in received if "usage" in one]
        assert [usage.get("llmp_counted") for usage in usages] == (
            [None] if counted else [marked] * bool(marked)
        )
        assert all(usage["prompt_tokens"] for usage in usages)


async def test_usage_is_sent_only_if_requested(sidecar: Sidecar) -> None:
    """LiteLLM always requests it from the provider."""
    answer = await sidecar.stream("openai", mark(), fields={"stream_options": None}, do="ok")
    assert not [chunk for chunk in chunks(answer) if "usage" in chunk]
    assert answer.events[-1] == "[DONE]"


async def test_an_answer_has_the_requested_alias_as_its_model(sidecar: Sidecar) -> None:
    """Streamed or not."""
    assert (await sidecar.chat("nickname", mark())).json["model"] == "nickname"
    assert {chunk["model"] for chunk in chunks(await sidecar.stream("nickname", mark()))} == {"nickname"}


async def test_a_chat_model_serves_text_completions(sidecar: Sidecar) -> None:
    """LiteLLM translates."""
    body: Json = {"model": "openai", "prompt": mark(), "stream": True}
    answer = await sidecar.post("/v1/completions", body)
    assert answer.events[-1] == "[DONE]"
    assert "".join(choice.get("text") or "" for choice in choices(answer))


async def test_several_choices_and_their_probabilities_are_complete(sidecar: Sidecar) -> None:
    """In one answer."""
    fields: Json = {"n": 2, "logprobs": True, "top_logprobs": 1}
    answer = (await sidecar.chat("openai", mark(), fields=fields, do="ok", frames=2)).json
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert all(len(choice["logprobs"]["content"]) == 2 for choice in answer["choices"])
    assert answer["system_fingerprint"] == "fp_scripted"
    assert answer["service_tier"] == "default"
