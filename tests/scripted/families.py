"""Which provider family a path belongs to, and how that family answers it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from scripted import (
    anthropic_wire,
    audio_wire,
    bedrock_wire,
    cohere_wire,
    gemini_wire,
    images_wire,
    moderation_wire,
    ollama_wire,
    openai_wire,
    rerank_wire,
    responses_wire,
    speech_wire,
)
from scripted.script import Json, Script

Whole = Callable[[Script, Json, int], Json | str]
Frames = Callable[[Script, Json, int], tuple[list[bytes], list[bytes]]]
MODEL_IN_PATH = re.compile(r"(?:models?|deployments|endpoints)/([^/:]+)[:/]")


@dataclass(frozen=True, slots=True)
class Door:
    """One route of a provider.

    Attributes:
        whole: The JSON answer, or a text.
        frames: The stream's content frames and closing frames, where the route streams.
        streams: Whether this body is to be answered with a stream.
        media_of: The content type of a stream, where a body says which.
    """

    family: str
    whole: Whole
    frames: Frames | None
    error: Callable[[int, str], Json]
    error_frame: Callable[[], bytes]
    streams: Callable[[Json], bool]
    media: str = "text/event-stream"
    media_of: Callable[[Json], str] | None = None


def _asked(body: Json) -> bool:
    return bool(body.get("stream"))


def _never(_: Json) -> bool:
    return False


def _always(_: Json) -> bool:
    return True


def _openai(whole: Whole, frames: Frames | None) -> Door:
    streams = _asked if frames else _never
    return Door("openai", whole, frames, openai_wire.error, openai_wire.error_frame, streams)


def _gemini(whole: Whole, frames: Frames | None) -> Door:
    streams = _always if frames else _never
    return Door("gemini", whole, frames, gemini_wire.error, gemini_wire.error_frame, streams)


def _ollama(whole: Whole, frames: Frames | None) -> Door:
    streams = _asked if frames else _never
    return Door(
        "ollama", whole, frames, ollama_wire.error, ollama_wire.error_frame, streams, "application/x-ndjson"
    )


_AUDIO = Door(
    "openai",
    audio_wire.transcript,
    audio_wire.frames,
    openai_wire.error,
    openai_wire.error_frame,
    audio_wire.streams,
)


def _images(frames: Frames) -> Door:
    return Door("openai", images_wire.whole, frames, openai_wire.error, images_wire.error_frame, _asked)


def _gemini_content(script: Script, body: Json, number: int) -> Json:
    of_images = images_wire.gemini_makes_pictures(body)
    return (
        images_wire.content(script, body, number) if of_images else gemini_wire.content(script, body, number)
    )


def _predictions(script: Script, body: Json, number: int) -> Json:
    instances: list[Json] = body.get("instances") or [{}]
    of_images = all("prompt" in one for one in instances)
    return (
        images_wire.predictions(script, body) if of_images else gemini_wire.embeddings(script, body, number)
    )


def _invoked(script: Script, body: Json, number: int) -> Json:
    wire = anthropic_wire.message if "messages" in body else images_wire.invoked
    return wire(script, body, number)


_ANTHROPIC = Door(
    "anthropic",
    anthropic_wire.message,
    anthropic_wire.frames,
    anthropic_wire.error,
    anthropic_wire.error_frame,
    _asked,
)
_RESPONSES = Door(
    "responses",
    responses_wire.response,
    responses_wire.frames,
    openai_wire.error,
    responses_wire.error_frame,
    _asked,
)
_COUNT = Door(
    "anthropic",
    anthropic_wire.count,
    None,
    anthropic_wire.error,
    anthropic_wire.error_frame,
    _never,
)
_BEDROCK = Door("bedrock", bedrock_wire.message, None, bedrock_wire.error, bedrock_wire.error_frame, _never)
_BEDROCK_STREAM = Door(
    "bedrock",
    anthropic_wire.message,
    bedrock_wire.message_frames,
    bedrock_wire.error,
    bedrock_wire.error_frame,
    _always,
    "application/vnd.amazon.eventstream",
)
_RERANK = Door("rerank", rerank_wire.rerank, None, rerank_wire.error, openai_wire.error_frame, _never)
_SPEECH = Door(
    "speech",
    openai_wire.chat,
    speech_wire.frames,
    openai_wire.error,
    openai_wire.error_frame,
    _always,
    media_of=speech_wire.media,
)
DOORS: tuple[tuple[str, Door], ...] = (
    ("/chat/completions", _openai(openai_wire.chat, openai_wire.chat_frames)),
    ("/completions", _openai(openai_wire.text, openai_wire.text_frames)),
    ("/audio/transcriptions", _AUDIO),
    ("/audio/translations", _AUDIO),
    ("/listen", _openai(audio_wire.deepgram, None)),
    ("/embeddings", _openai(openai_wire.embeddings, None)),
    ("/audio/speech", _SPEECH),
    (
        "/v2/embed",
        Door("rerank", cohere_wire.embed, None, rerank_wire.error, openai_wire.error_frame, _never),
    ),
    ("/moderations", _openai(moderation_wire.moderation, None)),
    ("/generation", _openai(openai_wire.text, None)),
    ("/rerank", _RERANK),
    ("/messages", _ANTHROPIC),
    ("/messages/count_tokens", _COUNT),
    ("/responses", _RESPONSES),
    ("/images/generations", _images(images_wire.generation_frames)),
    ("/images/edits", _images(images_wire.edit_frames)),
    ("/stable-image/generate/core", _openai(images_wire.stable, None)),
    (":generateContent", _gemini(_gemini_content, None)),
    (":streamGenerateContent", _gemini(gemini_wire.content, gemini_wire.frames)),
    (":countTokens", _gemini(gemini_wire.count, None)),
    (":embedContent", _gemini(gemini_wire.embeddings, None)),
    (":batchEmbedContents", _gemini(gemini_wire.embeddings, None)),
    (":rawPredict", _ANTHROPIC),
    (":streamRawPredict", replace(_ANTHROPIC, streams=_always)),
    ("/invoke", replace(_ANTHROPIC, whole=_invoked, family="bedrock", streams=_never)),
    ("/invoke-with-response-stream", _BEDROCK_STREAM),
    (":predict", _gemini(_predictions, None)),
    ("/api/chat", _ollama(ollama_wire.chat, ollama_wire.frames)),
    ("/api/generate", _ollama(ollama_wire.text, ollama_wire.text_frames)),
    ("/converse", _BEDROCK),
    ("/api/embed", _ollama(ollama_wire.embeddings, None)),
)


def find(path: str) -> Door | None:
    """The door whose ending the path has; ElevenLabs' paths end in a voice."""
    if "/text-to-speech/" in path:
        return _SPEECH
    return next((door for ending, door in DOORS if path.endswith(ending)), None)


def model_of(path: str, body: Json) -> str:
    """The model's name, from the body or the path."""
    named = MODEL_IN_PATH.search(path)
    return str(body.get("model") or (named.group(1) if named else ""))
