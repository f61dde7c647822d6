"""Guardrails on every call: what they read of reranking, moderations, images and audio, block and mask."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from loopback import NO_TLS
from sidecars import KEY, Json, Provider, Sidecar, deployment, run_sidecar

MODULE = """
from fastapi import HTTPException
from litellm.integrations.custom_guardrail import CustomGuardrail


class Judge(CustomGuardrail):
    async def apply_guardrail(self, inputs, request_data, input_type, logging_obj=None):
        blocked, hidden = {"request": ("yak", "hush"), "response": ("gnu", "secret")}[input_type]
        texts = inputs.get("texts") or []
        if any(blocked in one for one in texts):
            raise HTTPException(status_code=451, detail={"error": "No such beasts"})
        inputs["texts"] = [one.replace(hidden, "[hidden]") for one in texts]
        return inputs


class Beside(CustomGuardrail):
    async def async_moderation_hook(self, data, user_api_key_dict, call_type):
        if "emu" in str(data):
            raise HTTPException(status_code=451, detail={"error": "No emus"})


class After(CustomGuardrail):
    async def async_post_call_success_hook(self, data, user_api_key_dict, response):
        if "kudu" in str(data.get("prompt")):
            raise HTTPException(status_code=451, detail={"error": "No pictures of kudus"})
        return response
"""
MODELS = {
    "rank": "cohere/rerank-v3.5",
    "moderate": "openai/omni-moderation-latest",
    "speak": "openai/tts-1",
    "paint": "openai/gpt-image-1.5",
    "hear": "openai/gpt-4o-mini-transcribe",
}
BODIES: dict[str, tuple[str, Json]] = {
    "/v1/rerank": ("query", {"model": "rank", "documents": ["a", "b"]}),
    "/v1/moderations": ("input", {"model": "moderate"}),
    "/v1/audio/speech": ("input", {"model": "speak", "voice": "alloy"}),
    "/v1/images/generations": ("prompt", {"model": "paint"}),
}
OPERATIONS = ("transcriptions", "translations")
FORMATS = ("json", "verbose_json", "diarized_json", "text", "stream")


@pytest.fixture(scope="module")
def guarded(provider: Provider, service_folder: Path) -> Iterator[Sidecar]:
    """A sidecar whose guardrails check every call, before, beside and after it."""
    folder = service_folder / "guarded-media"
    folder.mkdir()
    (folder / "media_judge.py").write_text(MODULE)
    judge = {"guardrail": "media_judge.Judge", "mode": ["pre_call", "post_call"], "default_on": True}
    beside = {"guardrail": "media_judge.Beside", "mode": "during_call", "default_on": True}
    after = {"guardrail": "media_judge.After", "mode": "post_call", "default_on": True}
    config: Json = {
        "model_list": [deployment(group, model, provider, num_retries=0) for group, model in MODELS.items()],
        "guardrails": [
            {"guardrail_name": "judge", "litellm_params": judge},
            {"guardrail_name": "beside", "litellm_params": beside},
            {"guardrail_name": "after", "litellm_params": after},
        ],
    }
    with run_sidecar(config, provider, folder) as started:
        yield started


async def hear(sidecar: Sidecar, operation: str, text: str, form: str, words: str = "") -> httpx.Response:
    """A transcription whose provider hears this text."""
    prompt = f"{words} {json.dumps({'do': 'ok', 'text': text})}"
    fields = {"stream": "true"} if form == "stream" else {"response_format": form}
    async with httpx.AsyncClient(verify=NO_TLS, headers={"authorization": f"Bearer {KEY}"}) as client:
        return await client.post(
            f"{sidecar.url}/v1/audio/{operation}",
            data={"model": "hear", "prompt": prompt, **fields},
            files={"file": ("a.mp3", b"sound", "audio/mpeg")},
        )


def is_refused(headers: Mapping[str, str]) -> bool:
    """Whether a guardrail's own status is stated for the gateway."""
    return (headers.get("x-llmp-origin"), headers.get("x-llmp-guardrail-status")) == ("guardrail", "451")


@pytest.mark.parametrize("path", BODIES)
async def test_a_text_is_checked_before_and_beside_the_call(guarded: Sidecar, path: str) -> None:
    """But that of a moderation is read by guardrails with hooks of their own alone."""
    field, body = BODIES[path]
    for beast in ("emu",) if path == "/v1/moderations" else ("emu", "yak"):
        mark = str(uuid4())
        assert is_refused((await guarded.post(path, body | {field: f"{beast} {mark}"})).headers)
        assert await guarded.provider.calls(mark) == []
    answer = await guarded.post(path, body | {field: f"hush {(mark := str(uuid4()))}"})
    [call] = await guarded.provider.calls(mark)
    assert answer.status == 200, answer.text
    assert call["body"][field] == f"{'hush' if path == '/v1/moderations' else '[hidden]'} {mark}"


async def test_documents_of_a_rerank_are_checked_and_masked(guarded: Sidecar) -> None:
    """Texts, and the texts of objects."""
    body = {"model": "rank", "query": (mark := str(uuid4()))}
    for document in ("a yak", {"text": "a yak"}, {"title": "a", "body": "a yak"}):
        assert is_refused((await guarded.post("/v1/rerank", body | {"documents": ["a", document]})).headers)
    answer = await guarded.post("/v1/rerank", body | {"documents": ["a hush", "b"]})
    assert answer.status == 200, answer.text
    [call] = await guarded.provider.calls(mark)
    assert call["body"]["documents"] == ["a [hidden]", "b"]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_what_is_heard_is_judged_and_masked(guarded: Sidecar, operation: str, form: str) -> None:
    """In every format; of a masked text no part is sent that holds the old one. What passes is unchanged."""
    assert is_refused((await hear(guarded, operation, "a gnu here", form)).headers)
    masked = await hear(guarded, operation, "a secret here", form)
    assert masked.status_code == 200, masked.text
    assert "a [hidden] here" in masked.text
    assert "sec" not in masked.text
    fine = await hear(guarded, operation, "a fine day", form)
    assert fine.headers["content-type"] == masked.headers["content-type"]
    assert form != "stream" or fine.text.count("transcript.text.delta") == 2
    if form != "text":
        assert "17" in fine.headers.get("x-llmp-usage", fine.text)


@pytest.mark.parametrize("operation", ["generations", "edits"])
async def test_rejected_pictures_were_paid_for(guarded: Sidecar, operation: str) -> None:
    """Tokens, pictures and cost of an answer that was made are stated beside its rejection."""
    link = {"images": [{"image_url": "data:image/png;base64,iVBORw0KGgo="}]} if operation == "edits" else {}
    answer = await guarded.post(f"/v1/images/{operation}", {"model": "paint", "prompt": "a kudu"} | link)
    assert is_refused(answer.headers)
    used: Json = json.loads(answer.headers["x-llmp-usage"])
    counts = (used["prompt_tokens"], used["completion_tokens"], used["images"])
    assert (counts, used["cost"]) == ((17, 23, 1), "0.000753")  # 17 x $1e-6, 23 x $3.2e-5


@pytest.mark.parametrize("form", ["srt", "vtt"])
async def test_subtitles_are_judged(guarded: Sidecar, form: str) -> None:
    """As the text that they are."""
    assert is_refused((await hear(guarded, "transcriptions", "gnu", form)).headers)
    assert "fine" in (await hear(guarded, "transcriptions", "fine", form)).text


async def test_the_prompt_of_a_transcription_is_checked_and_masked(guarded: Sidecar) -> None:
    """Before a provider hears it."""
    assert is_refused((await hear(guarded, "transcriptions", "x", "json", "a yak")).headers)
    mark = str(uuid4())
    answer = await hear(guarded, "transcriptions", "x", "json", f"hush {mark}")
    assert answer.status_code == 200, answer.text
    [call] = await guarded.provider.calls(mark)
    assert call["body"]["prompt"].startswith(f"[hidden] {mark}")
