"""Images behind a real LiteLLM: whole answers pass as bytes, streams as events, whoever the provider is."""

import asyncio
import base64
import json
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from loopback import NO_TLS
from sidecars import CUT, KEY, Answer, Json, Sidecar
from stages.conftest import Reader

PATH = "/v1/images/generations"
NO_CACHE: Json = {"cache": {"no-cache": True, "no-store": True}}
FIELDS: Json = {
    "n": 2, "size": "1024x1536", "quality": "high", "background": "transparent", "moderation": "low",
    "output_format": "webp", "output_compression": 50, "partial_images": 2, "user": "u-1",
    "safety_identifier": "s-1", "complexity": "low",
}  # fmt: skip
PARTIAL, COMPLETED = "image_generation.partial_image", "image_generation.completed"
OPENAI_GROUPS = ("paint", "paint-azure")
PRICES = {"paint": (5e-06, 8e-06, 3.2e-05), "paint-azure": (5e-06, 1e-05, 4e-05)}
"""US dollars a token: of text, of an image that is read, of an image that is made."""


def requested(model: str, mark: str = "", **more: Any) -> Json:
    """A request whose prompt tells the provider what to do."""
    directive = {
        name: more.pop(name) for name in list(more) if name not in {*FIELDS, "stream", "response_format"}
    }
    return {"model": model, "prompt": f"{mark} {json.dumps(directive)}", **more, **NO_CACHE}


def comment(answer: Answer) -> Json:
    """What a stream's last line states."""
    line = answer.text.rstrip("\n").rpartition("\n")[2]
    assert line.startswith(": llmp-usage ")
    found: Json = json.loads(line.removeprefix(": llmp-usage "))
    return found


def events(answer: Answer) -> list[Json]:
    """The events of a stream."""
    return [one for one in answer.events if isinstance(one, dict)]


@pytest.mark.parametrize("group", OPENAI_GROUPS)
async def test_an_answer_and_its_request_stay_as_they_are(sidecar: Sidecar, group: str) -> None:
    """Every field reaches the provider, and every byte of its answer the caller."""
    body = requested(group, mark := str(uuid4()), do="ok", **FIELDS)
    answer = await sidecar.post(PATH, body)
    assert answer.status == 200
    [call] = await sidecar.provider.calls(mark)
    sent = {name: value for name, value in body.items() if name not in ("cache", "model")}
    assert {name: value for name, value in call["body"].items() if name != "model"} == sent
    assert answer.json["provider_addition"] is True
    assert answer.json["background"] == "transparent"
    assert [list(one) for one in answer.json["data"]] == [["b64_json"], ["b64_json"]]
    assert base64.b64decode(answer.json["data"][0]["b64_json"]).startswith(b"\x89PNG")
    assert answer.headers["x-litellm-model-id"] == group


@pytest.mark.parametrize("group", OPENAI_GROUPS)
@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_are_stated_and_cost_what_reckoning_by_hand_says(
    sidecar: Sidecar, group: str, *, stream: bool
) -> None:
    """Text, images that were read and images that were made have prices of their own."""
    used: Json = {"prompt_tokens": 300, "image_tokens": 200, "completion_tokens": 4160}
    answer = await sidecar.post(PATH, requested(group, do="ok", stream=stream, **used))
    assert answer.status == 200
    stated = comment(answer) if stream else json.loads(answer.headers["x-llmp-usage"])
    text, read, made = PRICES[group]
    assert float(stated.pop("cost")) == pytest.approx(100 * text + 200 * read + 4160 * made)
    assert stated == {
        "prompt_tokens": 300, "prompt_text_tokens": 100, "prompt_image_tokens": 200,
        "completion_tokens": 4160, "completion_image_tokens": 4160, "images": 1,
    }  # fmt: skip


async def test_an_image_has_a_price_where_its_model_has_no_tokens(sidecar: Sidecar) -> None:
    """And none where the price list has none; a usage of zero is not invented."""
    priced = await sidecar.post(PATH, requested("paint-imagen", n=2, size="1024x1024"))
    assert json.loads(priced.headers["x-llmp-usage"]) == {"images": 2, "cost": "0.08"}
    unpriced = await sidecar.post(PATH, requested("paint-dalle", quality="hd"))
    assert json.loads(unpriced.headers["x-llmp-usage"]) == {"images": 1}
    assert "x-litellm-response-cost" not in unpriced.headers
    for answer in (priced, unpriced):
        assert "usage" not in answer.json
    assert [sorted(one) for one in unpriced.json["data"]] == [["revised_prompt", "url"]]
    assert [list(one) for one in priced.json["data"]] == [["b64_json"], ["b64_json"]]


@pytest.mark.parametrize("group", OPENAI_GROUPS)
async def test_events_pass_as_they_were_sent(sidecar: Sidecar, group: str) -> None:
    """Partial images, then the last; the comment follows, and no end mark is added."""
    answer = await sidecar.post(
        PATH, requested(group, mark := str(uuid4()), do="ok", partial_images=3, stream=True)
    )
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-litellm-model-id"] == group
    [call] = await sidecar.provider.calls(mark)
    assert (call["body"]["stream"], call["body"]["partial_images"]) == (True, 3)
    assert [one["type"] for one in events(answer)] == [PARTIAL] * 3 + [COMPLETED]
    assert [one["partial_image_index"] for one in events(answer)[:3]] == [0, 1, 2]
    assert "[DONE]" not in answer.text
    assert comment(answer)["images"] == 1


@pytest.mark.parametrize("group", ["paint-imagen", "paint-gemini"])
async def test_a_provider_without_streams_answers_in_one_event(sidecar: Sidecar, group: str) -> None:
    """Fields that only say how are left out: LiteLLM would send them, or fail."""
    fields = {"partial_images": 2, "safety_identifier": "s", "response_format": "b64_json"}
    body = requested(group, mark := str(uuid4()), do="ok", stream=True, **fields)
    answer = await sidecar.post(PATH, body)
    assert answer.status == 200
    [call] = await sidecar.provider.calls(mark)
    for name in (*fields, "stream"):
        assert name not in json.dumps(call["body"])
    [event] = events(answer)
    assert (event["type"], event["output_format"]) == (COMPLETED, "png")
    assert base64.b64decode(event["b64_json"]).startswith(b"\x89PNG")
    assert comment(answer)["images"] == 1
    if group == "paint-gemini":
        assert event["usage"]["output_tokens"] == 23


@pytest.mark.parametrize(
    ("group", "usd"), [("paint-stability", 0.03), ("paint-bedrock", 0.08), ("paint-vertex", None)]
)
async def test_other_providers_make_images_too(sidecar: Sidecar, group: str, usd: float | None) -> None:
    """Each in its own format: a form, a signed request, predictions."""
    answer = await sidecar.post(PATH, requested(group, mark := str(uuid4()), do="ok"))
    assert answer.status == 200, answer.text
    assert base64.b64decode(answer.json["data"][0]["b64_json"]).startswith(b"\x89PNG")
    cost = {"cost": str(usd)} if usd is not None else {}  # the price list has it, or not
    assert json.loads(answer.headers["x-llmp-usage"]) == {"images": 1, **cost}
    assert len(await sidecar.provider.calls(mark)) == 1
    streamed = await sidecar.post(PATH, requested(group, do="ok", stream=True))
    assert [one["type"] for one in events(streamed)] == [COMPLETED]


async def test_a_large_picture_passes_whole_and_streamed(sidecar: Sidecar) -> None:
    """Twenty megabytes in one event, and in an answer."""
    whole = await sidecar.post(PATH, requested("paint", do="ok", image_bytes=15 * 10**6))
    assert len(base64.b64decode(whole.json["data"][0]["b64_json"])) == 15 * 10**6
    streamed = await sidecar.post(PATH, requested("paint", do="ok", image_bytes=15 * 10**6, stream=True))
    [event] = events(streamed)
    assert len(base64.b64decode(event["b64_json"])) == 15 * 10**6


@pytest.mark.parametrize("do", ["cut", "reset", "eof", "half-frame"])
async def test_a_stream_that_breaks_ends_in_an_error_and_is_not_made_again(sidecar: Sidecar, do: str) -> None:
    """What was passed was paid for; a second attempt would send other images after the first."""
    body = requested("paint", mark := str(uuid4()), do=do, after=1, partial_images=2, stream=True)
    answer = await sidecar.post(PATH, body)
    assert answer.status == 200
    first, last = events(answer)
    assert first["type"] == PARTIAL
    assert last["error"]["code"] == CUT
    assert len(await sidecar.provider.calls(mark)) == 1


async def test_an_error_in_a_stream_is_told_in_the_provider_s_words(sidecar: Sidecar) -> None:
    """Before the first event it is a response, and after that an event."""
    error = {"do": "error-in-200", "partial_images": 2, "stream": True}
    answer = await sidecar.post(PATH, requested("paint", mark := str(uuid4()), **error, after=1))
    assert answer.status == 200
    assert [one.get("error", {}).get("code") for one in events(answer)] == [None, "moderation_blocked", CUT]
    assert len(await sidecar.provider.calls(mark)) == 1
    refused = await sidecar.post(PATH, requested("paint", mark := str(uuid4()), **error, after=0))
    assert refused.status == 400
    assert refused.headers["x-llmp-provider-code"] == "moderation_blocked"
    assert len(await sidecar.provider.calls(mark)) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_event_is_retried_and_falls_back(
    sidecar: Sidecar, *, stream: bool
) -> None:
    """As for every call; the answer is the other provider's."""
    again = requested("paint", mark := str(uuid4()), do="flaky", key=mark, fails=1, status=500, stream=stream)
    answer = await sidecar.post(PATH, again)
    assert answer.status == 200
    assert len(await sidecar.provider.calls(mark)) == 2
    assert [status for _, _, status in json.loads(answer.headers["x-llmp-hops"])] == [500, 200]
    elsewhere = await sidecar.post(PATH, requested("paint-away", stream=stream))
    assert elsewhere.status == 200
    assert elsewhere.headers["x-llmp-deployment"] == "paint-imagen"
    if stream:
        assert elsewhere.headers["x-litellm-model-group"] == "paint-imagen"
        assert [one["type"] for one in events(elsewhere)] == [COMPLETED]


@pytest.mark.parametrize("do", ["error-in-200", "garbage", "empty", "not-sse", "raw"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_a_picture_is_a_failure(sidecar: Sidecar, do: str, *, stream: bool) -> None:
    """Whatever the provider sends with status 200."""
    raw: Json = {"raw": [json.dumps({"created": 1, "data": []})]} if do == "raw" else {}
    answer = await sidecar.post(PATH, requested("paint-lone", do=do, stream=stream, after=0, **raw))
    assert answer.status >= 400


@pytest.mark.parametrize("group", ["paint-imagen", "paint-gemini"])
@pytest.mark.parametrize("field", ["background", "output_compression", "quality"])
async def test_a_field_that_a_provider_does_not_know_is_refused(
    sidecar: Sidecar, group: str, field: str
) -> None:
    """By name and at once: LiteLLM sends it, or fails with a traceback."""
    body = requested(group, mark := str(uuid4()), do="ok", **{field: FIELDS[field]})
    answer = await sidecar.post(PATH, body)
    assert "UnsupportedParamsError" in answer.text
    assert field in answer.text
    assert "Traceback" not in answer.text
    assert await sidecar.provider.calls(mark) == []


async def test_a_refused_picture_is_the_request_s_fault(sidecar: Sidecar) -> None:
    """In OpenAI's words and in Google's; sent once."""
    refused = await sidecar.post(PATH, requested("paint", mark := str(uuid4()), do="policy"))
    assert (refused.status, refused.headers["x-llmp-provider-code"]) == (400, "content_policy_violation")
    assert len(await sidecar.provider.calls(mark)) == 1
    withheld = {
        "paint-gemini": {"candidates": [{"finishReason": "IMAGE_SAFETY", "index": 0}]},
        "paint-imagen": {"predictions": [{"raiFilteredReason": "Unable to show."}]},
    }
    for group, fields in withheld.items():
        body = requested(group, mark := str(uuid4()), do="raw", raw=[json.dumps(fields)])
        answer = await sidecar.post(PATH, body)
        assert (answer.status, answer.headers["x-llmp-provider-code"]) == (400, "content_policy_violation")
        assert len(await sidecar.provider.calls(mark)) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_is_one_row_of_the_call_log(sidecar: Sidecar, log: Reader, *, stream: bool) -> None:
    """With its tokens and its cost; one that breaks is a failure."""
    for do, status in (("ok", "success"), ("eof", "failure")):
        call_id: UUID = uuid4()
        body = requested("paint", do=do, stream=stream, after=1, partial_images=2)
        await sidecar.post(PATH, body, **{"x-litellm-call-id": str(call_id)})
        rows = await log.rows(call_id)
        assert rows[-1]["status"] == status
        if status == "success":
            assert (rows[0]["prompt_tokens"], rows[0]["completion_tokens"]) == (17, 23)
            assert float(rows[0]["cost_usd"]) == pytest.approx(17 * 5e-06 + 23 * 3.2e-05)


@pytest.mark.parametrize("after", [0, 1])
async def test_a_caller_who_hangs_up_ends_the_provider_s_call(sidecar: Sidecar, after: int) -> None:
    """Before the first event and in the middle."""
    body = requested("paint", mark := str(uuid4()), do="silence", after=after, partial_images=2, stream=True)
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=40) as client:
        async with asyncio.timeout(20):
            request = client.stream("POST", sidecar.url + PATH, json=body, headers=headers)
            if after:
                async with request as reply:
                    async for _ in reply.aiter_bytes():
                        break
            else:
                waiting = asyncio.create_task(request.__aenter__())
                while not await sidecar.provider.calls(mark):  # noqa: ASYNC110 -- nothing tells
                    await asyncio.sleep(0.02)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
            assert await sidecar.provider.client_left_s(mark) > 0
    assert len(await sidecar.provider.calls(mark)) == 1
