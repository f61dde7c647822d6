"""Answers of image models: what a stream states, what LiteLLM invented, events of a whole answer."""

import json

import pytest

from llm_proxy.json_access import Json
from llm_proxy.sidecar import images

USAGE: Json = {
    "input_tokens": 10,
    "output_tokens": 20,
    "total_tokens": 30,
    "input_tokens_details": {"text_tokens": 10},
}
LAST = "image_generation.completed"


def _frame(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def test_a_stream_is_summed_up_as_a_whole_answer_without_pictures() -> None:
    """Each last event is one picture with tokens of its own; the settings are those of the last."""
    summary = images.StreamSummary()
    summary.read(b": ping\n\n" + _frame("image_generation.partial_image", b64_json="A" * 99))
    assert summary.answer() is None
    for size in ("1x1", "2x2"):
        summary.read(_frame(LAST, b64_json="AAAA", size=size, created_at=7, usage=USAGE))
    summary.read(b"data: [DONE]\n\n")
    assert json.loads(summary.answer() or b"") == {
        "created": 7,
        "size": "2x2",
        "data": [{"b64_json": ""}, {"b64_json": ""}],
        "usage": {
            "input_tokens": 20, "output_tokens": 40, "total_tokens": 60,
            "input_tokens_details": {"text_tokens": 20},
        },
    }  # fmt: skip
    assert summary.failure is None


def test_a_stream_s_first_error_is_its_failure() -> None:
    """A frame that holds no event is none of the provider's errors."""
    summary = images.StreamSummary()
    summary.read(_frame("error", error={"code": "moderation_blocked", "message": "No."}))
    summary.read(_frame("error", error={"code": "500", "message": "later"}))
    assert summary.failure is not None
    assert (summary.failure.status, summary.failure.message) == (400, "No.")
    with pytest.raises(images.NotAnEvent):
        summary.read(b"data: {\n\n")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b'{"data": [{"b64_json": ""}]}', None),
        (b'{"data": [{"url": "https://a"}], "error": null}', None),
        (b'{"data": []}', 502),
        (b'{"created": 1}', 502),
        (b"<html>", 502),
        (b"", 502),
        (b'{"error": {"message": "No.", "code": "content_policy_violation"}}', 400),
    ],
)
def test_an_answer_states_a_picture_or_a_failure(answer: bytes, status: int | None) -> None:
    """Whatever its HTTP status says."""
    failure = images.find_failure_in_answer(answer)
    assert (failure and failure.status) == status


def test_fields_that_litellm_invents_are_left_out() -> None:
    """Nulls, and a usage of zero; a usage that was stated stays."""
    picture = {"b64_json": "AAAA", "url": None, "revised_prompt": None, "provider_specific_fields": None}
    zero = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    given: Json = {"created": 1, "size": None, "data": [picture], "usage": zero}
    assert images.translated_answer(given) == {"created": 1, "data": [{"b64_json": "AAAA"}]}
    assert images.translated_answer(given | {"usage": USAGE})["usage"] == USAGE


@pytest.mark.parametrize(
    ("encoded", "made"),
    [("iVBORw0KGgo", "png"), ("/9j/4AAQ", "jpeg"), ("UklGRh4A", "webp"), ("R0lGODlh", "gif")],
)
def test_a_whole_answer_is_one_event_a_picture(encoded: str, made: str) -> None:
    """What is not known of it is `auto`; the tokens of all are stated once."""
    answer: Json = {
        "created": 5,
        "size": "1x1",
        "data": [{"b64_json": encoded}, {"url": "https://a"}],
        "usage": USAGE,
    }
    first, second = images.events_of(answer, "images.edits").split(b"\n\n")[:-1]
    head, _, data = first.partition(b"\ndata: ")
    assert head == b"event: image_edit.completed"
    assert json.loads(data) == {
        "type": "image_edit.completed", "b64_json": encoded, "created_at": 5, "output_format": made,
        "size": "1x1", "quality": "auto", "background": "auto",
    }  # fmt: skip
    later = json.loads(second.partition(b"\ndata: ")[2])
    assert (later["url"], later["usage"]) == ("https://a", USAGE)
