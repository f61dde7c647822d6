"""The OpenAI SDK for Python on images, audio, moderations, and as Azure's client; whole, raw and streamed."""

import asyncio
import base64
import io
import wave
from typing import Any

import httpx
import openai
from report import API_KEY, BASE_URL, calls, expect, left_by_the_caller, play, raises, tell

client = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=0)
GATEWAY = BASE_URL.removesuffix("/v1")
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
PAINT: Any = {"model": "gpt-image-1.5", "prompt": "a cat"}
SPEAK: Any = {"model": "gpt-4o-mini-tts", "input": "Hello.", "voice": "alloy"}
FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")


def wav(seconds: int = 2) -> bytes:
    """Silence."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16000 * seconds))
    return made.getvalue()


def azure() -> openai.AzureOpenAI:
    """Azure's client; a deployment's name is a model's."""
    return openai.AzureOpenAI(
        azure_endpoint=GATEWAY, api_key=API_KEY, api_version="2025-04-01-preview", max_retries=0
    )


def moderations() -> None:
    """Texts, parts with a picture, no model; also raw and unread."""
    made = client.moderations
    expect([one.flagged for one in made.create(input=["kill", "be kind"]).results] == [True, False], "other")
    parts: Any = [
        {"type": "text", "text": "kill"},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
    ]
    found = made.create(model="omni-moderation-latest", input=parts).results
    expect(len(found) == 1 and "image" in found[0].category_applied_input_types.violence, "no picture")
    raw = made.with_raw_response.create(input="kill")
    expect(raw.headers["x-request-id"] and raw.parse().results[0].categories.violence, "not raw")
    with made.with_streaming_response.create(input="kill") as unread:
        expect(unread.parse().results[0].flagged, "not unread")


def images() -> None:
    """Pictures and their usage; links of a model that makes them."""
    made = client.images.generate(**PAINT, n=2, size="1024x1024", quality="low")
    expect(len(made.data or []) == 2 and made.usage and made.usage.total_tokens == 40, "other pictures")
    expect(base64.b64decode((made.data or [])[0].b64_json or "").startswith(b"\x89PNG"), "no picture")
    linked = client.images.generate(model="dall-e-3", prompt="a cat", response_format="url", style="vivid")
    expect((linked.data or [])[0].url and (linked.data or [])[0].revised_prompt, "no link")
    raw = client.images.with_raw_response.generate(**PAINT)
    expect(raw.parse().data, "not raw")
    with client.images.with_streaming_response.generate(**PAINT) as unread:
        expect(unread.parse().data, "not unread")


def image_stream() -> None:
    """Partial pictures, then the last."""
    kinds = [one.type for one in client.images.generate(**PAINT, stream=True, partial_images=2)]
    expect(kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"], f"{kinds}")
    with client.images.with_streaming_response.generate(**PAINT, stream=True) as unread:
        expect([one.type for one in unread.parse()] == ["image_generation.completed"], "not unread")


def edits() -> None:
    """Several pictures and a mask arrive as they were sent, whole and streamed."""
    files: Any = {"image": [("a.png", PNG), ("b.png", PNG, "image/png")], "mask": ("m.png", PNG)}
    made = client.images.edit(**PAINT, **files, input_fidelity="high", n=2)
    expect(len(made.data or []) == 2, "other pictures")
    sent = calls()[0]["body"]
    expect([one["size"] for one in sent["files"]] == [len(PNG)] * 3, f"other files: {sent['files']}")
    expect(sent["input_fidelity"] == "high", "a field was lost")
    going = client.images.edit(**PAINT, image=PNG, stream=True, partial_images=1)
    kinds = [one.type for one in going]
    expect(kinds == ["image_edit.partial_image", "image_edit.completed"], f"{kinds}")
    expect(client.images.with_raw_response.edit(**PAINT, image=io.BytesIO(PNG)).parse().data, "not raw")


def speech() -> None:
    """Bytes in every format, whole and as they come."""
    for form in FORMATS:
        made = client.audio.speech.create(**SPEAK, response_format=form)
        expect(made.content.startswith(form.encode()) and len(made.content) == 24000, f"other {form}")
    with client.audio.speech.with_streaming_response.create(**SPEAK, instructions="calm") as unread:
        expect(sum(map(len, unread.iter_bytes())) == 24000, "other bytes")
    expect(client.audio.speech.with_raw_response.create(**SPEAK).parse().content, "not raw")


def speech_events() -> None:
    """Events, the last with the usage."""
    with client.audio.speech.with_streaming_response.create(**SPEAK, stream_format="sse") as unread:
        lines = [line for line in unread.iter_lines() if line.startswith("data: ")]
    expect(len(lines) == 9 and "speech.audio.done" in lines[-1], f"{len(lines)} events")


def transcriptions() -> None:
    """Each format as that."""
    sound = ("a.wav", wav())
    create: Any = client.audio.transcriptions.create
    made = create(file=sound, model="gpt-4o-transcribe", include=["logprobs"], language="en")
    expect(made.text and made.usage.total_tokens == 40, "other text")
    detailed = create(
        file=sound,
        model="whisper-1",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    expect(detailed.words and detailed.segments and detailed.duration == 8.5, "no words")
    for form, sign in (("text", "0"), ("srt", "-->"), ("vtt", "WEBVTT")):
        plain = create(file=sound, model="whisper-1", response_format=form)
        expect(isinstance(plain, str) and sign in plain and "{" not in plain, f"other {form}: {plain!r}")
    spoken = create(
        file=sound,
        model="gpt-4o-transcribe-diarize",
        response_format="diarized_json",
        chunking_strategy="auto",
    )
    expect(spoken.segments[0].speaker == "A", "no speaker")
    expect(
        client.audio.transcriptions.with_raw_response.create(file=sound, model="whisper-1").parse().text, ""
    )


def transcription_stream() -> None:
    """Deltas and the whole text."""
    going = client.audio.transcriptions.create(file=wav(), model="gpt-4o-transcribe", stream=True)
    kinds = [one.type for one in going]
    expect(kinds == ["transcript.text.delta"] * 8 + ["transcript.text.done"], f"{kinds}")


def translations() -> None:
    """JSON and subtitles."""
    create: Any = client.audio.translations.create
    expect(create(file=("a.wav", wav()), model="whisper-1").text, "no text")
    expect("-->" in create(file=("a.wav", wav()), model="whisper-1", response_format="srt"), "no cues")


def azure_api() -> None:
    """Every resource by Azure's paths, and by its new ones."""
    one = azure()
    say: Any = [{"role": "user", "content": play()}]
    expect(one.chat.completions.create(model="chat", messages=say).usage, "no usage")
    expect(len(list(one.chat.completions.create(model="chat", messages=say, stream=True))) > 7, "no stream")
    expect(one.embeddings.create(model="text-embedding-3-small", input="a").data, "no vectors")
    expect(one.images.generate(**PAINT).data and one.images.edit(**PAINT, image=PNG).data, "no pictures")
    expect(one.audio.speech.create(**SPEAK).content, "no speech")
    sound = ("a.wav", wav())
    expect(one.audio.transcriptions.create(file=sound, model="whisper-1").text, "no text")
    expect(one.audio.translations.create(file=sound, model="whisper-1").text, "no translation")
    expect(one.models.list().data, "no models")
    expect(one.responses.create(model="chat", input=play()).output_text, "no response")
    newer = openai.OpenAI(base_url=f"{GATEWAY}/openai/v1/", api_key=API_KEY)
    expect(newer.responses.create(model="chat", input=play()).output_text, "no response by the new path")
    expect(newer.images.generate(**PAINT).data and newer.moderations.create(input="a").results, "not new")


async def azure_async() -> None:
    """The asynchronous client, with a deployment in its address and with a token."""
    say: Any = [{"role": "user", "content": play()}]
    options: Any = {"azure_endpoint": GATEWAY, "api_version": "2025-04-01-preview", "max_retries": 0}
    fixed = openai.AsyncAzureOpenAI(**options, api_key=API_KEY, azure_deployment="chat")
    expect((await fixed.chat.completions.create(model="-", messages=say)).usage, "no usage")

    async def token() -> str:
        await asyncio.sleep(0)
        return API_KEY

    one = openai.AsyncAzureOpenAI(**options, azure_ad_token_provider=token)
    going = await one.chat.completions.create(model="chat", messages=say, stream=True)
    expect(len([chunk async for chunk in going]) > 7, "no stream")
    pictures = await one.images.generate(**PAINT, stream=True, partial_images=1)
    expect(len([event async for event in pictures]) == 2, "no pictures")
    async with one.audio.speech.with_streaming_response.create(**SPEAK) as unread:
        expect(len(b"".join([piece async for piece in unread.iter_bytes()])) == 24000, "other bytes")
    transcribed = await one.audio.transcriptions.create(file=wav(), model="gpt-4o-transcribe", stream=True)
    expect([event.type async for event in transcribed][-1] == "transcript.text.done", "no transcript")


def errors() -> None:
    """The SDK's own classes, for each resource."""
    kinds = {400: openai.BadRequestError, 429: openai.RateLimitError, 500: openai.InternalServerError}
    for status, kind in kinds.items():
        line: Any = play(do=f"status-{status}")
        raises(kind, lambda line=line: client.images.generate(model="gpt-image-1.5", prompt=line))
        raises(kind, lambda line=line: client.moderations.create(input=line))
        raises(kind, lambda line=line: client.audio.speech.create(**{**SPEAK, "input": line}))
        raises(
            kind,
            lambda line=line: client.audio.transcriptions.create(file=wav(), model="whisper-1", prompt=line),
        )
    other = client.with_options(api_key="not-ours-0123456789")
    raises(openai.AuthenticationError, lambda: other.images.generate(**PAINT))
    raises(openai.NotFoundError, lambda: client.images.generate(model="nobody-has-this", prompt="x"))
    raises(openai.BadRequestError, lambda: client.images.generate(model="whisper-1", prompt="x"))
    raises(openai.NotFoundError, lambda: client.images.create_variation(image=PNG))
    say: Any = [{"role": "user", "content": "x"}]
    raises(openai.NotFoundError, lambda: azure().chat.completions.create(model="nobody", messages=say))


def broken() -> None:
    """A stream that breaks off is an error, never a whole one."""
    cut: Any = play(do="cut", after=1)
    going = client.images.generate(model="gpt-image-1.5", prompt=cut, stream=True, partial_images=2)
    raises(openai.APIError, lambda: list(going))

    def hear() -> object:
        return list(
            client.audio.transcriptions.create(file=wav(), model="gpt-4o-transcribe", prompt=cut, stream=True)
        )

    raises(openai.APIError, hear)

    def speak() -> object:
        return client.audio.speech.create(**{**SPEAK, "input": cut}).content

    raises((openai.APIError, httpx.HTTPError), speak)


def cancel() -> None:
    """Speech left early is left at the provider too."""
    slow: Any = {**SPEAK, "input": play(do="slow", frames=80)}
    with client.audio.speech.with_streaming_response.create(**slow) as unread:
        next(unread.iter_bytes(100))
    expect(left_by_the_caller(), "the provider went on")


tell(
    "openai, media",
    "openai",
    {
        "moderations": moderations,
        "images": images,
        "images streamed": image_stream,
        "edits": edits,
        "speech": speech,
        "speech as events": speech_events,
        "transcriptions": transcriptions,
        "transcriptions streamed": transcription_stream,
        "translations": translations,
        "AzureOpenAI": azure_api,
        "AsyncAzureOpenAI": azure_async,
        "errors": errors,
        "broken streams": broken,
        "leaving": cancel,
    },
)
