"""Audio behind a real LiteLLM: forms reach the provider as they were sent, answers the gateway."""

import hashlib
import json
from typing import Any
from uuid import uuid4

import httpx
import pytest
from loopback import NO_TLS
from sidecars import KEY, Sidecar

SOUND = bytes(range(256)) * 5000
"""More than what a form's reader keeps in memory."""
TRANSCRIPTIONS, TRANSLATIONS = "/v1/audio/transcriptions", "/v1/audio/translations"


async def post(sidecar: Sidecar, path: str, model: str, mark: str = "", **fields: Any) -> httpx.Response:
    """Sends a form as the gateway does."""
    directive = {name: fields.pop(name) for name in ("do", "after", "key", "fails") if name in fields}
    prompt = {"prompt": f"{mark} {json.dumps(directive)}"} if mark or directive else {}
    data = {"model": model, **prompt, **fields}
    async with httpx.AsyncClient(verify=NO_TLS, headers={"authorization": f"Bearer {KEY}"}) as client:
        return await client.post(
            sidecar.url + path, data=data, files={"file": ("a.mp3", SOUND, "audio/mpeg")}
        )


@pytest.mark.parametrize(
    ("group", "path"),
    [("whisper", "/v1/audio/"), ("whisper-azure", "/openai/deployments/whisper-1/audio/")],
)
@pytest.mark.parametrize("operation", ["transcriptions", "translations"])
async def test_a_form_is_sent_as_it_came(sidecar: Sidecar, group: str, path: str, operation: str) -> None:
    """Every field, the whole file, and no field of LiteLLM's; the answer is in the requested format."""
    fields = {"response_format": "srt", "new_field": "kept", "include[]": ["logprobs"], "a[b]": "c"}
    answer = await post(sidecar, f"/v1/audio/{operation}", group, mark := str(uuid4()), **fields)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert answer.text.startswith("1\n00:00:00,000 --> ")
    (call,) = await sidecar.provider.calls(mark)
    assert call["path"] == f"{path}{operation}"
    prompt, files = call["body"].pop("prompt"), call["body"].pop("files")
    assert prompt.startswith(mark)
    names = fields | {"model": "whisper-1", "include": ["logprobs"]}
    assert call["body"] == {name: value for name, value in names.items() if name != "include[]"}
    digest = hashlib.sha256(SOUND).hexdigest()
    assert files == [
        {"name": "file", "filename": "a.mp3", "type": "audio/mpeg", "size": len(SOUND), "sha256": digest}
    ]
    assert answer.headers["x-litellm-model-id"] == group


async def test_what_an_answer_used_is_stated(sidecar: Sidecar) -> None:
    """Time or tokens, with LiteLLM's cost where it calculates one: whisper's is 0.0001 dollars a second."""
    timed = await post(sidecar, TRANSCRIPTIONS, "whisper")
    assert json.loads(timed.headers["x-llmp-usage"])["audio_ms"] == 9000
    assert float(timed.headers["x-litellm-response-cost"]) == pytest.approx(9 * 0.0001)
    counted = await post(sidecar, TRANSCRIPTIONS, "transcriber")
    stated = json.loads(counted.headers["x-llmp-usage"])
    assert (stated["prompt_tokens"], stated["completion_tokens"], stated["prompt_audio_tokens"]) == (
        17,
        23,
        14,
    )
    streamed = await post(sidecar, TRANSCRIPTIONS, "transcriber", stream="true")
    *events, comment, rest = streamed.text.split("\n\n")
    assert (rest, comment.startswith(": llmp-usage {")) == ("", True)
    assert json.loads(events[-1].removeprefix("data: "))["type"] == "transcript.text.done"
    assert json.loads(comment.removeprefix(": llmp-usage "))["prompt_tokens"] == 17


@pytest.mark.parametrize("play", ["cut", "eof", "half-frame"])
async def test_a_broken_stream_ends_in_an_error(sidecar: Sidecar, play: str) -> None:
    """In one event, whatever broke it."""
    answer = await post(sidecar, TRANSCRIPTIONS, "transcriber", stream="true", do=play, after=2)
    *_, last = answer.text.rstrip().split("\n\n")
    assert last.startswith('data: {"error": ')


async def test_another_provider_s_protocol(sidecar: Sidecar) -> None:
    """LiteLLM translates transcriptions; for what it cannot it has an error, and nothing is sent."""
    for form, content_type in (("verbose_json", "application/json"), ("text", "text/plain; charset=utf-8")):
        answer = await post(sidecar, TRANSCRIPTIONS, "deepgram", response_format=form)
        assert (answer.status_code, answer.headers["content-type"]) == (200, content_type), answer.text
        assert json.loads(answer.headers["x-llmp-usage"])["audio_ms"] == 9000
        (call,) = [one for one in await sidecar.provider.calls("") if one["path"].endswith("/listen")][-1:]
        assert call["body"]["files"] == [{"size": len(SOUND), "sha256": hashlib.sha256(SOUND).hexdigest()}]
    translated = await post(sidecar, TRANSLATIONS, "deepgram", mark := str(uuid4()))
    assert translated.status_code == 404
    assert "has no /v1/audio/translations" in translated.text
    for field, given in (("response_format", "vtt"), ("temperature", "0.5"), ("prompt", mark)):
        refused = await post(sidecar, TRANSCRIPTIONS, "deepgram", **{field: given})
        assert refused.status_code == 400
        assert "provider has no" in refused.text
        assert field in refused.text
    assert not await sidecar.provider.calls(mark)


@pytest.mark.parametrize(
    ("disabled", "status", "calls"),
    [("true", 500, ["first"] * 3), ("false", 200, ["first"] * 3 + ["second"])],
)
async def test_a_fallback_gets_the_file_unless_the_gateway_forbids_it(
    sidecar: Sidecar, disabled: str, status: int, calls: list[str]
) -> None:
    """A caller may not use every group that a call could fall back to."""
    mark = str(uuid4())
    answer = await post(
        sidecar, TRANSCRIPTIONS, "first", mark, do="flaky", key=mark, fails=3, disable_fallbacks=disabled
    )
    assert answer.status_code == status
    seen = await sidecar.provider.calls(mark)
    assert [call["model"] for call in seen] == calls
    assert {call["body"]["files"][0]["size"] for call in seen} == {len(SOUND)}
