"""A template makes a body as LiteLLM made two others; `test_known_answers` compares them with LiteLLM's."""

import json

from llm_proxy.sidecar.answer_template import MAX_UNKNOWN, KnownAnswers


def answer(text: str, *, answer_id: str = "chatcmpl-1", tokens: int = 3) -> bytes:
    """An answer as a provider sends it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
    stated = {"id": answer_id, "created": 7, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(stated, ensure_ascii=False).encode()


def made(raw: bytes) -> bytes:
    """What LiteLLM makes of it in these tests: another order, another name, no spaces."""
    stated = json.loads(raw)
    body = {"usage": stated.pop("usage"), **stated, "model": "named"}
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def learned(*answers: bytes) -> KnownAnswers:
    """What is known after these answers."""
    known = KnownAnswers()
    for raw in answers:
        known.observe(raw, made(raw), made)
    return known


def test_the_third_answer_is_made() -> None:
    """The first is learned from, the second confirms it."""
    third = answer('th"ree %b\\n€', answer_id="chatcmpl-3", tokens=0)
    assert learned(answer("one")).find(third) is None
    assert learned(answer("one"), answer("two", tokens=9)).find(third) == made(third)


def test_a_template_that_litellm_contradicts_is_dropped() -> None:
    """Whether it was confirmed before or not."""
    for before in ([answer("one")], [answer("one"), answer("two")]):
        known = learned(*before)
        known.observe(answer("three"), made(answer("three")).replace(b"named", b"other"), made)
        assert known.find(answer("four")) is None


def test_an_answer_that_differs_elsewhere_is_not_made() -> None:
    """A text, a count or a name that no template has a place for."""
    known, raw = learned(answer("one"), answer("two")), answer("three")
    odd = [
        *(raw.replace(b'"m"', b'"n"'), raw.replace(b'"stop"', b'"length"'), raw[:-1] + b', "more": 1}'),
        *(answer(""), answer("<think>a</think>b"), raw.replace(b": 3", b": 3.0"), raw.replace(b"7", b"07")),
        *(raw.replace(b"three", b"th\xffree"), raw.replace(b"three", b"\\ud83d"), raw[:-1], raw + b" "),
    ]
    assert [known.find(one) for one in odd] == [None] * len(odd)


def test_a_text_or_a_count_at_an_unknown_place_is_not_learned() -> None:
    """LiteLLM may act on it, or invents what is missing."""

    def odd(text: str, *, change: int) -> bytes:
        raw = answer(text)
        changed = (
            raw[:-1] + b', "beside": {"content": "%b"}}' % text.encode(),
            raw.replace(b'"role": "assistant"', b'"role": "assistant", "tags": ["a"]'),
            raw.replace(b'"created": 7, ', b""),
            raw.replace(b'"chatcmpl-1"', b'""'),
        )
        return changed[change]

    for change in range(4):
        known = learned(odd("one", change=change), odd("two", change=change))
        assert known.find(odd("three", change=change)) is None


def test_a_count_that_litellm_calculates_with_is_not_learned() -> None:
    """Its mark would be another one's."""

    def make(raw: bytes) -> bytes:
        stated = json.loads(raw)
        stated["usage"]["prompt_tokens"] += 5
        return json.dumps(stated).encode()

    known = KnownAnswers()
    for raw in (answer("one"), answer("two")):
        known.observe(raw, make(raw), make)
    assert known.find(answer("three")) is None


def test_a_provider_whose_answers_are_never_alike_is_not_learned_from_for_ever() -> None:
    """An answer that calls a tool is not counted."""
    known = KnownAnswers()
    assert not known.note_unknown({"choices": [{"message": {"tool_calls": [{"id": "c"}]}}]})
    assert [known.note_unknown({}) for _ in range(MAX_UNKNOWN + 2)] == [True] * MAX_UNKNOWN + [False] * 2
