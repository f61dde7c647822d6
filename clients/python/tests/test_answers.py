"""Answers that are none: they are errors, never an empty text or a vector of another text."""

from typing import Any

import pytest
import scripted_providers

from llm_proxy_service import LLMProxyService, ProviderError, create_completion_request
from llm_proxy_service.chat_answers import Served, read_answer, read_vectors

SERVED = Served(provider="a", request_id="r-1")


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"choices": []},
        {"choices": "x"},
        {"choices": [{"message": None}]},
        {"choices": [{"message": "x"}]},
    ],
)
def test_an_answer_without_a_message_is_none(raw: dict[str, Any]) -> None:
    with pytest.raises(ProviderError, match="no message") as caught:
        read_answer(raw, SERVED, 0.1)
    assert (caught.value.code, caught.value.provider, caught.value.request_id) == (
        "invalid_answer",
        "a",
        "r-1",
    )
    assert not caught.value.retryable


@pytest.mark.parametrize("vector", [None, "abc", [], [1.0, "x"], {"0": 1.0}])
def test_each_text_has_its_vector(vector: object) -> None:
    raw = {"data": [{"index": 0, "embedding": [1, 2.5]}, {"index": 1, "embedding": vector}]}
    with pytest.raises(ProviderError, match="has 1 vectors for 2 inputs"):
        read_vectors(raw, SERVED, 2)


def test_vectors_have_the_order_of_their_texts() -> None:
    raw = {"data": [{"index": 1, "embedding": [1]}, {"index": 0, "embedding": [2.5]}]}
    assert read_vectors(raw, SERVED, 2).vectors == [[2.5], [1.0]]


async def test_such_an_answer_is_a_failed_call() -> None:
    """Another server's JSON, at the address of the gateway; it is counted, and requested once."""
    with scripted_providers.running(1) as (address,):
        async with LLMProxyService(base_url=address) as service:
            prompt = '{"do": "raw", "raw": ["{\\"status\\": \\"fine\\"}"]}'
            with pytest.raises(ProviderError, match="the answer of the gateway has no message"):
                await service.generate_completion(create_completion_request(prompt, model="plain"))
            assert service.get_service_stats()["failed_requests"] == 1
        assert len(scripted_providers.seen_by(address)) == 1
