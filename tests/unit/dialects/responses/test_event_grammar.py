"""Whatever a model writes, in whatever order: the events of a response hold together, as the SDKs rely on."""

from collections import defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from unit.dialects.responses.chat_frames import Json, checked, context, ending, events_of, frame

CLIENTS: list[Json] = [{"type": name} for name in ("local_shell", "shell", "apply_patch")]
TOOLS: list[Json] = [{"type": "function", "name": "f"}, {"type": "custom", "name": "c"}, *CLIENTS]
NAMES = ("f", "c", "local_shell", "shell", "apply_patch", "nobodys")
ODD: tuple[Any, ...] = (None, 0, -3, 2.5, True, "x", [], [1], {}, {"a": 1})
ARGUMENTS = ("", " ", "{", "}", "{}", '{"input": "x"}', '{"command": ["ls"]}', '{"a":1}', "é")


def called(index: int, name: str, arguments: str) -> Json:
    function = {"name": name, "arguments": arguments}
    return {"tool_calls": [{"index": index, "id": f"c{index}{name}", "function": function}]}


def continued(index: int, arguments: str) -> Json:
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}


FIELDS = ("content", "tool_calls", "images", "annotations")
INDICES = st.integers(0, 3)
TEXTS = st.sampled_from(["a", "é ", "\u2028", '"}', ""])


def cited(odd: object) -> Json:
    return {
        "annotations": [{"url_citation": {"url": "u", "title": odd, "start_index": odd, "end_index": odd}}]
    }


def signed(text: str) -> Json:
    block = {"type": "thinking", "thinking": text, "signature": "s"}
    return {"thinking_blocks": [block, {"type": "redacted_thinking", "data": "R"}]}


def one_field(name: str, value: object) -> Json:
    return {name: value}


DELTAS: st.SearchStrategy[Json] = st.one_of(
    st.builds(called, INDICES, st.sampled_from(NAMES), st.sampled_from(ARGUMENTS)),
    st.builds(continued, INDICES, st.sampled_from(ARGUMENTS)),
    st.builds(one_field, st.sampled_from(["content", "refusal", "reasoning"]), TEXTS),
    st.builds(cited, st.sampled_from(ODD)),
    st.builds(signed, TEXTS),
    st.builds(one_field, st.sampled_from(FIELDS), st.sampled_from(ODD)),
)


def read(events: list[Json]) -> dict[int, Json]:
    """The items of a stream, as a client puts them together; fails where the events contradict each other."""
    items: dict[int, Json] = {}
    done: dict[int, Json] = {}
    said: defaultdict[tuple[int, Any], str] = defaultdict(str)
    for event in events:
        index = event.get("output_index")
        if index is None:
            continue
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert index == len(items)
            items[index] = event["item"]
            continue
        assert index in items
        assert index not in done
        part = (index, event.get("content_index", event.get("summary_index")))
        if kind == "output_item.done":
            assert (event["item"]["id"], event["item"]["type"]) == (items[index]["id"], items[index]["type"])
            done[index] = event["item"]
        elif kind.endswith("delta"):
            said[part] += event["delta"]
        elif kind.endswith("done") and "part" not in event and "result" not in event:
            text = next(event[name] for name in ("text", "refusal", "arguments", "input") if name in event)
            assert said[part] == text
    assert done.keys() == items.keys()
    return done


@settings(deadline=None, max_examples=60)
@given(st.lists(DELTAS, max_size=10), st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))
def test_the_events_hold_together(deltas: list[Json], reason: str) -> None:
    frames = [*map(frame, deltas), ending(reason, service_tier="on_demand")]
    events = checked(events_of(context(tools=TOOLS), frames))
    done = read(events)
    assert events[-1]["response"]["output"] == [done[at] for at in sorted(done)]


def test_a_text_after_a_call_that_opens_at_its_end_comes_first() -> None:
    frames = [frame(called(0, "shell", '{"commands": ["ls"]}')), frame({"content": "a"}), ending()]
    done = read(checked(events_of(context(tools=TOOLS), frames)))
    assert [done[at]["type"] for at in sorted(done)] == ["message", "shell_call"]


def test_what_follows_complete_arguments_is_nothing_and_a_call_without_a_name_is_shown() -> None:
    calls = [called(0, "f", '{"a":1}'), called(1, "f", ""), continued(0, " }"), continued(5, "{}")]
    done = read(checked(events_of(context(tools=TOOLS), [*map(frame, calls), ending()])))
    assert [(item["name"], item["arguments"]) for item in done.values()] == [
        ("f", '{"a":1}'),
        ("f", "{}"),
        ("", "{}"),
    ]


def test_odd_parts_of_an_answer_get_openais_types() -> None:
    odd: Json = {"token": "a", "logprob": "low", "bytes": ["x"], "top_logprobs": [4, {"logprob": None}]}
    frames = [frame({"content": "a"}, logprobs={"content": [odd]}), ending(service_tier="on_demand")]
    response = checked(events_of(context(), frames))[-1]["response"]
    assert response["service_tier"] == "default"
    none: Json = {"token": "", "bytes": [], "logprob": 0.0}
    told = response["output"][0]["content"][0]["logprobs"]
    assert told == [{"token": "a", "bytes": [97], "logprob": 0.0, "top_logprobs": [none]}]
