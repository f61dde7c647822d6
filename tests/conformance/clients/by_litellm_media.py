"""LiteLLM's own SDK as a client of images, audio, reranking and moderations."""

from typing import Any

import litellm
from report import API_KEY, BASE_URL, expect, play, raises, tell

GATEWAY = BASE_URL.removesuffix("/v1")
OPENAI: Any = {"api_base": BASE_URL, "api_key": API_KEY, "max_retries": 0}
litellm.num_retries = 0


def rerank() -> None:
    """Cohere's, Jina's and its own proxy's client."""
    ask: Any = {"query": "a", "documents": ["x", "y"], "top_n": 1, "api_key": API_KEY}
    for model, base in (
        ("cohere/rerank-v3.5", GATEWAY),
        ("jina_ai/jina-reranker-v2-base-multilingual", GATEWAY),
        ("litellm_proxy/rerank-v3.5", GATEWAY),
        ("hosted_vllm/rerank-v3.5", BASE_URL),
    ):
        found = litellm.rerank(model=model, api_base=base, **ask).results
        expect([one["index"] for one in found] == [1], f"other order by {model}")


def moderation() -> None:
    """Texts."""
    found = litellm.moderation(input=["kill", "x"], model="omni-moderation-latest", **OPENAI)
    expect([one.flagged for one in found.results] == [True, False], "other flags")


def images() -> None:
    """Made and changed."""
    made = litellm.image_generation(model="openai/gpt-image-1.5", prompt="a cat", n=2, **OPENAI)
    expect(len(made.data) == 2 and made.usage.total_tokens == 40, "other pictures")
    changed = litellm.image_edit(
        model="openai/gpt-image-1.5", prompt="x", image=[b"\x89PNG\r\n\x1a\n"], **OPENAI
    )
    expect(changed.data[0].b64_json, "no picture")


def speech() -> None:
    """Bytes."""
    made = litellm.speech(model="openai/gpt-4o-mini-tts", input="Hello.", voice="alloy", **OPENAI)
    expect(len(made.content) == 24000, "other bytes")


def transcription() -> None:
    """Text."""
    sound = ("a.wav", b"RIFF" + bytes(40), "audio/wav")
    made = litellm.transcription(model="openai/whisper-1", file=sound, **OPENAI)
    expect(made.text, "no text")


def azure() -> None:
    """Azure's paths."""
    given: Any = {"api_base": GATEWAY, "api_key": API_KEY, "api_version": "2025-04-01-preview"}
    talk: Any = [{"role": "user", "content": play()}]
    expect(
        litellm.completion(model="azure/chat", messages=talk, **given).usage.total_tokens == 40, "other usage"
    )
    made = litellm.image_generation(model="azure/gpt-image-1.5", prompt="a cat", **given)
    expect(made.data[0].b64_json, "no picture")


def gemini() -> None:
    """Google's paths."""
    talk: Any = [{"role": "user", "content": play()}]
    for model in ("gemini/gemini-2.5-flash", "gemini/chat"):
        given: Any = {"model": model, "api_base": f"{GATEWAY}/v1beta", "api_key": API_KEY}
        expect(litellm.completion(messages=talk, **given).usage.total_tokens == 40, f"other usage by {model}")
        expect(
            len(list(litellm.completion(messages=talk, stream=True, **given))) > 3, f"no stream by {model}"
        )


def cohere() -> None:
    """Cohere's embeddings."""
    made = litellm.embedding(
        model="cohere/embed-v4.0", input=["a", "b"], api_base=f"{GATEWAY}/v2/embed", api_key=API_KEY
    )
    expect(len(made.data) == 2, "other count")


def errors() -> None:
    """LiteLLM's classes."""
    for status, kind in ((400, litellm.BadRequestError), (429, litellm.RateLimitError)):
        line = play(do=f"status-{status}")
        raises(
            kind,
            lambda line=line: litellm.image_generation(model="openai/gpt-image-1.5", prompt=line, **OPENAI),
        )


tell(
    "litellm SDK, media",
    "litellm",
    {
        "rerank": rerank,
        "moderation": moderation,
        "images": images,
        "speech": speech,
        "transcription": transcription,
        "Azure": azure,
        "Gemini": gemini,
        "Cohere": cohere,
        "errors": errors,
    },
)
