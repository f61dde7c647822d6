"""Repair of frames and answers in OpenAI's format, and failures stated with status 200."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.sidecar.openai_repair import StreamRepair, SurrogateJoiner, ToolCallRepair, repair_completion
from llm_proxy.sidecar.provider_answers import CheckedResponse, check_response
from llm_proxy.sidecar.provider_errors import find_failure, find_failure_in_text

Json = dict[str, Any]


def call(index: int | None, name: str | None, arguments: str, id_: str | None = None) -> Json:
    """A piece of a tool call."""
    stated: Json = {"function": {"name": name, "arguments": arguments}}
    return stated | ({} if index is None else {"index": index}) | ({} if id_ is None else {"id": id_})


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([call(0, "f", "{", "a"), call(0, None, "}"), call(1, "g", "{}", "b")], {0: "{}", 1: "{}"}),
        ([call(0, "f", "{}", "a"), call(0, "f", "{}", "b")], {0: "{}", 1: "{}"}),
        ([call(0, "f", "{}", "a"), call(0, "g", "[", "b"), call(0, None, "]")], {0: "{}", 1: "[]"}),
        ([call(None, "f", "{", "a"), call(None, None, "}"), call(None, "g", "{}", "b")], {0: "{}", 1: "{}"}),
        ([call(None, "f", "{}"), call(None, "g", "{}")], {0: "{}", 1: "{}"}),
        ([call(0, "f", "{}"), call(0, "g", "{}")], {0: "{}", 1: "{}"}),
        ([call(0, "f", "{", "a"), call(0, "f", "}", "a")], {0: "{}"}),
        ([call(0, "f", "{"), call(0, "f", "}")], {0: "{}"}),
        ([call(1, "f", "{}", "a"), call(2, "g", "{}", "b")], {1: "{}", 2: "{}"}),
    ],
)
def test_each_tool_call_has_an_index_of_its_own(pieces: list[Json], expected: dict[int, str]) -> None:
    """Whatever the provider leaves out or uses twice."""
    calls, found, ids = ToolCallRepair(), dict[int, str](), set[str]()
    for piece in pieces:
        calls.repair(piece)
        found[piece["index"]] = found.get(piece["index"], "") + piece["function"]["arguments"]
        ids |= {piece["id"]} if piece.get("id") else set()
    assert found == expected
    assert len(ids) == len(expected)


@given(st.text(max_size=20), st.lists(st.integers(0, 50), max_size=6))
def test_split_surrogate_pairs_are_joined_in_any_chunking(text: str, cuts: list[int]) -> None:
    """The text is complete again."""
    units = text.encode("utf-16-le", "surrogatepass")
    bounds = sorted({0, len(units) // 2, *(cut % (len(units) // 2 + 1) for cut in cuts)})
    joiner = SurrogateJoiner()
    pieces = [
        units[2 * start : 2 * end].decode("utf-16-le", "surrogatepass") for start, end in pairwise(bounds)
    ]
    joined = "".join(joiner.join("content", piece) for piece in pieces) + joiner.join(
        "content", "", last=True
    )
    assert joined == text


def test_a_single_surrogate_half_is_replaced() -> None:
    """Its other half does not come in the same text."""
    repair = StreamRepair()
    frames: list[Json] = [
        {
            "choices": [
                {"index": 0, "delta": {"content": "a\ud83d"}},
                {"index": 1, "delta": {"content": "\ude00"}},
            ]
        },
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    for frame in frames:
        repair.repair_chunk(frame)
    assert [choice["delta"] for frame in frames for choice in frame["choices"]] == [
        {"content": "a"},
        {"content": "\ufffd"},
        {"content": "\ufffd"},
    ]


@pytest.mark.parametrize(
    ("stated", "expected"),
    [("", None), (None, None), ("eos", "stop"), ("model_length", "length"), ("stop", "stop"), ("odd", "odd")],
)
def test_finish_reasons_are_openai_s_or_the_provider_s(stated: str | None, expected: str | None) -> None:
    """An empty one is none."""
    frame: Json = {"choices": [{"index": 0, "delta": {}, "finish_reason": stated}]}
    StreamRepair().repair_chunk(frame)
    assert frame["choices"][0]["finish_reason"] == expected


@pytest.mark.parametrize(
    "frame", [{}, {"choices": None}, {"choices": [None, {"delta": None}]}, {"choices": {}}]
)
def test_a_frame_always_has_choices_and_deltas(frame: Json) -> None:
    """Of the right types."""
    StreamRepair().repair_chunk(frame)
    assert all(choice["delta"] == {} and choice["index"] == 0 for choice in frame["choices"])


def test_content_in_blocks_is_text_and_reasoning() -> None:
    """As Mistral's reasoning models send it."""
    blocks = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "yes"},
    ]
    answer: Json = {"choices": [{"message": {"content": blocks}}]}
    repair_completion(answer)
    message = answer["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"], message["role"]) == ("yes", "hm", "assistant")


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"error": {"code": 429, "message": "x"}}, 429),
        ({"error": {"code": "429", "message": "x"}}, 429),
        ({"error": {"code": "rate_limit_exceeded", "message": "x"}}, 429),
        ({"type": "error", "error": {"type": "overloaded_error"}}, 529),
        ({"error": {"status": "RESOURCE_EXHAUSTED", "message": "x"}}, 429),
        ({"error": {"type": "invalid_request_error", "message": "x"}}, 400),
        ({"error": "Rate limit exceeded"}, 429),
        ({"error": "boom"}, 500),
        ({"error": {"message": "boom"}, "code": 503}, 503),
        ({"object": "error", "message": "too long", "code": 400}, 400),
        ({"choices": [{"error": {"code": 502, "message": "x"}, "finish_reason": "stop"}]}, 502),
        ({"choices": [{"finish_reason": "error"}]}, 502),
        ({"choices": [{"finish_reason": "insufficient_system_resource"}]}, 502),
        ({"error": {}, "choices": [{"finish_reason": "stop"}]}, None),
        ({"error": {"message": "", "code": None}, "choices": []}, None),
        ({"error": None, "choices": [{"finish_reason": "unknown", "error": None}]}, None),
    ],
)
def test_a_stated_failure_has_a_status(document: Json, status: int | None) -> None:
    """The stated one, or that of its words."""
    failure = find_failure(document)
    assert (failure.status if failure else None) == status


def test_an_error_event_always_states_a_failure() -> None:
    """Text, or an object without `error`."""
    found = find_failure_in_text("boom", error_event=True)
    assert found is not None
    assert (found.status, found.message) == (500, "boom")
    named = find_failure_in_text('{"message": "slow down", "code": 429}', error_event=True)
    assert named is not None
    assert named.status == 429
    assert find_failure_in_text('{"content": "an \\"error\\" of mine"}') is None


def test_the_retry_after_of_openrouter_is_read() -> None:
    """Among the headers of its own provider."""
    failure = find_failure({"error": {"code": 429, "metadata": {"headers": {"Retry-After": 7}}}})
    assert failure is not None
    assert failure.retry_after == "7"


@pytest.mark.parametrize("raw", [b"", b"<html>", b"\xff"])
def test_a_body_that_is_no_json_states_no_failure(raw: bytes) -> None:
    """Its parser will reject it."""
    assert check_response("/v1/chat/completions", raw) == CheckedResponse()


@pytest.mark.parametrize(
    "raw", [b"[]", b"null", b'"\\ud83d"', b"{}", b'{"choices": []}', b'{"choices": [{}]}']
)
def test_a_body_without_an_answer_is_the_provider_s_failure(raw: bytes) -> None:
    """Not the request's."""
    failure = check_response("/v1/chat/completions", raw).failure
    assert failure is not None
    assert failure.status == 502
