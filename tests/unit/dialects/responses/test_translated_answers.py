"""Chats' answers as responses, whole and streamed: every kind of item, ends, failures, any chunking."""

import json
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response
from unit.dialects.responses.chat_frames import (
    SEAL,
    checked,
    context,
    ending,
    events_of,
    frame,
    parsed,
    stream,
    whole,
)

from llm_proxy.dialects.responses.answer import render_answer
from llm_proxy.dialects.responses.request import ResponseContext, translate
from llm_proxy.dialects.responses.schema import check_body
from llm_proxy.dialects.translation.carried import Carried, carried_by
from llm_proxy.errors import APIError, ProviderFailed, ProviderRejected, RateLimited

Json = dict[str, Any]
CLAUDE = carried_by({"anthropic"})
WEATHER: Json = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


def rendered(kept: ResponseContext, reply: bytes) -> Json:
    """A whole answer; it passes OpenAI's own type."""
    response: Json = orjson.loads(orjson.dumps(render_answer(kept, SEAL, reply, 2500.0)))
    Response.model_validate(response)
    return response


def tool_call(name: str, arguments: str, call_id: str = "call_1", index: int = 0) -> Json:
    return {
        "index": index,
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def kinds(events: list[Json]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_a_whole_text() -> None:
    response = rendered(context(), whole({"role": "assistant", "content": "hello", "refusal": None}))
    assert response["output"] == [
        {
            "id": "msg_t000",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": "hello"}],
        }
    ]
    assert response["usage"] == {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 17,
    }
    assert (response["status"], response["error"], response["store"]) == ("completed", None, False)
    assert (response["created_at"], response["completed_at"]) == (1700000000, 1700000002)


def test_the_response_repeats_its_request() -> None:
    search = {"type": "web_search"}
    response = rendered(
        context(
            instructions="be",
            metadata={"a": "b"},
            max_output_tokens=9,
            temperature=0.2,
            tools=[WEATHER, search],
            tool_choice="required",
            text={"verbosity": "low"},
            reasoning={"effort": "low", "summary": "auto"},
            truncation="auto",
            user="u",
        ),
        whole({"content": "x"}),
    )
    assert response["tools"] == [WEATHER | {"description": None, "strict": None}]
    assert response["reasoning"] == {"effort": "low", "summary": "auto"}
    assert response["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    repeated = ("instructions", "metadata", "max_output_tokens", "temperature", "tool_choice", "user")
    assert [response[name] for name in repeated] == ["be", {"a": "b"}, 9, 0.2, "required", "u"]
    assert (response["truncation"], response["service_tier"], response["model"]) == (
        "disabled",
        "default",
        "m",
    )


def test_a_streamed_text_has_openais_events() -> None:
    texts = [frame({"role": "assistant"}), frame({"content": "hel"}), frame({"content": "lo"})]
    events = checked(events_of(context(), [*texts, ending(service_tier="flex")]))
    assert kinds(events) == [
        *("created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert events[0]["response"]["status"] == "in_progress"
    assert [event["delta"] for event in events[4:6]] == ["hel", "lo"]
    assert events[6]["text"] == "hello"
    last = events[-1]["response"]
    assert last["service_tier"] == "flex"
    assert last["output"] == [events[-2]["item"]]
    assert last["usage"]["input_tokens"] == 12


def test_the_first_frame_begins_the_stream_though_it_says_nothing() -> None:
    renderer = stream(context())
    first = frame({"role": "assistant", "content": ""})
    assert renderer.feed(first[:9]) == b""
    assert kinds(parsed(renderer.feed(first[9:]))) == ["created", "in_progress"]
    assert renderer.feed(b"") == renderer.ping() == b""


def test_claudes_reasoning_is_summarised_sealed_and_comes_back() -> None:
    kept = context(CLAUDE, tools=[WEATHER])
    deltas: list[Json] = [
        {"reasoning_content": "so", "thinking_blocks": [{"type": "thinking", "thinking": "so"}]},
        {"reasoning_content": " far", "thinking_blocks": [{"type": "thinking", "thinking": " far"}]},
        {
            "reasoning_content": "",
            "thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "S"}],
        },
        {"thinking_blocks": [{"type": "redacted_thinking", "data": "R"}]},
        {"content": "I look."},
        {"tool_calls": [tool_call("weather", "")]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]},
    ]
    events = checked(events_of(kept, [*map(frame, deltas), ending("tool_calls")]))
    assert kinds(events)[2:9] == [
        *("output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.delta", "reasoning_summary_text.done", "reasoning_summary_part.done"),
        "output_item.done",
    ]
    assert all(event["summary_index"] == 0 for event in events[3:8])
    response = events[-1]["response"]
    reasoning = response["output"][0]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "so far"}]
    assert "so far" not in reasoning["encrypted_content"]
    output = {"type": "function_call_output", "call_id": "call_1", "output": "sun"}
    back = translate(check_body({"model": "m", "input": [*response["output"], output]}, 99), CLAUDE, SEAL)
    assert back.body["messages"][0] == {
        "role": "assistant",
        "content": "I look.",
        "thinking_blocks": [
            {"type": "thinking", "thinking": "so far", "signature": "S"},
            {"type": "redacted_thinking", "data": "R"},
        ],
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"a":1}'}}
        ],
    }


def test_without_a_key_reasoning_is_shown_and_not_kept() -> None:
    reply = whole({"reasoning_content": "so", "content": "x"})
    item = render_answer(context(), None, reply, 0.0)["output"][0]
    assert item == {
        "id": "rs_t000",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "so"}],
        "status": "completed",
    }


def test_a_refusal_is_one() -> None:
    response = rendered(context(), whole({"content": None, "refusal": "I will not."}))
    assert response["output"][0]["content"] == [{"type": "refusal", "refusal": "I will not."}]
    events = checked(
        events_of(context(), [frame({"refusal": "I will"}), frame({"refusal": " not."}), ending()])
    )
    assert kinds(events)[3:8] == [
        *("content_part.added", "refusal.delta", "refusal.delta", "refusal.done", "content_part.done")
    ]
    assert events[6]["refusal"] == "I will not."


def test_a_text_and_a_refusal_are_two_parts() -> None:
    events = checked(events_of(context(), [frame({"content": "a"}), frame({"refusal": "b"}), ending()]))
    assert [part["type"] for part in events[-1]["response"]["output"][0]["content"]] == [
        "output_text",
        "refusal",
    ]
    assert [event["content_index"] for event in events if "content_index" in event] == [
        0,
        0,
        0,
        0,
        1,
        1,
        1,
        1,
    ]


def test_parallel_calls_are_items_each_done_before_the_next_begins() -> None:
    chunks = [
        frame({"tool_calls": [tool_call("weather", '{"a"', "call_1", 0)]}),
        frame({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
        frame({"tool_calls": [tool_call("weather", "", "call_2", 1)]}),
        ending("tool_calls"),
    ]
    events = checked(events_of(context(tools=[WEATHER]), chunks))
    assert kinds(events)[2:] == [
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done", "output_item.added"),
        *("function_call_arguments.delta", "function_call_arguments.done", "output_item.done", "completed"),
    ]
    calls = events[-1]["response"]["output"]
    assert [(item["call_id"], item["arguments"]) for item in calls] == [
        ("call_1", '{"a":1}'),
        ("call_2", "{}"),
    ]
    assert [item["id"] for item in calls] == ["fc_t000", "fc_t001"]


def test_calls_whose_pieces_alternate_are_both_complete() -> None:
    chunks = [
        frame({"tool_calls": [tool_call("weather", '{"a"', "call_1", 0)]}),
        frame({"tool_calls": [tool_call("weather", '{"b"', "call_2", 1)]}),
        frame({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
        frame({"tool_calls": [{"index": 1, "function": {"arguments": ":2}"}}]}),
        ending("tool_calls"),
    ]
    calls = checked(events_of(context(tools=[WEATHER]), chunks))[-1]["response"]["output"]
    assert [item["arguments"] for item in calls] == ['{"a":1}', '{"b":2}']


def test_a_namespaces_tool_gets_its_name_back() -> None:
    namespace = {"type": "namespace", "name": "ns", "description": "", "tools": [WEATHER]}
    call = tool_call("ns__weather", "{}")
    item = rendered(context(tools=[namespace]), whole({"tool_calls": [call]}, "tool_calls"))["output"][0]
    assert (item["type"], item["name"], item["namespace"]) == ("function_call", "weather", "ns")


def test_a_custom_tools_input_is_its_text_however_the_model_writes_it() -> None:
    kept = context(tools=[{"type": "custom", "name": "patch"}])
    written = orjson.dumps({"input": 'a\n"b" 😀'}).decode()
    pieces = [tool_call("patch", written[:9])] + [
        {"index": 0, "function": {"arguments": letter}} for letter in written[9:]
    ]
    events = checked(events_of(kept, [frame({"tool_calls": [piece]}) for piece in pieces] + [ending()]))
    deltas = [one["delta"] for one in events if one["type"] == "response.custom_tool_call_input.delta"]
    assert len(deltas) > 3
    item = events[-1]["response"]["output"][0]
    assert item["input"] == "".join(deltas) == 'a\n"b" 😀'
    assert (item["type"], item["name"], item["id"]) == ("custom_tool_call", "patch", "ctc_t000")
    for arguments, value in (
        ("plain text", "plain text"),
        ('{"x": 1, "input": "y"}', "y"),
        ('{"x": 1}', '{"x": 1}'),
    ):
        reply = whole({"tool_calls": [tool_call("patch", arguments)]}, "tool_calls")
        assert rendered(kept, reply)["output"][0]["input"] == value


@given(st.text(max_size=40), st.lists(st.integers(0, 300), max_size=8), st.booleans())
def test_any_chunking_of_arguments_gives_one_input(text: str, cuts: list[int], escaped: bool) -> None:  # noqa: FBT001 -- hypothesis
    written = json.dumps({"input": text}, ensure_ascii=escaped)
    edges = [0, *sorted(min(cut, len(written)) for cut in cuts), len(written)]
    kept = context(tools=[{"type": "custom", "name": "patch"}])
    pieces = [tool_call("patch", "")] + [
        {"index": 0, "function": {"arguments": written[start:end]}} for start, end in pairwise(edges)
    ]
    chunks = [frame({"tool_calls": [piece]}) for piece in pieces] + [ending()]
    events = events_of(kept, chunks)
    deltas = [one["delta"] for one in events if one["type"] == "response.custom_tool_call_input.delta"]
    assert "".join(deltas) == text == events[-1]["response"]["output"][0]["input"]


CLIENT_CALLS: list[tuple[str, Json, Json]] = [
    ("local_shell", {"command": ["ls"], "timeout_ms": 5},
     {"action": {"type": "exec", "command": ["ls"], "env": {}, "timeout_ms": 5}}),
    ("shell", {"commands": ["ls"]},
     {"action": {"commands": ["ls"], "timeout_ms": None, "max_output_length": None}}),
    ("apply_patch", {"operation": {"type": "update_file", "path": "p", "diff": "d"}},
     {"operation": {"type": "update_file", "path": "p", "diff": "d"}}),
    ("tool_search", {"query": "q"}, {"execution": "client", "arguments": {"query": "q"}}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "arguments", "fields"), CLIENT_CALLS)
def test_tools_the_client_runs_have_items_of_their_own(kind: str, arguments: Json, fields: Json) -> None:
    kept = context(tools=[{"type": kind, "execution": "client"}])
    call = tool_call(kind, orjson.dumps(arguments).decode())
    events = checked(events_of(kept, [frame({"tool_calls": [call]}), ending("tool_calls")]))
    assert kinds(events)[2:] == ["output_item.added", "output_item.done", "completed"]
    item = events[-1]["response"]["output"][0]
    assert item == {
        "id": "fc_t000",
        "type": f"{kind}_call",
        "call_id": "call_1",
        "status": "completed",
        **fields,
    }


@pytest.mark.parametrize("kind", ["local_shell", "shell", "apply_patch"])
@pytest.mark.parametrize("arguments", ["", "{", '{"command": "ls"}', '{"operation": {"type": "x"}}', "[]"])
def test_arguments_that_do_not_fit_are_shown_as_they_are(kind: str, arguments: str) -> None:
    kept = context(tools=[{"type": kind}])
    call = tool_call(kind, arguments)
    events = checked(events_of(kept, [frame({"tool_calls": [call]}), ending("tool_calls")]))
    item = events[-1]["response"]["output"][0]
    assert (item["type"], item["name"], item["arguments"]) == ("function_call", kind, arguments)


def test_citations_log_probabilities_and_images_are_carried() -> None:
    token = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -1.0}]}
    cited = {
        "type": "url_citation",
        "url_citation": {"url": "https://a.example", "title": "A", "end_index": 1},
    }
    image = {"image_url": {"url": "data:image/png;base64,AAAA"}}
    chunks = [
        frame({"content": "a"}, logprobs={"content": [token]}),
        frame({"annotations": [cited, {"type": "alien"}]}),
        frame({"images": [image]}),
        ending(),
    ]
    message, picture = checked(events_of(context(), chunks))[-1]["response"]["output"]
    part = message["content"][0]
    assert part["logprobs"] == [
        {
            "token": "a",
            "bytes": [97],
            "logprob": -0.5,
            "top_logprobs": [{"token": "b", "bytes": [98], "logprob": -1.0}],
        }
    ]
    assert part["annotations"] == [
        {"type": "url_citation", "start_index": 0, "end_index": 1, "title": "A", "url": "https://a.example"}
    ]
    assert (picture["type"], picture["result"]) == ("image_generation_call", "AAAA")


@pytest.mark.parametrize(
    ("reason", "named"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_answer_that_was_cut_short_is_incomplete_with_its_reason(reason: str, named: str) -> None:
    events = checked(events_of(context(), [frame({"content": "a"}), ending(reason)]))
    assert kinds(events)[-1] == "incomplete"
    response = events[-1]["response"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": named})
    assert response["output"][0]["status"] == "incomplete"
    assert response["completed_at"] is None
    assert rendered(context(), whole({"content": "a"}, reason))["incomplete_details"] == {"reason": named}


def test_a_call_that_was_cut_short_is_incomplete() -> None:
    cut = whole({"tool_calls": [tool_call("weather", '{"a')]}, "length")
    assert rendered(context(), cut)["output"][0]["status"] == "incomplete"


def test_an_empty_answer_is_an_empty_message() -> None:
    assert rendered(context(), whole({"content": ""}))["output"][0]["content"][0]["text"] == ""
    assert checked(events_of(context(), [ending()]))[-1]["response"]["output"][0]["content"][0]["text"] == ""
    assert rendered(context(), whole({"content": ""}, "content_filter"))["output"] == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ProviderFailed("gone"), "server_error"),
        (RateLimited("slow"), "rate_limit_exceeded"),
        (ProviderRejected("long", code="context_length_exceeded"), "context_length_exceeded"),
        (ProviderRejected("odd", code="odd"), "invalid_prompt"),
    ],
)
def test_a_stream_that_breaks_has_failed(error: APIError, code: str) -> None:
    renderer = stream(context())
    out = renderer.feed(frame({"content": "a"})) + renderer.fail(error)
    events = checked(parsed(out))
    assert kinds(events)[-1] == "failed"
    response = events[-1]["response"]
    assert (response["status"], response["output"]) == ("failed", [])
    assert response["error"] == {"code": code, "message": error.message}
    assert kinds(checked(parsed(stream(context()).fail(error)))) == ["created", "in_progress", "failed"]


# Any answer, in the order of a whole one: thoughts, text, calls.
THOUGHTS = st.lists(st.text(min_size=1, max_size=8), max_size=3)
CALLS = st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=8), max_size=2), max_size=3)


@settings(deadline=None, max_examples=30)
@given(THOUGHTS, st.text(max_size=30), CALLS, st.lists(st.integers(0, 5000), max_size=10))
def test_any_chunking_gives_the_same_events_and_the_whole_answer(
    thoughts: list[str], text: str, calls: list[Json], cuts: list[int]
) -> None:
    kept = context(tools=[WEATHER])
    encoded = [
        tool_call("weather", orjson.dumps(call).decode(), f"call_{at}", at) for at, call in enumerate(calls)
    ]
    frames = [frame({"reasoning_content": thought}) for thought in thoughts]
    frames += [frame({"content": text[at : at + 7]}) for at in range(0, len(text), 7)]
    for call in encoded:
        arguments = call["function"]["arguments"]
        frames.append(frame({"tool_calls": [call | {"function": {"name": "weather", "arguments": ""}}]}))
        frames.append(frame({"tool_calls": [{"index": call["index"], "function": {"arguments": arguments}}]}))
    frames.append(ending())
    raw = b"".join(frames)
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    events = checked(events_of(kept, [raw[start:end] for start, end in pairwise(edges)]))
    assert _unsealed(events) == _unsealed(events_of(kept, frames))
    message: Json = {"content": text, "tool_calls": encoded, "reasoning_content": "".join(thoughts)}
    assert _unsealed([rendered(kept, whole(message))]) == _unsealed([events[-1]["response"]])
    _deltas_are_whole(events)


def _unsealed(events: list[Json]) -> list[Json]:
    """Without the sealed texts, each of which is sealed anew."""
    document: list[Json] = orjson.loads(orjson.dumps(events))
    for event in document:
        response = event.get("response", event)
        items = [event.get("item", {}), *response.get("output", [])]
        for item in items:
            item.pop("encrypted_content", None)
    return document


def _deltas_are_whole(events: list[Json]) -> None:
    """Joined deltas are the text of their done event."""
    said: dict[tuple[str, str], str] = {}
    for event in events:
        name, _, kind = event["type"].rpartition(".")
        if kind == "delta":
            key = (event["item_id"], name)
            said[key] = said.get(key, "") + event["delta"]
        elif kind == "done" and (event.get("item_id"), name) in said:
            assert said[event["item_id"], name] == event.get("text", event.get("arguments"))


@settings(deadline=None, max_examples=30)
@given(st.text(min_size=1, max_size=30), CALLS, st.text(min_size=1, max_size=9))
def test_what_a_model_said_comes_back_as_it_said_it(text: str, calls: list[Json], thought: str) -> None:
    """A caller that sends the output items back gives the model its own message again."""
    carried = Carried(reasoning_text=True)
    encoded = [
        {
            "id": f"call_{at}",
            "type": "function",
            "function": {"name": "weather", "arguments": orjson.dumps(call).decode()},
        }
        for at, call in enumerate(calls)
    ]
    message: Json = {"content": text, "reasoning_content": thought}
    if encoded:
        message["tool_calls"] = encoded
    response = rendered(context(carried, tools=[WEATHER]), whole(message))
    outputs = [{"type": "function_call_output", "call_id": call["id"], "output": "x"} for call in encoded]
    body = check_body({"model": "m", "input": [*response["output"], *outputs]}, 99)
    assert translate(body, carried, SEAL).body["messages"][0] == {"role": "assistant", **message}
