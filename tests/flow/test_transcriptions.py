"""Audio, written down: every format, whole and streamed, through the OpenAI SDK and as raw requests."""

import asyncio
import hashlib
import json
from typing import Any, Literal
from uuid import uuid4

import httpx
import openai
import pytest
from big_uploads import HEAD, TAIL, upload, upload_together
from loopback import NO_TLS
from openai.types.audio import TranscriptionVerbose
from running_stack import KEY, RunningStack

from llm_proxy.stack import process

SOUND = b"RIFF" + bytes(range(256)) * 40
FILE = {"name": "file", "type": "audio/mpeg", "size": len(SOUND), "sha256": hashlib.sha256(SOUND).hexdigest()}
WHISPER, TOKENS = "p/whisper-1", "p/gpt-4o-mini-transcribe"
TEXT = "Good day, all of you."
PATHS = ("/v1/audio/transcriptions", "/audio/transcriptions", "/v1/audio/translations", "/audio/translations")


def plan(**directive: Any) -> str:
    """A prompt that tells the provider what to answer."""
    return json.dumps({"do": "ok", "text": TEXT, **directive})


async def post(stack: RunningStack, path: str = PATHS[0], **fields: Any) -> httpx.Response:
    """Sends a form as curl does: the file first."""
    async with httpx.AsyncClient(verify=NO_TLS, headers=stack.auth) as client:
        return await client.post(
            f"{stack.url}{path}",
            files={"file": ("a b.mp3", SOUND, "audio/mpeg")},
            data={"model": WHISPER, **fields},
        )


async def last_call(stack: RunningStack) -> dict[str, Any]:
    """The newest call that the provider saw."""
    return (await stack.calls())[-1]


async def test_the_provider_gets_the_file_and_the_fields_as_they_were_sent(stack: RunningStack) -> None:
    """Fields that LiteLLM does not know, arrays and objects too; nothing of the gateway's or of LiteLLM's."""
    answer = await stack.openai.audio.transcriptions.create(
        model=TOKENS, file=("../a b.mp3", SOUND, "audio/mpeg"), language="en", prompt=plan(), temperature=0.2,
        include=["logprobs"], chunking_strategy={"type": "server_vad", "threshold": 0.5},
        known_speaker_names=["ann", "bo"], extra_body={"keywords": ["Oslo"]},
    )  # fmt: skip
    assert answer.text == TEXT
    call = await last_call(stack)
    assert call["path"] == "/v1/audio/transcriptions"
    assert call["body"] == {
        "model": "gpt-4o-mini-transcribe", "language": "en", "prompt": plan(), "temperature": "0.2",
        "include": ["logprobs"], "known_speaker_names": ["ann", "bo"], "keywords": ["Oslo"],
        "chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "0.5",
        "files": [{**FILE, "filename": "a_b.mp3"}],
    }  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("form", "content_type", "begins"),
    [
        (None, "application/json", '{"text": "Good day'),
        ("json", "application/json", '{"text": "Good day'),
        ("verbose_json", "application/json", '{"text": "Good day'),
        ("diarized_json", "application/json", '{"text": "Good day'),
        ("text", "text/plain; charset=utf-8", TEXT),
        ("srt", "text/plain; charset=utf-8", "1\n00:00:00,000 --> 00:00:01,000\nGood"),
        ("vtt", "text/plain; charset=utf-8", "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nGood"),
    ],
)
async def test_each_format_arrives_as_it_was_asked_for(
    stack: RunningStack, path: str, form: str | None, content_type: str, begins: str
) -> None:
    """With the provider's bytes and media type; the file may stand before the model."""
    fields = {"response_format": form} if form else {}
    answer = await post(stack, path, prompt=plan(), **fields)
    assert (answer.status_code, answer.headers["content-type"]) == (200, content_type), answer.text
    assert answer.text.startswith(begins)
    assert answer.headers["x-llm-proxy-model"] == WHISPER
    if content_type == "application/json":
        assert answer.json()["provider_addition"] == {"kept": True}
    call = await last_call(stack)
    assert call["path"] == f"/v1/audio/{path.rpartition('/')[2]}"
    assert call["body"] == {
        "model": "whisper-1",
        "prompt": plan(),
        **fields,
        "files": [{**FILE, "filename": "a_b.mp3"}],
    }


async def test_the_sdk_s_own_types(stack: RunningStack) -> None:
    """Words and segments of verbose JSON, and a text that is a string."""
    verbose = await stack.openai.audio.transcriptions.create(
        model=WHISPER,
        file=("a.wav", SOUND),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        prompt=plan(),
    )
    assert isinstance(verbose, TranscriptionVerbose)
    assert (verbose.text, verbose.duration) == (TEXT, 8.5)
    assert verbose.words is not None
    assert verbose.words[0].word == TEXT
    formats: tuple[Literal["text", "srt", "vtt"], ...] = ("text", "srt", "vtt")
    for form in formats:
        text = await stack.openai.audio.transcriptions.create(
            model=WHISPER, file=("a.wav", SOUND), response_format=form, prompt=plan()
        )
        assert isinstance(text, str)


async def test_a_stream_has_the_provider_s_events(stack: RunningStack) -> None:
    """Deltas as they come and a last event with the usage; what the sidecar adds stays behind."""
    stream = await stack.openai.audio.transcriptions.create(
        model=TOKENS, file=("a.wav", SOUND), stream=True, prompt=plan()
    )
    events = [event async for event in stream]
    assert [event.type for event in events] == ["transcript.text.delta"] * 5 + ["transcript.text.done"]
    done = events[-1]
    assert done.type == "transcript.text.done"
    assert done.text == TEXT
    assert done.usage is not None
    assert done.usage.total_tokens == 40
    raw = await post(stack, model=TOKENS, stream="true", prompt=plan())
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert "llmp" not in raw.text
    assert (await last_call(stack))["body"]["stream"] == "true"


async def test_a_model_that_does_not_stream_answers_whole(stack: RunningStack) -> None:
    """As OpenAI's whisper does."""
    answer = await post(stack, stream="true", prompt=plan())
    assert (answer.status_code, answer.json()["text"]) == (200, TEXT)


@pytest.mark.parametrize("play", ["cut", "reset", "eof", "half-frame", "error-in-200"])
async def test_a_broken_stream_ends_in_an_error(stack: RunningStack, play: str) -> None:
    """Named as OpenAI's SDK reads it, and never in a last event."""
    answer = await post(stack, model=TOKENS, stream="true", prompt=plan(do=play, after=2))
    assert "transcript.text.done" not in answer.text
    assert answer.text.rstrip().rpartition("\n\n")[2].startswith("event: error\ndata: {")
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["outcome"], story["door"]) == ("cut", "audio.transcriptions")


@pytest.mark.parametrize(
    ("play", "status"),
    [("status-400", 400), ("status-500", 502), ("not-sse", 502), ("empty", 502), ("cut", 502), ("drop", 502)],
)
async def test_a_provider_s_failure_is_an_error(stack: RunningStack, play: str, status: int) -> None:
    """Also one that came with status 200: a page of HTML where JSON was requested, or nothing."""
    answer = await post(stack, prompt=plan(do=play))
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["text", "srt", "vtt"])
async def test_a_page_is_no_transcript(stack: RunningStack, kind: str) -> None:
    """A proxy's or a sign-in page that came with status 200, where any text would do."""
    answer = await post(stack, response_format=kind, prompt=plan(do="not-sse"))
    assert answer.status_code == 502, answer.text
    assert "Sign in" not in answer.text


async def test_a_failed_attempt_is_repeated_with_the_whole_file(stack: RunningStack) -> None:
    """The file is read from the disk again."""
    answer = await post(
        stack, model="retried", prompt=plan(do="flaky", key="transcript", status=500, fails=2)
    )
    assert answer.status_code == 200
    assert answer.headers["x-llm-proxy-attempts"] == "3"
    assert [call["body"]["files"][0]["sha256"] for call in (await stack.calls())[-3:]] == [FILE["sha256"]] * 3


@pytest.mark.parametrize(("model", "used"), [(WHISPER, (0, 0, 9000)), (TOKENS, (17, 23, None))])
@pytest.mark.parametrize("stream", ["true", "false"])
async def test_the_record_has_what_was_used(
    stack: RunningStack, model: str, used: tuple[int, int, int | None], stream: str
) -> None:
    """Milliseconds where the provider bills time, tokens where it bills tokens."""
    answer = await post(stack, model=model, stream=stream, prompt=plan())
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["outcome"], story["door"], story["cache"]) == ("ok", "audio.transcriptions", "off")
    assert (story["usage_source"], story["prompt_bytes"] < 1000) == ("provider", True)
    assert (story["prompt_tokens"], story["completion_tokens"], story["audio_ms"]) == used


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"stream": "perhaps"}, "stream"),
        ({"api_base": "http://evil.example"}, "api_base"),
        ({"metadata": "{}"}, "metadata"),
        ({"disable_fallbacks": "true"}, "disable_fallbacks"),
        ({"timestamp_granularities": "word"}, "timestamp_granularities"),
    ],
)
async def test_a_field_that_is_none_is_named(stack: RunningStack, fields: dict[str, str], param: str) -> None:
    """400, before anything is sent."""
    answer = await post(stack, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


async def test_explain_takes_the_fields_as_json(stack: RunningStack) -> None:
    """Without the file."""
    async with httpx.AsyncClient(verify=NO_TLS, headers=stack.auth) as client:
        explained = await client.post(
            f"{stack.url}/v1/explain",
            params={"path": PATHS[0]},
            json={"model": WHISPER, "response_format": "srt"},
        )
    assert (explained.status_code, explained.json()["verdict"]) == (200, "admitted"), explained.text


async def test_json_is_told_to_be_a_form(stack: RunningStack) -> None:
    """415 that names the type; a name that no group has is a 404 in a form too."""
    async with httpx.AsyncClient(verify=NO_TLS, headers=stack.auth) as client:
        answer = await client.post(f"{stack.url}{PATHS[0]}", json={"model": WHISPER})
    assert answer.status_code == 415
    assert "multipart/form-data" in answer.json()["error"]["message"]
    with pytest.raises(openai.NotFoundError):
        await stack.openai.audio.transcriptions.create(model="nobody", file=("a.wav", SOUND))


async def test_a_caller_who_leaves_ends_the_provider_s_call(stack: RunningStack) -> None:
    """Before an answer; the files of the call are gone with it."""
    prompt = plan(do="hang", key=f"leaves-{uuid4()}")
    async with httpx.AsyncClient(verify=NO_TLS, headers=stack.auth, timeout=1) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(
                f"{stack.url}{PATHS[0]}",
                files={"file": ("a.mp3", SOUND)},
                data={"model": WHISPER, "prompt": prompt},
            )
    async with asyncio.timeout(10):
        while not any(  # noqa: ASYNC110 -- nothing tells
            call["body"].get("prompt") == prompt and call["client_left_s"] for call in await stack.calls()
        ):
            await asyncio.sleep(0.05)


async def test_uploads_do_not_lie_in_memory(
    started_stack: tuple[dict[str, int], list[process.ManagedProcess]],
) -> None:
    """Six at once, of 16 MiB each, cost gateway and sidecar a fraction of that."""
    ports, running = started_stack
    pids = {
        one.spec.name: one.popen.pid for one in running if one.spec.name != f"provider-{ports['provider']}"
    }
    assert await upload(ports["gateway"], KEY, WHISPER, 1000) == 200
    statuses, grown = await upload_together(ports["gateway"], KEY, WHISPER, [16 * 2**20] * 6, pids.values())
    assert statuses == [200] * 6
    assert max(grown.values()) < 40 * 2**20, grown
    assert set(pids) == {"gateway", "sidecar-1"}


async def test_an_upload_that_is_too_large_is_rejected_unread(stack: RunningStack) -> None:
    """By its length alone: it gets no `100 Continue`, as a good one does."""
    good = HEAD + b"x" * 100 + TAIL % WHISPER.encode()
    for size, status in ((201 * 2**20, 413), (len(good), 100)):
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        head = (
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer %b\r\n"
            b"Content-Type: multipart/form-data; boundary=cut\r\nExpect: 100-continue\r\n"
        )
        writer.write(head % KEY.encode() + b"Content-Length: %d\r\n\r\n" % size)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 %d " % status)
        if status == 100:
            writer.write(good)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_slow_upload_gets_its_time_and_a_dripping_one_does_not(stack: RunningStack) -> None:
    """The stack gives bodies 3 s; 32 KiB are a second more."""

    async def send(pieces: int, piece: bytes, every_s: float) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        tail = TAIL % WHISPER.encode()
        writer.write(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer %b\r\n"
            b"Content-Type: multipart/form-data; boundary=cut\r\nContent-Length: %d\r\n\r\n"
            % (KEY.encode(), len(HEAD) + pieces * len(piece) + len(tail))
        )
        writer.write(HEAD)
        answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        for _ in range(pieces):
            await asyncio.wait([answer], timeout=every_s)
            if answer.done():
                break
            writer.write(piece)
        writer.write(tail)
        status = int((await answer).split()[1])
        writer.close()
        return status

    slow, dripping = await asyncio.gather(send(8, b"x" * 40_000, 0.45), send(1000, b"x", 0.1))
    assert (slow, dripping) == (200, 408)


async def test_an_answer_without_usage_is_estimated_by_the_file(stack: RunningStack) -> None:
    """A text states none; the head of a WAV states its length, to the millisecond."""
    samples = bytes(2 * 16_000 * 2)
    head = b"RIFF%bWAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data%b"
    wav = head % (b"\0\0\0\0", len(samples).to_bytes(4, "little")) + samples
    answer = await stack.openai.audio.transcriptions.with_raw_response.create(
        model=WHISPER, file=("a.wav", wav), response_format="text", prompt=plan()
    )
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["usage_source"], story["audio_ms"]) == ("estimated", 2000)


async def test_a_provider_without_translations_is_a_404_that_says_so(stack: RunningStack) -> None:
    """Its transcriptions work, as JSON and text."""
    assert (await post(stack, model="deepgram")).json()["text"]
    assert (
        (await post(stack, model="deepgram", response_format="text"))
        .headers["content-type"]
        .startswith("text/")
    )
    answer = await post(stack, PATHS[2], model="deepgram")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "endpoint_not_served", "model")
    assert "no translations of audio" in error["message"]
