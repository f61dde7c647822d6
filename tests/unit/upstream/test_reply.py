"""Required nulls of a reply."""

from typing import TYPE_CHECKING

from llm_proxy.upstream.reply import add_required_nulls

if TYPE_CHECKING:
    from llm_proxy.json_access import Json


def test_a_chat_answer_gets_every_required_null() -> None:
    """`logprobs` of a choice, `content` and `refusal` of its message."""
    answer: Json = {"object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant"}}]}
    assert add_required_nulls(answer)
    message = {"role": "assistant", "content": None, "refusal": None}
    assert answer["choices"] == [{"index": 0, "message": message, "logprobs": None}]


def test_a_completion_gets_its_logprobs_and_no_message() -> None:
    """A text completion has no message to fill."""
    answer: Json = {"object": "text_completion", "choices": [{"index": 0, "text": "a"}]}
    assert add_required_nulls(answer)
    assert answer["choices"] == [{"index": 0, "text": "a", "logprobs": None}]


def test_complete_answers_and_other_documents_are_unchanged() -> None:
    """A complete answer, vectors, and what has no shape at all."""
    message: Json = {"role": "assistant", "content": "a", "refusal": "no"}
    documents: list[Json] = [
        {"object": "chat.completion", "choices": [{"message": message, "logprobs": {"content": []}}]},
        {"object": "list", "data": []},
        {"object": "chat.completion", "choices": "x"},
        {},
    ]
    for document in documents:
        before = repr(document)
        assert not add_required_nulls(document)
        assert repr(document) == before
