"""Requests as applications write them without an SDK; standard library only.

Open WebUI's routers of audio, images and retrieval, Jina's and Voyage's documentation, promptfoo's providers.
"""

import base64
import json
import secrets
import urllib.error
import urllib.request
from typing import Any

from report import API_KEY, BASE_URL, calls, expect, tell_version

GATEWAY = BASE_URL.removesuffix("/v1")
BEARER = {"Authorization": f"Bearer {API_KEY}"}
OF_A_USER = {"X-OpenWebUI-User-Name": "A", "X-OpenWebUI-User-Id": "1", "X-OpenWebUI-User-Role": "user"}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


def post(url: str, body: Any, headers: dict[str, str] = BEARER) -> tuple[int, bytes]:
    """Status and body of the answer to JSON, or to a form's bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    usual = {"Content-Type": "application/json", **OF_A_USER}
    request = urllib.request.Request(url, data=data, headers=usual | headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as failed:
        return failed.code, failed.read()


def form(fields: dict[str, str], files: list[tuple[str, str, str, bytes]]) -> tuple[bytes, dict[str, str]]:
    """A form's bytes and its head."""
    mark = secrets.token_hex(16)
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode()
        for name, text in fields.items()
    ]
    parts += [
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n'.encode()
        + (f"Content-Type: {kind}\r\n\r\n" if kind else "\r\n").encode()
        + data
        + b"\r\n"
        for name, file, kind, data in files
    ]
    body = b"".join([*parts, f"--{mark}--\r\n".encode()])
    return body, {**BEARER, "Content-Type": f"multipart/form-data; boundary={mark}"}


def found(answer: tuple[int, bytes]) -> Any:
    """The document of a good answer."""
    expect(answer[0] == 200, f"{answer[0]}: {answer[1][:200]!r}")
    return json.loads(answer[1])


def web_ui_speech() -> None:
    """The text of a chat's message, with further parameters of the operator's."""
    body = {"model": "tts-1", "input": "Hello.", "voice": "alloy", "response_format": "mp3", "speed": 1.1}
    status, sound = post(f"{BASE_URL}/audio/speech", body)
    expect(status == 200 and len(sound) == 24000, f"other answer: {status}")


def web_ui_transcription() -> None:
    """A file without a media type before or after the fields."""
    sound = ("file", "a1b2.wav", "", b"RIFF" + bytes(40))
    seen = found(
        post(f"{BASE_URL}/audio/transcriptions", *form({"model": "whisper-1", "language": "en"}, [sound]))
    )
    expect(seen["text"], "no text")


def web_ui_images() -> None:
    """By OpenAI's settings with and without a version, and edits of one and of several pictures."""
    body = {"model": "gpt-image-1.5", "prompt": "a cat", "n": 1, "size": "1024x1024"}
    for query in ("", "?api-version=2025-04-01-preview"):
        expect(
            found(post(f"{BASE_URL}/images/generations{query}", body))["data"][0]["b64_json"], "no picture"
        )
    older = {"model": "dall-e-3", "prompt": "a cat", "n": 1, "size": "512x512", "response_format": "b64_json"}
    expect(found(post(f"{BASE_URL}/images/generations", older))["data"][0]["b64_json"], "no picture")
    fields = {"model": "gpt-image-1.5", "prompt": "a hat", "n": "1"}
    for names in (["image"], ["image[]", "image[]"]):
        files = [(name, "image.png", "image/png", PNG) for name in names]
        made = found(post(f"{BASE_URL}/images/edits", *form(fields, files)))
        expect(made["data"][0]["b64_json"], "no picture")
    expect([one["name"] for one in calls()[-1]["body"]["files"]] == ["image[]", "image[]"], "other files")


def web_ui_images_by_gemini() -> None:
    """By Google's settings: a picture made and one changed."""
    key = {"x-goog-api-key": API_KEY}
    url = f"{GATEWAY}/v1beta/models/gemini-2.5-flash-image:generateContent"
    inline = {"inline_data": {"mime_type": "image/png", "data": base64.b64encode(PNG).decode()}}
    for more in ([], [inline]):
        body = {"contents": [{"parts": [{"text": "a cat"}, *more]}]}
        parts = found(post(url, body, key))["candidates"][0]["content"]["parts"]
        expect(parts, "no parts")
    expect("iVBORw0KGgo" in json.dumps(calls()[-1]["body"]), "the picture did not arrive")


def web_ui_retrieval() -> None:
    """An external reranker, and embeddings by OpenAI's and by Azure's settings."""
    body = {"model": "rerank-v3.5", "query": "a", "documents": ["x", "y"], "top_n": 2}
    ranked = found(post(f"{BASE_URL}/rerank", body))["results"]
    scores = [one["relevance_score"] for one in sorted(ranked, key=lambda one: one["index"])]
    expect(scores == [0.8, 0.9], f"other scores: {scores}")
    texts = {"input": ["a", "b"], "model": "text-embedding-3-small"}
    expect(len(found(post(f"{BASE_URL}/embeddings", texts))["data"]) == 2, "other count")
    azure = f"{GATEWAY}/openai/deployments/text-embedding-3-small/embeddings?api-version=2024-10-21"
    expect(len(found(post(azure, {"input": ["a"]}, {"api-key": API_KEY}))["data"]) == 1, "other count")


def jina() -> None:
    """Jina's shape: documents come back unless they are not wanted."""
    body = {"model": "jina-reranker-v2-base-multilingual", "query": "a", "documents": ["x", "y"], "top_n": 1}
    seen = found(post(f"{BASE_URL}/rerank", body))
    expect(seen["results"][0]["document"]["text"] == "y" and seen["usage"]["total_tokens"], f"other: {seen}")
    plain = found(post(f"{BASE_URL}/rerank", {**body, "return_documents": False}))
    expect("document" not in plain["results"][0], "a document came back")
    objects = {**body, "documents": [{"text": "x"}, {"text": "y"}]}
    expect(found(post(f"{BASE_URL}/rerank", objects))["results"][0]["index"] == 1, "other order")


def voyage() -> None:
    """Voyage's model by the same path."""
    body = {
        "model": "rerank-2.5",
        "query": "a",
        "documents": ["x", "y"],
        "top_n": 1,
        "return_documents": True,
    }
    seen = found(post(f"{BASE_URL}/rerank", body))
    expect(
        seen["results"][0]["index"] == 1 and seen["results"][0]["document"]["text"] == "y", f"other: {seen}"
    )


def promptfoo() -> None:
    """Moderations, images, and Azure's chat."""
    body = {"model": "omni-moderation-latest", "input": "kill"}
    expect(
        found(post(f"{BASE_URL}/moderations", body))["results"][0]["categories"]["violence"], "not flagged"
    )
    say = [{"role": "user", "content": "hello"}]
    azure = f"{GATEWAY}/openai/deployments/chat/chat/completions?api-version=2024-12-01-preview"
    sent = {"model": "chat", "messages": say, "max_tokens": 50, "temperature": 0}
    expect(found(post(azure, sent, {"api-key": API_KEY}))["usage"]["total_tokens"] == 40, "other usage")
    google = f"{GATEWAY}/v1beta/models/gemini-2.5-flash:generateContent"
    asked_of_google = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}], "generationConfig": {}}
    expect(found(post(google, asked_of_google, {"x-goog-api-key": API_KEY}))["candidates"], "no answer")


tell_version(
    "applications' own requests",
    "",
    {
        "Open WebUI's speech": web_ui_speech,
        "Open WebUI's transcription": web_ui_transcription,
        "Open WebUI's images": web_ui_images,
        "Open WebUI's images by Google": web_ui_images_by_gemini,
        "Open WebUI's retrieval": web_ui_retrieval,
        "Jina": jina,
        "Voyage": voyage,
        "promptfoo": promptfoo,
    },
)
