"""Speech from outside: bytes and events as they come, breaks, limits, records, the SDK."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import openai
import pytest
from loopback import NO_TLS
from running_stack import Json, RunningStack, script
from scripted.speech_wire import MEDIA, PIECE_BYTES

SPEECH = "/v1/audio/speech"


@asynccontextmanager
async def speak(
    stack: RunningStack, /, key: str | None = None, path: str = SPEECH, **fields: object
) -> AsyncGenerator[httpx.Response]:
    """An answer whose body is unread."""
    body = {"model": "speaker", "input": "hello", "voice": "alloy", **fields}
    body = {name: value for name, value in body.items() if value != ...}
    headers = {"Authorization": f"Bearer {key or stack.key}"}
    async with (
        httpx.AsyncClient(verify=NO_TLS, timeout=30) as client,
        client.stream("POST", stack.url + path, json=body, headers=headers) as answer,
    ):
        yield answer


@pytest.mark.parametrize("form", MEDIA)
async def test_the_sdk_gets_audio_in_every_format(stack: RunningStack, form: str) -> None:
    """As bytes of that media type, and as the provider made them."""
    answer = await stack.openai.audio.speech.create(
        model="speaker",
        input="hello",
        voice="alloy",
        response_format=form,  # type: ignore[arg-type]  # a parameter of the test
        speed=1.25,
        instructions="calm",
    )
    assert answer.content.startswith(form.encode())
    assert len(answer.content) == 8 * PIECE_BYTES
    assert answer.response.headers["content-type"] == MEDIA[form]
    [call] = await stack.calls()
    assert (call["body"]["speed"], call["body"]["instructions"]) == (1.25, "calm")


async def test_the_first_bytes_come_before_the_last(stack: RunningStack) -> None:
    """The record has the time of the first, the characters, and that it was a stream."""
    text = script(do="slow", gap_ms=300, frames=5)
    began, first_s = time.monotonic(), 0.0
    async with speak(stack, input=text) as answer:
        async for _ in answer.aiter_raw():
            first_s = first_s or time.monotonic() - began
    assert time.monotonic() - began - first_s > 0.9
    assert answer.headers["transfer-encoding"] == "chunked"
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["door"], story["outcome"], story["streamed"]) == ("audio.speech", "ok", True)
    assert (story["characters"], story["usage_source"]) == (len(text), "provider")


async def test_speech_by_the_character_costs_its_characters(stack: RunningStack) -> None:
    """Spaces too, which LiteLLM leaves out; the published price of `tts-1` is 15 dollars a million."""
    async with speak(stack, model="speaker-by-character", input="a b c d e") as answer:
        await answer.aread()
    story = await stack.story(answer.headers["x-request-id"])
    assert float(story["cost_usd"]) == pytest.approx(9 * 15e-6)


async def test_speech_by_the_token_costs_its_length_where_no_tokens_are_stated(stack: RunningStack) -> None:
    """Raw samples are 48,000 bytes a second; a second of `gpt-4o-mini-tts` is 0.00025 dollars."""
    async with speak(stack, response_format="pcm") as answer:
        size = len(await answer.aread())
    story = await stack.story(answer.headers["x-request-id"])
    assert float(story["cost_usd"]) == pytest.approx(size / 48_000 * 0.00025 + 2 * 6e-7, rel=1e-3)


async def test_events_come_as_openai_sends_them(stack: RunningStack) -> None:
    """Deltas, then the end with its tokens; no `[DONE]`, nothing of the sidecar's."""
    async with speak(stack, stream_format="sse", voice={"id": "voice_1"}) as answer:
        raw = (await answer.aread()).decode()
    assert answer.headers["content-type"].startswith("text/event-stream")
    events: list[Json] = [json.loads(one.removeprefix("data: ")) for one in raw.strip().split("\n\n")]
    assert [one["type"] for one in events] == ["speech.audio.delta"] * 8 + ["speech.audio.done"]
    [call] = await stack.calls()
    assert call["body"]["voice"] == {"id": "voice_1"}
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["prompt_tokens"], story["completion_tokens"], story["characters"]) == (17, 23, 5)


@pytest.mark.parametrize("do", ["cut", "reset"])
async def test_audio_that_breaks_off_never_looks_complete(stack: RunningStack, do: str) -> None:
    """The connection ends within the body; the record says so."""
    async with speak(stack, input=script(do=do, after=2)) as answer:
        with pytest.raises(httpx.RemoteProtocolError):
            await answer.aread()
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["status"], story["outcome"]) == (200, "cut")


async def test_a_break_is_told_to_a_caller_of_http_1_0_too(stack: RunningStack) -> None:
    """There the end of the connection is the end of the body: it is reset."""
    body = json.dumps({"model": "speaker", "input": script(do="cut", after=2), "voice": "alloy"}).encode()
    head = (
        f"POST {SPEECH} HTTP/1.0\r\nauthorization: Bearer {stack.key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    writer.write(head.encode() + body)
    try:
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(-1), 20)
    finally:
        writer.close()


async def test_events_that_break_off_end_in_one_error(stack: RunningStack) -> None:
    """OpenAI's `error` event."""
    async with speak(stack, input=script(do="cut", after=2), stream_format="sse") as answer:
        events = (await answer.aread()).decode().strip().split("\n\n")
    assert events[-1].startswith("event: error\n")
    assert not any("speech.audio.done" in one for one in events)
    story = await stack.story(answer.headers["x-request-id"])
    assert story["outcome"] == "cut"


async def test_silence_in_the_middle_ends_the_call(stack: RunningStack) -> None:
    """After the time that a stream may be silent."""
    async with speak(stack, input=script(do="silence", after=2)) as answer:
        with pytest.raises(httpx.RemoteProtocolError):
            await answer.aread()
    story = await stack.story(answer.headers["x-request-id"])
    assert story["outcome"] == "cut"


async def test_a_caller_who_leaves_cancels_the_provider_s_call(stack: RunningStack) -> None:
    """The record says who left."""
    async with speak(stack, input=script(do="slow", gap_ms=200, frames=200)) as answer:
        await anext(answer.aiter_raw())
    async with asyncio.timeout(10):
        while not [one for one in await stack.calls() if one["client_left_s"]]:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.05)
    story = await stack.story(answer.headers["x-request-id"])
    assert story["outcome"] in {"client_gone", "cut"}


@pytest.mark.parametrize(
    ("do", "status"),
    [
        ("status-400", 400), ("status-429", 429), ("status-500", 502), ("empty", 502), ("not-sse", 502),
        ("error-in-200", 502), ("drop", 502),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["audio", "sse"])
async def test_a_failure_before_the_first_byte_is_json(
    stack: RunningStack, do: str, status: int, form: str
) -> None:
    """With its status; no key and no address."""
    async with speak(stack, input=script(do=do), stream_format=form) as answer:
        raw = await answer.aread()
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert json.loads(raw)["error"]["message"]
    assert b"canary" not in raw
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["status"], story["outcome"]) == (status, "error")


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"input": ...}, "input", "missing_required_parameter"),
        ({"input": ""}, "input", "empty_string"),
        ({"input": "a" * 100_001}, "input", "string_above_max_length"),
        ({"input": ["a"]}, "input", "invalid_type"),
        ({"voice": ...}, "voice", "missing_required_parameter"),
        ({"voice": 3}, "voice", "invalid_type"),
        ({"voice": {"id": 3}}, "voice.id", "invalid_type"),
        ({"speed": "fast"}, "speed", "invalid_type"),
        ({"speed": -1}, "speed", "decimal_below_min_value"),
        ({"stream_format": "chunks"}, "stream_format", "invalid_value"),
        ({"stream": True}, "stream", "unknown_parameter"),
        ({"api_key": "x"}, "api_key", "unknown_parameter"),
        ({"model": "moderator"}, "model", "model_not_supported"),
    ],
)
async def test_a_wrong_field_is_named(stack: RunningStack, change: Json, param: str, code: str) -> None:
    """No provider hears of it."""
    async with speak(stack, **change) as answer:
        await answer.aread()
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
    assert await stack.calls() == []


async def test_azure_s_path_names_the_model(stack: RunningStack) -> None:
    """And counts before the body's."""
    path = "/openai/deployments/speaker/audio/speech?api-version=2025-04-01-preview"
    async with speak(stack, path=path, model="gpt-4o-mini-tts") as answer:
        assert (await answer.aread()).startswith(b"mp3")


async def test_a_key_s_limits_hold(stack: RunningStack) -> None:
    """The second call of a minute is refused, in JSON."""
    key = await stack.new_key(rpm=1)
    async with speak(stack, key=key) as first:
        await first.aread()
    async with speak(stack, key=key) as second:
        await second.aread()
    assert (first.status_code, second.status_code) == (200, 429)


async def test_voices_are_not_listed(stack: RunningStack) -> None:
    """The message says whose they are."""
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        answer = await client.get(f"{stack.url}/v1/audio/voices", headers=stack.auth)
    assert answer.status_code == 404
    assert "the provider of a model says which it has" in answer.json()["error"]["message"]


async def test_the_sdk_streams_into_a_file(
    stack: RunningStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By its own helper; a break raises."""
    to = tmp_path_factory.mktemp("speech") / "a.mp3"
    async with stack.openai.audio.speech.with_streaming_response.create(
        model="speaker", input="hello", voice="alloy"
    ) as answer:
        await answer.stream_to_file(to)
    assert to.stat().st_size == 8 * PIECE_BYTES
    with pytest.raises((openai.APIError, httpx.HTTPError)):
        await stack.openai.audio.speech.create(
            model="speaker", input=script(do="cut", after=2), voice="alloy"
        )
