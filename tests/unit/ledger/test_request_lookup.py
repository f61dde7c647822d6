"""Ids are found in any text that is pasted."""

from uuid import UUID

import pytest

from llm_proxy.ledger.request_lookup import MAX_IDS, PastedIds, ids_in

OURS = "0199b1c2-3d4e-7f50-8a9b-0c1d2e3f4a5b"


@pytest.mark.parametrize(
    "text",
    [
        OURS, OURS.upper(), OURS.replace("-", ""), f"  {OURS}\n", f"x-request-id: {OURS}",
        f'{{"error":{{"message":"The model did not answer in time (request {OURS}).","code":null}}}}',
        f"openai.APIStatusError: Error code: 502 - request_id='{OURS}', {OURS}",
    ],
)  # fmt: skip
def test_our_id_is_found_in_any_text(text: str) -> None:
    """However it is written, and once."""
    assert ids_in(text).uuids == (UUID(OURS),)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("req_011CSHoEeqs5C35K2UUqR7Fy", "req_011CSHoEeqs5C35K2UUqR7Fy"),
        ("Request ID: chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT.", "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT"),
        ("msg_chatcmpl-1234", "chatcmpl-1234"),
        ("my/own id", None),
        ("job:nightly/2026-11-27#7", "job:nightly/2026-11-27#7"),
        ("see order-4711/a, please", "order-4711/a"),
    ],
)
def test_other_ids_are_words_with_a_digit_or_the_whole_text(text: str, word: str | None) -> None:
    """A word without a digit or an underscore in a sentence is none."""
    assert word in ids_in(text).words if word is not None else ids_in(text).words == ()


def test_a_long_text_gives_a_bounded_number_of_ids() -> None:
    """And none of it fails."""
    found = ids_in(" ".join(f"word-{number}" for number in range(10_000)) + "\0")
    assert len(found.words) == MAX_IDS
    assert ids_in("") == PastedIds((), ())
    assert ids_in("x" * 10**6) == PastedIds((), ())
