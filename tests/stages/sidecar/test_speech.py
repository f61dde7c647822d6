"""Speech behind a real LiteLLM: passed on as it comes, with every field of the request."""

import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import httpx
import pytest
from loopback import NO_TLS
from scripted.speech_wire import MEDIA, PIECE_BYTES
from sidecars import KEY, Json, Sidecar
from stages.conftest import Reader

GROUPS = ("rank-speaker", "rank-azure-speaker")


def spoken(mark: str, **directive: object) -> str:
    """A text that tells the provider what to do."""
    return f"{mark} {json.dumps(directive)}"


@asynccontextmanager
async def speak(sidecar: Sidecar, group: str, text: str, **fields: object) -> AsyncGenerator[httpx.Response]:
    """An answer whose body is unread."""
    body = {"model": group, "input": text, "voice": "alloy", **fields}
    headers = {"authorization": f"Bearer {KEY}"}
    async with (
        httpx.AsyncClient(verify=NO_TLS, timeout=30) as client,
        client.stream("POST", f"{sidecar.url}/v1/audio/speech", json=body, headers=headers) as answer,
    ):
        yield answer


@pytest.mark.parametrize("group", GROUPS)
async def test_bytes_are_passed_on_as_they_come(sidecar: Sidecar, group: str) -> None:
    """The first come while the provider still waits with the next."""
    text = spoken(uuid4().hex, do="slow", gap_ms=300, frames=5)
    began, first_s, size = time.monotonic(), 0.0, 0
    async with speak(sidecar, group, text) as answer:
        assert answer.headers["content-type"] == "audio/mpeg"
        assert json.loads(answer.headers["x-llmp-usage"]) == {"characters": len(text)}
        async for chunk in answer.aiter_raw():
            first_s = first_s or time.monotonic() - began
            size += len(chunk)
    assert size == 5 * PIECE_BYTES
    assert time.monotonic() - began - first_s > 0.9


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("form", MEDIA)
async def test_every_format_keeps_its_media_type(sidecar: Sidecar, group: str, form: str) -> None:
    """And every field of the request reaches the provider."""
    sent: Json = {"response_format": form, "speed": 1.5, "instructions": "calm", "extra_body": {"lang": "en"}}
    async with speak(sidecar, group, mark := uuid4().hex, **sent) as answer:
        assert answer.headers["content-type"] == MEDIA[form]
        assert (await answer.aread()).startswith(form.encode())
    [call] = await sidecar.provider.calls(mark)
    sent_on = {name: call["body"].get(name) for name in ("response_format", "speed", "instructions", "lang")}
    assert sent_on == {"response_format": form, "speed": 1.5, "instructions": "calm", "lang": "en"}


async def test_events_and_a_voice_of_one_s_own_reach_the_provider(sidecar: Sidecar) -> None:
    """LiteLLM drops the first and refuses the second; what the events used follows them."""
    fields: Json = {"stream_format": "sse", "voice": {"id": "voice_1"}}
    async with speak(sidecar, "rank-speaker", mark := uuid4().hex, **fields) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        raw = await answer.aread()
    [call] = await sidecar.provider.calls(mark)
    assert (call["body"]["stream_format"], call["body"]["voice"]) == ("sse", {"id": "voice_1"})
    *events, done, comment = raw.decode().strip().split("\n\n")
    assert len(events) == 8
    assert json.loads(done.removeprefix("data: "))["type"] == "speech.audio.done"
    stated = json.loads(comment.removeprefix(": llmp-usage "))
    assert (stated["prompt_tokens"], stated["completion_audio_tokens"], stated["characters"]) == (17, 23, 32)


async def test_another_protocol_s_speech_is_litellm_s_to_ask_for(sidecar: Sidecar) -> None:
    """ElevenLabs': its voice by its id, no field of OpenAI's, characters as everywhere."""
    fields: Json = {"stream_format": "audio", "voice": {"id": "a-voice"}}
    async with speak(sidecar, "rank-other-speaker", mark := uuid4().hex, **fields) as answer:
        raw = await answer.aread()
    assert answer.headers["content-type"] == "audio/mpeg"
    assert len(raw) == 8 * PIECE_BYTES
    assert json.loads(answer.headers["x-llmp-usage"]) == {"characters": 32}
    [call] = await sidecar.provider.calls(mark)
    assert call["path"].endswith("/text-to-speech/a-voice")
    assert "stream_format" not in call["body"]
    async with speak(sidecar, "rank-other-speaker", spoken("x", do="status-429")) as refused:
        await refused.aread()
    assert refused.status_code == 429


@pytest.mark.parametrize("do", ["cut", "reset"])
async def test_bytes_that_break_off_have_no_end(sidecar: Sidecar, do: str) -> None:
    """Never a file that looks complete."""
    with pytest.raises(httpx.RemoteProtocolError):
        async with speak(sidecar, "rank-speaker", spoken("x", do=do, after=2)) as answer:
            await answer.aread()


async def test_events_that_break_off_end_in_an_error(sidecar: Sidecar) -> None:
    """One that the gateway knows."""
    text = spoken("x", do="cut", after=2)
    async with speak(sidecar, "rank-speaker", text, stream_format="sse") as answer:
        last = (await answer.aread()).decode().strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_stream_cut"


@pytest.mark.parametrize("do", ["empty", "not-sse", "error-in-200", "drop", "status-400", "status-500"])
@pytest.mark.parametrize("form", ["audio", "sse"])
async def test_an_answer_without_audio_is_an_error_in_json(sidecar: Sidecar, do: str, form: str) -> None:
    """Before anything is sent."""
    mark = uuid4().hex
    async with speak(sidecar, "rank-speaker", spoken(mark, do=do), stream_format=form) as answer:
        await answer.aread()
    assert answer.status_code >= 400
    assert answer.json()["error"]["message"]
    attempts = int(answer.headers["x-llmp-attempts"])
    assert (attempts == 1) == (do in {"empty", "status-400"})
    assert len(await sidecar.provider.calls(mark)) == attempts  # the SDK repeats nothing on its own


async def test_a_caller_who_hangs_up_cancels_the_provider_s_call(sidecar: Sidecar) -> None:
    """In the middle of the audio."""
    text = spoken(mark := uuid4().hex, do="slow", gap_ms=200, frames=100)
    async with speak(sidecar, "rank-speaker", text) as answer:
        await anext(answer.aiter_raw())
    assert await sidecar.provider.client_left_s(mark) < 20  # of the audio's


async def test_speech_is_a_row_of_the_call_log(sidecar: Sidecar, log: Reader) -> None:
    """With its characters."""
    call_id: UUID = uuid4()
    body = {"model": "rank-speaker", "input": "héllo wörld", "voice": "alloy"}
    await sidecar.post("/v1/audio/speech", body, **{"x-litellm-call-id": str(call_id)})
    [row] = await log.rows(call_id)
    assert (row["status"], row["deployment"], row["characters"]) == ("success", "rank-speaker", 11)
