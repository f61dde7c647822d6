"""A stream that the provider breaks ends as an error behind a real LiteLLM, for every provider.

The scripted provider closes or resets the connection, ends the body early or within a frame, sends a frame
that is not JSON, an error in place of a frame, or nothing.
"""

import asyncio
import time
from uuid import uuid4

import asyncpg
import pytest
from sidecar_parts import needs_parts
from sidecars import CUT, Answer, Json, Sidecar

FAMILIES = ("openai", "anthropic", "gemini", "ollama_chat", "hosted_vllm")
BREAKS = ("cut", "reset", "eof", "garbage", "half-frame", "error-in-200", "silence")
AFTER = 5
MOCKED = "a text of the file"


def assert_broken(answer: Answer) -> None:
    """Asserts content, then one error event as the last event, without a finish reason and [DONE]."""
    assert answer.status == 200
    *before, last = answer.events
    assert isinstance(last, dict)
    assert last["error"]["code"] == CUT
    assert answer.content
    for event in before:
        assert isinstance(event, dict), "[DONE]"
        assert "error" not in event
        assert not any(choice.get("finish_reason") for choice in event["choices"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", BREAKS)
async def test_a_truncated_stream_is_an_error(sidecar: Sidecar, family: str, how: str) -> None:
    """The next call asks the provider again: nothing was cached."""
    mark = f"{how}-{family}-{uuid4()}"
    for _ in range(2):
        started = time.monotonic()
        assert_broken(await sidecar.stream(family, mark, do=how, after=AFTER, frames=9))
        assert time.monotonic() - started < 8
    assert len(await sidecar.provider.calls(mark)) == 2


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_complete_stream_is_complete(sidecar: Sidecar, family: str) -> None:
    """The whole text, one finish reason, the provider's usage, [DONE]."""
    mark, text = f"whole-{family}-{uuid4()}", "all of it, to the end"
    answer = await sidecar.stream(family, mark, do="ok", text=text)
    assert answer.content == text
    assert answer.events[-1] == "[DONE]"
    chunks = [event for event in answer.events if isinstance(event, dict)]
    assert [c["finish_reason"] for e in chunks for c in e["choices"] if c.get("finish_reason")] == ["stop"]
    assert [e["usage"]["completion_tokens"] for e in chunks if e.get("usage")] == [23]


async def test_a_stream_may_last_longer_than_its_timeout(sidecar: Sidecar) -> None:
    """Which is for the silence between two frames: 1.5 s here, of streams of 2.4 s, one of each family."""
    for _ in range(2):  # the first teaches the sidecar the request; the second may be direct
        slow: Json = {"do": "ok", "frames": 8, "gap_ms": 300}
        streams = [sidecar.stream(family, str(uuid4()), **slow) for family in FAMILIES]
        for answer in await asyncio.gather(*streams):
            assert answer.events[-1] == "[DONE]", answer.text
            assert len([event for event in answer.events if isinstance(event, dict)]) >= 8


async def test_a_finish_reason_without_done_ends_a_stream(sidecar: Sidecar) -> None:
    """Some servers send no [DONE]."""
    answer = await sidecar.stream("openai", f"no-done-{uuid4()}", do="no-done")
    assert answer.events[-1] == "[DONE]"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", ["not-sse", "empty"])
async def test_a_response_without_a_stream_is_an_error_status(
    sidecar: Sidecar, family: str, how: str
) -> None:
    """HTML or an empty body in place of a stream is a 5xx, not an empty success."""
    answer = await sidecar.stream(family, f"{how}-{uuid4()}", do=how)
    assert answer.status == 502
    assert "error" in answer.json


@pytest.mark.parametrize("how", BREAKS)
async def test_a_truncated_text_completion_is_an_error(sidecar: Sidecar, how: str) -> None:
    """The same for `/v1/completions`."""
    prompt = f'{uuid4()} {{"do": "{how}", "after": 3}}'
    answer = await sidecar.post("/v1/completions", {"model": "text", "prompt": prompt, "stream": True})
    last = answer.events[-1]
    assert isinstance(last, dict)
    assert last["error"]["code"] == CUT


@needs_parts("frames")
@pytest.mark.parametrize("model", ["mocked", "mocked-away"])
async def test_the_stream_of_a_mock_is_complete(sidecar: Sidecar, model: str) -> None:
    """A `mock_response`, of the model called or of its fallback: each choice has its text and one end."""
    answer = await sidecar.stream(model, str(uuid4()), fields={"n": 2})
    assert answer.events[-1] == "[DONE]"
    for choices in _choices_of_two(answer):
        deltas = [one["delta"] for one in choices]
        assert "".join(delta.get("content") or "" for delta in deltas) == MOCKED
        assert [delta["role"] for delta in deltas if delta.get("role")] == ["assistant"]
        assert [one["finish_reason"] for one in choices if one["finish_reason"]] == ["stop"]


@needs_parts("frames")
async def test_the_text_completion_of_a_mock_is_complete(sidecar: Sidecar) -> None:
    """The same for `/v1/completions`."""
    body = {"model": "mocked", "prompt": str(uuid4()), "stream": True, "n": 2}
    answer = await sidecar.post("/v1/completions", body)
    assert answer.events[-1] == "[DONE]"
    for choices in _choices_of_two(answer):
        assert "".join(one["text"] for one in choices) == MOCKED
        assert [one["finish_reason"] for one in choices if one["finish_reason"]] == ["stop"]


def _choices_of_two(answer: Answer) -> list[list[Json]]:
    found = [one for event in answer.events if isinstance(event, dict) for one in event["choices"]]
    told = [one for one in found if "text" in one or one["delta"] or one.get("finish_reason")]
    return [[one for one in told if one["index"] == index] for index in (0, 1)]


async def test_a_truncated_stream_is_logged_as_failed(sidecar: Sidecar, call_log_dsn: str) -> None:
    """With the tokens counted so far, under the call's id."""
    call_id = uuid4()
    body = {
        "model": "openai",
        "messages": [{"role": "user", "content": '{"do": "eof", "after": 4}'}],
        "stream": True,
    }
    await sidecar.post("/v1/chat/completions", body, **{"x-litellm-call-id": str(call_id)})
    connection = await asyncpg.connect(call_log_dsn)
    try:
        async with asyncio.timeout(10):
            query = "SELECT * FROM llm_calls WHERE call_id = $1"
            while not (rows := await connection.fetch(query, call_id)):  # noqa: ASYNC110 -- a database has no event
                await asyncio.sleep(0.2)  # the row is written in the background
    finally:
        await connection.close()
    assert [row["status"] for row in rows] == ["failure"]
    assert rows[0]["deployment"] == "openai"
