"""What is sent of a provider's ranking."""

import json

import pytest

from llm_proxy.json_access import Json
from llm_proxy.sidecar.moderation import moderation_answer
from llm_proxy.sidecar.rerank import rerank_answer

REQUEST: Json = {"documents": ["a", {"title": "b"}]}


def answer(results: object, request: Json = REQUEST, meta: Json | None = None) -> Json | None:
    """The answer to two documents."""
    return rerank_answer({"id": "r", "results": results, "meta": meta}, None, request, "ranker")


@pytest.mark.parametrize(
    "results",
    [
        None,
        "x",
        [{"index": 2, "relevance_score": 1.0}],
        [{"index": -1, "relevance_score": 1.0}],
        [{"index": True, "relevance_score": 1.0}],
        [{"index": 0}],
        [{"index": 0, "relevance_score": float("nan")}],
        [{"index": 0, "relevance_score": "1"}],
        [{"index": 0, "relevance_score": 1.0}, {"index": 0, "relevance_score": 0.5}],
        [None],
    ],
)
def test_what_ranks_no_sent_document_once_is_no_answer(results: object) -> None:
    """An index beyond them, twice the same, no score."""
    assert answer(results) is None


def test_no_result_is_an_answer() -> None:
    """A provider may leave out what is not relevant."""
    found = answer([])
    assert found is not None
    assert found["results"] == []


def test_documents_that_were_asked_for_are_the_request_s_where_the_provider_sends_none() -> None:
    """A text as an object, an object as it was."""
    ranked: list[Json] = [{"index": 1, "relevance_score": 1}, {"index": 0, "relevance_score": 0.5}]
    found = answer(ranked, REQUEST | {"return_documents": True})
    assert found is not None
    assert [one["document"] for one in found["results"]] == [{"title": "b"}, {"text": "a"}]


def test_nothing_that_is_not_stated_is_counted() -> None:
    """Neither search units nor tokens."""
    found = answer([], meta={"billed_units": {"search_units": None}, "tokens": None})
    assert found is not None
    assert found["meta"] == {"billed_units": {}}
    assert "usage" not in found


MODERATIONS: list[tuple[Json, object, bool]] = [
    ({"results": [{"categories": {"a": True}}]}, "x", True),
    ({"results": [{"categories": {"a": True}}]}, [{"type": "text", "text": "x"}], True),
    ({"results": [{"categories": {"a": True}}]}, ["x", "y"], False),
    ({"results": []}, "x", False),
    ({"results": [{}]}, "x", False),
    ({"error": {"message": "no"}}, "x", False),
]


@pytest.mark.parametrize(("raw", "given", "judged"), MODERATIONS)
def test_a_moderation_judges_each_input(raw: Json, given: object, *, judged: bool) -> None:
    """Parts are one input."""
    sent = json.dumps(raw).encode()
    assert moderation_answer(sent, {"input": given}) == (sent if judged else None)
    assert moderation_answer(b"<html>", {"input": given}) is None
