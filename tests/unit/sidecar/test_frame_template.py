"""An event is translated without LiteLLM only as LiteLLM would, and LiteLLM gets all texts."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.sidecar.frame_template import MAX_KNOWN, FrameTranslation, KnownTemplate

Json = dict[str, Any]
Event = tuple[str, int, bool, str | None, str, int]


def event(text: str, *, index: int = 0, escaped: bool = False, **more: Any) -> bytes:
    """An event as a provider sends it."""
    choice = {"index": index, "delta": {"content": text}, "finish_reason": None}
    said = {"id": "c", "created": 7, "model": "m", "choices": [choice], **more}
    return b"data: " + json.dumps(said, ensure_ascii=escaped).encode("utf-8", "surrogatepass")


def frame(block: bytes) -> bytes:
    """What LiteLLM would make of it."""
    said: Json = json.loads(block[6:])
    usage = said.pop("usage", None)
    said |= {"model": "named"} | ({"usage": usage} if usage else {})
    return b"data: " + json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def learned(
    *blocks: bytes, sees_repeats: bool = False, known: list[KnownTemplate] | None = None
) -> FrameTranslation:
    """A translation that has seen these events."""
    translation = FrameTranslation(sees_repeats=sees_repeats, known=known)
    for block in blocks:
        translation.observe(block, frame(block))
    return translation


def test_the_third_event_is_translated() -> None:
    """The first is learned from, the second shows that the rule holds."""
    assert not learned(event("one")).trusts
    translation = learned(event("one"), event("two"))
    assert translation.trusts
    assert translation.translate(event('thr"ee\n')) == frame(event('thr"ee\n'))
    translation.translate(event("four"))
    assert translation.take_merged() == event('thr"ee\nfour')
    assert translation.take_merged() is None


def test_a_text_that_stands_twice_is_the_same_in_both_places() -> None:
    """An event in which the two differ is LiteLLM's."""

    def thought(text: str, copy: str) -> bytes:
        return event("a", reasoning=text, reasoning_content=copy)

    translation = learned(*(thought(text, text) for text in ("one", "two")))
    assert translation.translate(thought("three", "three")) == frame(thought("three", "three"))
    assert translation.translate(thought("four", "five")) is None


def of_stream(number: int, text: str, **more: Any) -> bytes:
    """An event of a stream with an id of its own."""
    return event(text, id=f"chatcmpl-{number}", created=number, **more)


def test_a_later_stream_is_translated_at_once() -> None:
    """Its first event, if it fits, by the rule of an earlier one."""
    known = list[KnownTemplate]()
    assert not FrameTranslation(sees_repeats=False, known=known, recalls=True).trusts
    learned(of_stream(1, "one"), of_stream(1, "two"), known=known)
    for first in (of_stream(2, "three"), of_stream(2, "three", more=1)):
        translation = FrameTranslation(sees_repeats=False, known=known, recalls=True)
        fits = first == of_stream(2, "three")
        assert translation.trusts
        assert translation.translate(first) == (frame(first) if fits else None)
        assert translation.take_merged() == (first if fits else None)
        translation.observe(of_stream(2, "four"), frame(of_stream(2, "four")))
        assert translation.translate(of_stream(2, "five")) == frame(of_stream(2, "five"))
    assert len(known) == 1


def test_a_later_stream_is_translated_from_its_second_event() -> None:
    """The first shows that the rule of an earlier stream holds, with another id."""
    known = list[KnownTemplate]()
    for number in range(3):
        translation = learned(of_stream(number, "one"), known=known)
        assert translation.trusts == (number > 0)
        translation.observe(of_stream(number, "two"), frame(of_stream(number, "two")))
        assert translation.translate(of_stream(number, "three")) == frame(of_stream(number, "three"))
        assert translation.take_merged() == of_stream(number, "three")
        assert translation.translate(of_stream(number + 1, "four")) is None
    assert len(known) == 1
    assert not any(text in repr(known) for text in ("'one'", "two", "three"))


@pytest.mark.parametrize("more", [{"model": "other"}, {"id": "a\\u0061aaaaaa"}, {"more": 1}])
def test_a_stream_of_another_form_is_learned_anew(more: Json) -> None:
    """A form is kept only as long as streams have it."""
    known = list[KnownTemplate]()
    learned(of_stream(1, "one"), of_stream(1, "two"), known=known)
    stated: Json = {"id": "chatcmpl-2"} | more
    other = [event(text, **stated) for text in ("one", "two", "three")]
    assert not learned(other[0], known=known).trusts
    translation = learned(*other[:2], known=known)
    assert translation.translate(other[2]) == frame(other[2])
    assert 1 <= len(known) <= MAX_KNOWN


@pytest.mark.parametrize("field", ["head", "frame", "rest"])
def test_a_stream_whose_id_stands_twice_is_no_rule_for_others(field: str) -> None:
    """In the event or the frame: which of the two another stream's would be is not known."""

    def event_of(text: str) -> bytes:
        twice = {"other": "chatcmpl-1"}
        choices = [{"index": 0, "delta": {"content": text}}]
        head, rest = (twice if field == one else {} for one in ("head", "rest"))
        return b"data: " + json.dumps({"id": "chatcmpl-1", **head, "choices": choices, **rest}).encode()

    def made(block: bytes) -> bytes:
        said: Json = json.loads(block[6:])
        said["id"] = said.pop("other", said["id"])
        copy = {"copy": said["id"]} if field == "frame" else {}
        return b"data: " + json.dumps({"id": said["id"], **copy, **said}).encode() + b"\n\n"

    known = list[KnownTemplate]()
    translation = FrameTranslation(sees_repeats=False, known=known)
    for text in ("one", "two"):
        translation.observe(event_of(text), made(event_of(text)))
    assert translation.trusts
    assert known == []


def test_a_rule_that_holds_no_longer_is_not_used() -> None:
    """LiteLLM makes another frame of the same event."""
    known = list[KnownTemplate]()
    learned(of_stream(1, "one"), of_stream(1, "two"), known=known)
    translation = FrameTranslation(sees_repeats=False, known=known)
    translation.observe(of_stream(2, "one"), frame(of_stream(2, "one")).replace(b"named", b"other"))
    assert not translation.trusts
    assert translation.translate(of_stream(2, "two")) is None


def test_padding_counts_and_times_may_differ() -> None:
    """The last of each is what LiteLLM gets."""
    one, two, three, four = (
        event(text, obfuscation="x" * at, created=at, counts={"totalTokenCount": at})
        for at, text in enumerate(("one", "two", "three", "four"), 1)
    )
    translation = learned(one, two)
    assert [translation.translate(block) for block in (three, four)] == [frame(three), frame(four)]
    assert translation.take_merged() == four.replace(b"four", b"threefour")


OTHERS = {
    "an end": event("x").replace(b'"finish_reason": null', b'"finish_reason": "stop"'),
    "another choice": event("x", index=1),
    "an empty text": event(""),
    "a field more": event("x", service_tier="flex"),
    "an error": event("x", error={"message": "no"}),
    "usage": event("x", usage={"prompt_tokens": 1}),
    "half a character": event("x\ud83d", escaped=True),
    "bytes that are no UTF-8": event("x").replace(b'"x"', b'"\xff"'),
    "a control character": event("x").replace(b'"x"', b'"a\tb"'),
    "a text that looks like a sound": event("data:audio/wav;base64,AAAA"),
    "a comment": b": wait",
    "a part of an event": event("x")[:-3],
    "more than an event": event("x") + b"\n" + event("y"),
}


@pytest.mark.parametrize("translated", [0, 1, 2])
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_any_other_event_is_litellm_s(other: bytes, translated: int) -> None:
    """And ends the trust, until the next one shows again that the rule holds."""
    translation = learned(event("one"), event("two"))
    for at in range(translated):
        assert translation.translate(event(f"more{at}")) == frame(event(f"more{at}"))
    assert translation.translate(other) is None
    translation.take_merged()
    translation.observe(None, b"data: {}\n\n")
    assert not translation.trusts
    assert translation.translate(event("three")) is None
    translation.observe(event("three"), frame(event("three")))
    assert translation.translate(event("four")) == frame(event("four"))


def test_a_translation_that_is_no_plain_one_is_never_trusted() -> None:
    """Texts that LiteLLM changes, holds back or counts."""
    one, two = event("one"), event("two")
    for made in (frame(event("ONE")), frame(event("one", usage={"prompt_tokens": 1})), b": ping\n\n", b""):
        translation = FrameTranslation(sees_repeats=False)
        translation.observe(one, made)
        translation.observe(one, made)
        assert not translation.trusts
    translation = learned(one)
    translation.observe(two, frame(one))
    assert not translation.trusts


def test_a_repeated_text_is_litellm_s_where_it_counts_them() -> None:
    """Short ones are not counted."""
    for sees_repeats in (False, True):
        translation = learned(event("one"), event("two"), sees_repeats=sees_repeats)
        assert (translation.translate(event("two")) is None) is sees_repeats
        assert translation.translate(event("no")) is not None
        assert translation.translate(event("no")) is not None


def test_litellm_gets_texts_in_their_order() -> None:
    """A text of another choice is not joined with those before it."""
    translation = learned(*(event(text, index=at) for text in "ab" for at in range(2)))
    assert translation.translate(event("c")) == frame(event("c"))
    assert translation.translate(event("d", index=1)) is None
    assert translation.take_merged() == event("c")
    assert translation.translate(event("d", index=1)) == frame(event("d", index=1))


def test_events_that_come_together_are_translated_together() -> None:
    """If all are like the last one and whole; nothing is kept of others."""
    translation = learned(event("one", p="x"), event("two", p="xy"))
    one, two, three = (event(text, p="100%"[:at]) for at, text in enumerate(("a", 'b"', "\n"), 1))
    assert translation.translate_alike(one + b"\n\n") is None
    assert translation.translate(one) == frame(one)
    for rest in (b"\n", b"\n\ndata: [DONE]\n\n", b"\n\n" + event("c", index=1) + b"\n\n", b"\n\n: wait\n\n"):
        assert translation.translate_alike(two + b"\n\n" + three + rest) is None
    assert translation.translate_alike(two + b"\n\n" + three + b"\n\n") == frame(two) + frame(three)
    assert translation.take_merged() == three.replace(json.dumps("\n").encode(), b'"ab\\"\\n"')


def test_litellm_gets_long_texts_in_time() -> None:
    """What is kept is bounded."""
    translation = learned(event("one"), event("two"))
    kept = 0
    while not translation.is_full:
        kept += translation.translate(event("x" * 10_000)) is not None
    assert 10 < kept < 50
    translation.take_merged()
    assert not translation.is_full


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
PADDING = st.sampled_from(["", "x", "100%", '","'])
EVENTS = st.tuples(
    TEXTS,
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from([None, None, None, "stop"]),
    PADDING,
    st.integers(1, 2),
)


@given(st.lists(st.lists(EVENTS, max_size=30), min_size=1, max_size=3), st.booleans())
def test_frames_and_texts_are_the_same_in_any_stream(streams: list[list[Event]], recalls: bool) -> None:  # noqa: FBT001 -- drawn
    """Whatever the texts, how they are escaped, what comes between, and what earlier streams had."""
    known = list[KnownTemplate]()
    for number, said in enumerate(streams):
        check_stream(number, said, known, recalls=recalls)


def check_stream(number: int, said: list[Event], known: list[KnownTemplate], *, recalls: bool) -> None:
    """Compare one stream's frames, and the texts that LiteLLM gets, to those of its events."""
    translation = FrameTranslation(sees_repeats=False, known=known, recalls=recalls)
    sent, seen, ids = list[bytes](), list[bytes | None](), {"id": f"chatcmpl-{number}"}
    blocks = [
        event(text, index=at, escaped=escaped, obfuscation=padding, created=created, **ids).replace(
            b'"finish_reason": null', b'"finish_reason": ' + json.dumps(end).encode()
        )
        for text, at, escaped, end, padding, created in said
    ]
    for block in blocks:
        made = translation.translate(block) if translation.trusts else None
        if made is None:
            seen += [translation.take_merged(), block]
            made = frame(block)
            translation.observe(block, made)
        sent.append(made)
    told = [one for one in (*seen, translation.take_merged()) if one is not None]
    assert [json.loads(one[6:]) for one in sent] == [json.loads(frame(one)[6:]) for one in blocks]
    for at in range(3):
        assert text_of(told, at) == text_of(blocks, at)


def text_of(blocks: list[bytes], at: int) -> str:
    """Return the text of one choice."""
    choices = [json.loads(block[6:])["choices"][0] for block in blocks]
    return "".join(one["delta"]["content"] for one in choices if one["index"] == at)
