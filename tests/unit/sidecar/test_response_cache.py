"""The pure parts of the response cache: its keys, its entries, a stream put together for an event."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from scripted import answers

from llm_proxy.sidecar.cache_events import read_answer
from llm_proxy.sidecar.response_cache import ADDED, Entry, digest

Json = dict[str, Any]
CHAT = "/v1/chat/completions"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=6), st.randoms())
def test_the_order_of_top_level_fields_is_no_difference(body: Json, random: Any) -> None:
    """Nor are the fields the gateway adds."""
    names = list(body)
    random.shuffle(names)
    turned = {name: body[name] for name in names}
    added = {name: {"x": 1} for name in ADDED - {"stream"} if name not in body}
    assert digest(CHAT, turned | added) == digest(CHAT, body)


def test_any_other_difference_is_one() -> None:
    """Also the order of properties, numbers that are equal only as numbers, the path and the mode."""
    bodies: list[Json] = [
        {},
        {"a": 1},
        {"a": 1.0},
        {"a": True},
        {"a": "1"},
        {"a": {"x": 1, "y": 2}},
        {"a": {"y": 2, "x": 1}},
        {"stream": True},
    ]
    assert len({digest(CHAT, body) for body in bodies}) == len(bodies)
    assert digest("/v1/completions", {}) != digest(CHAT, {})
    assert digest(CHAT, {"stream": False}) == digest(CHAT, {})


@given(st.binary(), st.dictionaries(st.text(), st.integers()))
def test_an_entry_is_read_as_it_was_written(payload: bytes, usage: Json) -> None:
    """Whatever its bytes are."""
    entry = Entry(1.5, len(payload), [(b"content-type", b"text/event-stream")], usage, payload)
    assert Entry.decode(entry.encode()) == entry


def test_a_stream_put_together_is_the_whole_answer() -> None:
    """Every choice, every piece of text, every call."""
    for kind in answers.MESSAGES:
        [raw] = answers.whole(kind)
        whole = json.loads(raw)
        streamed = read_answer("".join(answers.frames(kind)).encode())
        assert streamed["usage"] == whole["usage"]
        for ours, theirs in zip(streamed["choices"], whole["choices"], strict=True):
            assert ours["finish_reason"] == theirs["finish_reason"]
            message = ours["message"]
            for name, value in theirs["message"].items():
                if name == "tool_calls":
                    assert [call["id"] for call in message[name]] == [call["id"] for call in value]
                else:
                    assert (message[name] or None) == (value or None)
