"""Chat answers as Anthropic's messages, whole and streamed."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages_events import accumulate, parse_events

from llm_proxy.dialects.dialect import BodyLimits, ResponseMeta
from llm_proxy.dialects.messages.answer import INVALID_JSON, render_answer
from llm_proxy.dialects.messages.request import MessagesContext, translate_request
from llm_proxy.dialects.messages.schema import check_body
from llm_proxy.dialects.messages.stream import MessagesStream
from llm_proxy.dialects.translation.carried import carried_by
from llm_proxy.errors import ProviderFailed, UpstreamTimeout
from llm_proxy.json_access import Json

THINKS = MessagesContext(wants_thinking=True)
WRITTEN = {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}
DIRECT: Json = {"caller": {"type": "direct"}}
PLAIN = MessagesContext(input_tokens=7)


def frames(*deltas: Json, finish: str | None = "stop", **last: Any) -> bytes:
    """A chat stream without its end mark."""
    choices: list[Json] = [{"index": 0, "delta": delta} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish, **last.pop("choice", {})})
    events = [{"id": "chatcmpl-1", "model": "p", "choices": [choice]} for choice in choices]
    events.append({"id": "chatcmpl-1", "model": "p", "choices": [], **last})
    return b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)


def answer(finish: str | None = "stop", choice: Json | None = None, /, **fields: Any) -> bytes:
    """A whole chat answer with these fields of its message."""
    usage = fields.pop("usage", {"prompt_tokens": 25, "completion_tokens": 10})
    tier = {"service_tier": fields.pop("tier")} if "tier" in fields else {}
    message = {"role": "assistant", "content": None, **fields}
    choices = [{"index": 0, "message": message, "finish_reason": finish, **(choice or {})}]
    return orjson.dumps({"id": "chatcmpl-1", "model": "p", "choices": choices, "usage": usage, **tier})


def text(said: str) -> Json:
    """A block of text."""
    return {"type": "text", "text": said, "citations": None}


def rendered(reply: bytes, context: MessagesContext = PLAIN) -> Json:
    """The message of a whole answer."""
    return render_answer(reply, "sonnet", context)


def streamed(stream: bytes, context: MessagesContext = PLAIN, step: int = 10**9) -> Json:
    """The message that a client builds of a stream."""
    renderer = MessagesStream("sonnet", context)
    pieces = [renderer.feed(stream[at : at + step]) for at in range(0, len(stream), step)]
    return accumulate(parse_events(b"".join([*pieces, renderer.end(ResponseMeta())])))


def call(at: int, call_id: str = "", name: str = "", arguments: str = "") -> Json:
    """A delta of a tool call."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value}
    return {"tool_calls": [{"index": at, **({"id": call_id} if call_id else {}), "function": function}]}


class TestWhole:
    """Whole answers."""

    def test_a_text(self) -> None:
        assert rendered(answer(content="Hello")) == {
            "id": "msg_chatcmpl-1",
            "type": "message",
            "role": "assistant",
            "model": "sonnet",
            "content": [text("Hello")],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "stop_details": None,
            "container": None,
            "usage": {
                "input_tokens": 25,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
                "output_tokens": 10,
                "output_tokens_details": None,
                "server_tool_use": None,
                "service_tier": "standard",
                "inference_geo": None,
            },
        }

    def test_calls_of_tools_with_any_arguments(self) -> None:
        calls = [
            {"id": f"call_{at}", "type": "function", "function": {"name": "f", "arguments": arguments}}
            for at, arguments in enumerate(['{"a":1}', "", "null", "[1]", '{"a":'])
        ]
        message = rendered(answer("tool_calls", content="Looking.", tool_calls=calls))
        assert message["stop_reason"] == "tool_use"
        assert [block["type"] for block in message["content"]] == ["text"] + ["tool_use"] * 5
        assert [block["input"] for block in message["content"][1:]] == [
            {"a": 1},
            {},
            {},
            {INVALID_JSON: "[1]"},
            {INVALID_JSON: '{"a":'},
        ]
        assert message["content"][1]["id"] == "toolu_p_call_0"

    def test_a_short_name_is_the_caller_s_again(self) -> None:
        calls = [{"id": "c", "type": "function", "function": {"name": "short", "arguments": "{}"}}]
        context = MessagesContext(tool_names={"short": "long"})
        assert rendered(answer(tool_calls=calls), context)["content"][0]["name"] == "long"

    def test_thinking_with_signatures_and_redacted(self) -> None:
        blocks = [
            {"type": "thinking", "thinking": "a", "signature": "s1"},
            {"type": "redacted_thinking", "data": "d"},
            {"type": "thinking", "thinking": "b", "signature": "s2"},
        ]
        reply = answer(content="x", thinking_blocks=blocks, reasoning_content="ab")
        assert rendered(reply, THINKS)["content"] == [*blocks, text("x")]
        omitted = rendered(reply, MessagesContext(wants_thinking=True, omits_thinking=True))["content"]
        assert omitted[0] == {"type": "thinking", "thinking": "", "signature": "s1"}

    def test_thinking_without_signature_shows_only_where_it_was_asked_for(self) -> None:
        reply = answer(content="x", reasoning_content="so")
        thinking = {"type": "thinking", "thinking": "so", "signature": ""}
        assert rendered(reply, THINKS)["content"][0] == thinking
        assert rendered(reply)["content"] == [text("x")]

    @pytest.mark.parametrize(
        ("finish", "reason"),
        [
            ("stop", "end_turn"),
            ("length", "max_tokens"),
            ("content_filter", "refusal"),
            ("tool_calls", "tool_use"),
            ("model_context_window_exceeded", "model_context_window_exceeded"),
            ("pause_turn", "pause_turn"),
            (None, "end_turn"),
        ],
    )
    def test_a_stop_reason(self, finish: str | None, reason: str) -> None:
        assert rendered(answer(finish, content="x"))["stop_reason"] == reason
        assert streamed(frames({"content": "x"}, finish=finish))["stop_reason"] == reason

    def test_a_server_that_says_stop_after_calls_means_tools(self) -> None:
        calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
        assert rendered(answer("stop", tool_calls=calls))["stop_reason"] == "tool_use"
        assert rendered(answer("length", tool_calls=calls))["stop_reason"] == "max_tokens"

    def test_a_stop_sequence_that_the_server_names(self) -> None:
        context = MessagesContext(stop_sequences=("zz",))
        message = rendered(answer("stop", {"stop_reason": "zz"}, content="x"), context)
        assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "zz")
        other = rendered(answer("stop", {"stop_reason": "</s>"}, content="x"), context)
        assert (other["stop_reason"], other["stop_sequence"]) == ("end_turn", None)

    def test_a_refusal_is_text_and_a_reason(self) -> None:
        message = rendered(answer(refusal="I cannot."))
        assert message["content"] == [text("I cannot.")]
        assert (message["stop_reason"], message["stop_details"]["explanation"]) == ("refusal", "I cannot.")

    def test_usage_counts_the_cache_apart(self) -> None:
        usage = {
            "prompt_tokens": 100,
            "completion_tokens": 9,
            "prompt_tokens_details": {
                "cached_tokens": 60,
                "cache_creation_tokens": 30,
                "cache_creation_token_details": WRITTEN,
            },
            "cache_creation_input_tokens": 30,
            "completion_tokens_details": {"reasoning_tokens": 4},
        }  # fmt: skip
        assert rendered(answer(content="x", usage=usage, tier="priority"))["usage"] == {
            "input_tokens": 10,
            "cache_creation_input_tokens": 30,
            "cache_read_input_tokens": 60,
            "cache_creation": WRITTEN,
            "output_tokens": 9,
            "output_tokens_details": {"thinking_tokens": 4},
            "server_tool_use": None,
            "service_tier": "priority",
            "inference_geo": None,
        }

    def test_an_image_of_the_model_is_markdown(self) -> None:
        images = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
        message = rendered(answer(content="Here:", images=images))
        assert [block["text"] for block in message["content"]] == [
            "Here:",
            "![image](data:image/png;base64,AA==)",
        ]

    def test_edits_that_were_asked_for_are_named_as_not_applied(self) -> None:
        message = rendered(answer(content="x"), MessagesContext(has_edits=True))
        assert message["context_management"] == {"applied_edits": []}

    @pytest.mark.parametrize("reply", [b"", b"<html>", b"[]", b"{}", b'{"choices":[]}'])
    def test_an_invalid_answer_is_the_provider_s_error(self, reply: bytes) -> None:
        with pytest.raises(ProviderFailed):
            rendered(reply)


class TestStream:
    """Streams."""

    def test_the_events_of_a_text(self) -> None:
        renderer = MessagesStream("sonnet", PLAIN)
        usage = {"prompt_tokens": 9, "completion_tokens": 2}
        stream = frames(
            {"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"}, usage=usage
        )
        events = parse_events(renderer.feed(stream) + renderer.end(ResponseMeta()))
        assert [event["type"] for event in events] == [
            "message_start",
            "ping",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
        start = events[0]["message"]
        assert (start["usage"]["input_tokens"], start["stop_reason"], start["content"]) == (7, None, [])
        assert events[2]["content_block"] == text("")
        assert events[-2]["usage"]["input_tokens"] == 9
        assert events[-2]["usage"]["output_tokens"] == 2

    def test_the_head_leaves_with_the_first_frame(self) -> None:
        renderer = MessagesStream("sonnet", PLAIN)
        first = frames({"role": "assistant"}).partition(b"\n\n")[0] + b"\n\n"
        assert parse_events(renderer.feed(first))[0]["type"] == "message_start"

    def test_blocks_of_every_kind_in_order(self) -> None:
        message = streamed(
            frames(
                {"thinking_blocks": [{"type": "thinking", "thinking": "a"}], "reasoning_content": "a"},
                {"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "s"}]},
                {"thinking_blocks": [{"type": "redacted_thinking", "data": "d"}]},
                {"content": "x"},
                call(0, "call_0", "f", '{"a":'),
                call(0, arguments="1}"),
                call(1, "call_1", "g"),
                finish="tool_calls",
            ),
            THINKS,
        )
        assert message["content"] == [
            {"type": "thinking", "thinking": "a", "signature": "s"},
            {"type": "redacted_thinking", "data": "d"},
            text("x"),
            {"type": "tool_use", "id": "toolu_p_call_0", "name": "f", "input": {"a": 1}, **DIRECT},
            {"type": "tool_use", "id": "toolu_p_call_1", "name": "g", "input": {}, **DIRECT},
        ]
        assert message["stop_reason"] == "tool_use"

    def test_interleaved_calls_leave_one_after_another(self) -> None:
        message = streamed(
            frames(
                call(0, "a", "f"), call(1, "b", "g"), call(2, "c", "h"),
                call(1, arguments='{"y":'), call(0, arguments='{"x":'), call(1, arguments="2}"),
                call(0, arguments="1}"), call(2, arguments="{}"),
            )
        )  # fmt: skip
        assert [(block["name"], block["input"]) for block in message["content"]] == [
            ("f", {"x": 1}),
            ("g", {"y": 2}),
            ("h", {}),
        ]

    def test_calls_of_a_server_that_gives_each_the_same_index(self) -> None:
        message = streamed(frames(call(0, "a", "f", "{}"), call(0, "b", "g", '{"y":2}')))
        assert [block["name"] for block in message["content"]] == ["f", "g"]

    def test_text_within_a_call_follows_it(self) -> None:
        message = streamed(
            frames(call(0, "a", "f", '{"x"'), {"content": "said"}, call(0, arguments=":1}"), {"content": "!"})
        )
        assert [block["type"] for block in message["content"]] == ["tool_use", "text"]
        assert message["content"][1]["text"] == "said!"
        assert message["content"][0]["input"] == {"x": 1}

    def test_a_call_cut_by_the_maximum_keeps_its_beginning(self) -> None:
        renderer = MessagesStream("m", PLAIN)
        stream = frames(call(0, "a", "f", '{"x":'), finish="length")
        events = parse_events(renderer.feed(stream) + renderer.end(ResponseMeta()))
        written = "".join(event["delta"].get("partial_json", "") for event in events if "delta" in event)
        assert (written, events[-2]["delta"]["stop_reason"]) == ('{"x":', "max_tokens")

    def test_a_stream_that_fails_ends_in_an_error(self) -> None:
        renderer = MessagesStream("m", PLAIN)
        renderer.feed(frames({"content": "x"}))
        (event,) = parse_events(renderer.fail(UpstreamTimeout("Too late.")))
        assert event == {"type": "error", "error": {"type": "timeout_error", "message": "Too late."}}

    def test_an_empty_answer_is_complete(self) -> None:
        assert streamed(b"")["content"] == []

    def test_usage_that_is_not_stated_is_estimated(self) -> None:
        usage = streamed(frames({"content": "x" * 40}))["usage"]
        assert (usage["input_tokens"], usage["output_tokens"]) == (7, 10)

    def test_it_pings(self) -> None:
        assert parse_events(MessagesStream("m", PLAIN).ping()) == [{"type": "ping"}]


WORDS = st.text(st.characters(codec="utf-8"), max_size=5)


def _call_delta(at: int, arguments: str) -> Json:
    return call(at, arguments=arguments)


def _call_start(at: int, name: str) -> Json:
    return call(at, f"id_{at}", name)


DELTAS: st.SearchStrategy[Json] = st.one_of(
    st.fixed_dictionaries({"content": WORDS}),
    st.fixed_dictionaries({"reasoning_content": WORDS}),
    st.builds(_call_delta, st.integers(0, 2), st.text('{}[]:,"1 \n', max_size=4)),
)
STARTS: st.SearchStrategy[Json] = st.builds(_call_start, st.integers(0, 2), st.sampled_from("fgh"))


@given(deltas=st.lists(st.one_of(DELTAS, STARTS), max_size=12), step=st.integers(1, 60))
def test_any_chunking_gives_the_same_events(deltas: list[Json], step: int) -> None:
    stream = frames(*deltas, usage={"prompt_tokens": 1, "completion_tokens": 2})
    whole, cut = MessagesStream("m", THINKS), MessagesStream("m", THINKS)
    pieces = [cut.feed(stream[at : at + step]) for at in range(0, len(stream), step)]
    ended = parse_events(b"".join([*pieces, cut.end(ResponseMeta())]))
    expected = parse_events(whole.feed(stream) + whole.end(ResponseMeta()))
    named = [event for event in ended if event.get("content_block", {}).get("name") is None]
    assert named == [event for event in expected if event.get("content_block", {}).get("name") is None]
    assert len(ended) == len(expected)


@given(deltas=st.lists(DELTAS, max_size=12))
def test_no_text_is_lost(deltas: list[Json]) -> None:
    renderer = MessagesStream("m", THINKS)
    stream = frames(call(0, "a", "f"), call(1, "b", "g"), call(2, "c", "h"), *deltas)
    events = parse_events(renderer.feed(stream) + renderer.end(ResponseMeta()))
    for kind, name, field in (
        ("text_delta", "text", "content"),
        ("thinking_delta", "thinking", "reasoning_content"),
    ):
        said = "".join(event["delta"][name] for event in events if event.get("delta", {}).get("type") == kind)
        assert said == "".join(delta.get(field, "") for delta in deltas)


SIGNATURES = st.text("xyz", min_size=1, max_size=5)
VALUES = st.one_of(st.integers(-9, 9), st.text("xy", max_size=4), st.none())
ANSWERS: st.SearchStrategy[list[Json]] = st.lists(
    st.one_of(
        st.fixed_dictionaries({"type": st.just("text"), "text": st.text("abc \n", min_size=1, max_size=6)}),
        st.fixed_dictionaries(
            {"type": st.just("thinking"), "thinking": st.text("abc", max_size=5), "signature": SIGNATURES}
        ),
        st.fixed_dictionaries({"type": st.just("redacted_thinking"), "data": SIGNATURES}),
        st.fixed_dictionaries(
            {
                "type": st.just("tool_use"),
                "id": st.text("ab1.", min_size=1, max_size=5),
                "name": st.sampled_from(["f", "g" * 70]),
                "input": st.dictionaries(st.text("ab", max_size=3), VALUES),
            }
        ),
    ),
    max_size=5,
)


@given(blocks=ANSWERS)
def test_an_answer_sent_back_is_the_chat_message_it_was(blocks: list[Json]) -> None:
    """What Claude behind chat completions said is what it gets again: text, thinking, calls."""
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    thoughts = [block for block in blocks if "thinking" in block["type"]]
    calls = [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": orjson.dumps(block["input"]).decode()},
        }
        for block in blocks
        if block["type"] == "tool_use"
    ]
    said: Json = {"role": "assistant", "content": "".join(texts) or None}
    said |= ({"thinking_blocks": thoughts} if thoughts else {}) | ({"tool_calls": calls} if calls else {})
    shown = rendered(answer(**{name: value for name, value in said.items() if name != "role"}), THINKS)[
        "content"
    ]
    if not shown:
        return
    body = {
        "model": "m",
        "max_tokens": 1,
        "messages": [{"role": "assistant", "content": shown}, {"role": "user", "content": "on"}],
    }
    extra = check_body(body, "2023-06-01", BodyLimits())
    sent, context = translate_request(body, extra, carried_by(("anthropic",)))
    for one in sent["messages"][0].get("tool_calls", ()):
        name = one["function"]["name"]
        one["function"]["name"] = context.tool_names.get(name, name)
    assert sent["messages"][0] == said
