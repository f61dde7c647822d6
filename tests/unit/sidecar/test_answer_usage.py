"""What the sidecar states of answers in the shapes of OpenAI, Cohere, Jina and LiteLLM's own objects."""

from typing import Any

import pytest

from llm_proxy.endpoints import Endpoint
from llm_proxy.quantities import NOTHING, Quantities, decode_usage
from llm_proxy.sidecar import answer_usage
from llm_proxy.sidecar.call_outcome import CallOutcome

RERANKED: dict[str, Any] = {"results": [], "meta": {"billed_units": {"search_units": 2}}}
TRANSCRIBED = {"type": "tokens", "input_tokens": 100, "output_tokens": 20}
HEARD = {"input_token_details": {"text_tokens": 10, "audio_tokens": 90}}
DRAWN = {"input_tokens": 50, "output_tokens": 4160, "input_tokens_details": {"text_tokens": 10}}


class Answer:
    """As LiteLLM's response objects: values in attributes, its own ones in `_hidden_params`."""

    def __init__(self, hidden: dict[str, Any], **values: Any) -> None:
        self._hidden_params = hidden
        self.__dict__ |= values


STATED: list[tuple[Endpoint, dict[str, Any], dict[str, int], Quantities]] = [
        ("rerank", RERANKED, {}, Quantities(search_units=2)),
        ("rerank", {"meta": {"billed_units": {"total_tokens": 34}}}, {"prompt_tokens": 34}, NOTHING),
        ("rerank", {"meta": {"tokens": {"input_tokens": 5}}}, {"prompt_tokens": 5}, NOTHING),
        ("rerank", {"meta": None}, {}, NOTHING),
        ("rerank", {"meta": {"billed_units": {"search_units": -1}}}, {}, NOTHING),
        ("moderations", {"results": [{}]}, {}, NOTHING),
        ("images.generations", {"data": [{}, {}]}, {}, Quantities(images=2)),
        ("images.edits", {"data": None}, {}, NOTHING),
        ("images.edits", {"data": [{}], "usage": {"input_tokens": 0, "output_tokens": 0}}, {}, Quantities(1)),
        (
            "images.generations",
            {"data": [{}], "usage": DRAWN},
            {"prompt_tokens": 50, "completion_tokens": 4160, "prompt_text_tokens": 10,
             "completion_image_tokens": 4160},
            Quantities(images=1),
        ),
        ("audio.transcriptions", {"usage": {"type": "duration", "seconds": 7}, "duration": 6.6}, {},
         Quantities(audio_ms=7000)),
        ("audio.translations", {"duration": 8.4001}, {}, Quantities(audio_ms=8401)),
        ("audio.transcriptions", {"duration": "nan"}, {}, NOTHING),
        ("audio.transcriptions", {"duration": 1e300}, {}, NOTHING),
        (
            "audio.transcriptions",
            {"usage": TRANSCRIBED | HEARD},
            {"prompt_tokens": 100, "completion_tokens": 20, "prompt_audio_tokens": 90,
             "prompt_text_tokens": 10},
            NOTHING,
        ),
]  # fmt: skip


@pytest.mark.parametrize(("endpoint", "answer", "tokens", "quantities"), STATED)
def test_what_an_answer_states(
    endpoint: Endpoint, answer: dict[str, Any], tokens: dict[str, int], quantities: Quantities
) -> None:
    """Of an object of the API, and of LiteLLM's response object with the same values."""
    for one in (answer, Answer({}, **answer)):
        assert answer_usage.tokens_of(endpoint, one) == tokens
        assert answer_usage.quantities_of(endpoint, one) == quantities


def test_the_length_that_litellm_measured_counts_before_the_stated_one() -> None:
    """And after the billed one; it is rounded up to milliseconds, not beyond."""
    measured = Answer({"audio_transcription_duration": 2.5000000001}, duration=3.0, usage=None)
    assert answer_usage.quantities_of("audio.transcriptions", measured) == Quantities(audio_ms=2500)


def test_spoken_tokens_are_audio() -> None:
    """The last event of spoken text counts its audio in `output_tokens`."""
    answer = {"usage": {"input_tokens": 14, "output_tokens": 101}}
    tokens = {"prompt_tokens": 14, "completion_tokens": 101, "completion_audio_tokens": 101}
    assert answer_usage.tokens_of("audio.speech", answer) == tokens
    assert answer_usage.quantities_of("audio.speech", answer, characters=9) == Quantities(characters=9)


@pytest.mark.parametrize(
    ("endpoint", "answer", "calculated", "cost_usd"),
    [
        ("rerank", RERANKED, 0.004, 0.004),
        ("rerank", RERANKED, 0.0, None),
        ("rerank", RERANKED, None, None),
        ("rerank", RERANKED, float("inf"), None),
        ("moderations", {}, 0.0, None),
        ("audio.speech", {}, 0.0015, None),
        ("audio.transcriptions", {"duration": 3}, 0.0003, 0.0003),
        ("audio.transcriptions", {}, 0.0003, None),
    ],
)
def test_a_cost_is_litellm_s_where_it_calculates_with_the_answer(
    endpoint: Endpoint, answer: dict[str, Any], calculated: float | None, cost_usd: float | None
) -> None:
    """0 without a known price, characters without spaces, and the time of a response are no cost."""
    outcome = CallOutcome()
    answer_usage.state(outcome, endpoint, Answer({"response_cost": calculated}, **answer), characters=3)
    assert outcome.states_cost
    assert outcome.stated_cost_usd == cost_usd
    if outcome.stated_usage is not None:
        stated = decode_usage(outcome.stated_usage.encode())
        assert stated is not None
        assert (stated.cost is not None) == (cost_usd is not None)


def test_an_answer_that_states_nothing_has_no_statement() -> None:
    """The gateway estimates then; it is not told that nothing was used."""
    outcome = CallOutcome()
    answer_usage.state(outcome, "moderations", {"results": []})
    assert outcome.stated_usage is None
    assert b"x-llmp-usage" not in dict(outcome.headers())
