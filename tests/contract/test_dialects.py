"""Golden pairs of each dialect: what its clients send and read, by the documents in `docs/dialects.md`."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy import sse
from llm_proxy.dialects import (
    GENERATE,
    GENERATE_STREAM,
    INTERNAL,
    OPENAI,
    Answered,
    Bounds,
    Call,
    Dialect,
    Hints,
    Models,
    Offer,
)
from llm_proxy.errors import BadRequest, ProviderFailed, RateLimited, Refused, UpstreamTimeout

MODELS = Models(
    "gpt-3.5-turbo",
    {name: frozenset({"openai"}) for name in ("gpt-4.1-mini", "gpt-4", "gpt-3.5-turbo", "dagi-local-8b")},
    ("anthropic/*",),
)
ANSWERED = Answered("openai", "gpt-4-1106-preview", 1234.5)
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}

INTERNAL_ASKED: dict[str, Any] = {
    "model": "gpt-4.1-mini",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant"},
        {"role": "user", "content": "Hello!"},
    ],
    "max_tokens": 100,
    "temperature": 0.7,
    "metadata": {"agent_id": "agent:sofia", "microdao_id": "microdao:7", "channel_id": "channel-uuid"},
}
GENERATE_ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hello"}],
    "provider": "openai",
    "model": "gpt-4",
    "maxTokens": 2048,
    "userId": "user-123",
}

MISSPELLED: list[tuple[str, Any, str]] = [
    ("maxTokens", "many", "maxTokens"),
    ("userId", 7, "userId"),
    ("max_tokens", 7, "max_tokens"),
    ("n", 2, "n"),
    ("stream", True, "stream"),
    ("provider", "a/b", "provider"),
    ("provider", 5, "provider"),
    ("messages", [{"role": "assistant", "toolCalls": [1]}], "messages[0].toolCalls[0]"),
    (
        "messages",
        [{"role": "assistant", "toolCalls": [], "tool_calls": []}],
        "messages[0].tool_calls",
    ),
    ("responseFormat", {"type": "json_schema", "jsonSchema": 5}, "responseFormat.jsonSchema"),
    ("api_key", "x", "api_key"),
    ("fallbacks", ["x"], "fallbacks"),
]


def read(dialect: Dialect, body: Any, hints: Hints | None = None) -> Call:
    """The call a client's body asks for."""
    return dialect.read("chat.completions", json.dumps(body).encode(), hints or Hints(), MODELS, Bounds())


def refusal(dialect: Dialect, body: Any, hints: Hints | None = None) -> BadRequest:
    """Why a client's body is refused."""
    with pytest.raises(BadRequest) as refused:
        read(dialect, body, hints)
    return refused.value


def openai_answer(content: str | None = "Hello! How can I help you today?", **message: Any) -> bytes:
    """What comes back from the sidecar."""
    usage = {"prompt_tokens": 25, "completion_tokens": 10, "total_tokens": 35, "prompt_tokens_details": None}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **message},
        "finish_reason": "stop",
    }
    return orjson.dumps(
        {"id": "x", "object": "chat.completion", "model": "openai/m", "choices": [choice], "usage": usage}
    )


def openai_frames(*deltas: dict[str, Any], finish: str = "stop") -> bytes:
    """A stream from the sidecar, without its end mark."""
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append(
        {"choices": [], "usage": {"prompt_tokens": 25, "completion_tokens": 10, "total_tokens": 35}}
    )
    return b"".join(
        sse.frame(orjson.dumps({"id": "x", "object": "chat.completion.chunk", **one})) for one in chunks
    )


def retold(dialect: Dialect, stream: bytes, step: int = 10**9) -> bytes:
    """The stream as the dialect's client sees it."""
    writer = dialect.stream(read(dialect, {"messages": [{"role": "user", "content": "x"}]}))
    assert writer is not None
    pieces = [writer.feed(stream[at : at + step]) for at in range(0, len(stream), step)]
    return b"".join(pieces) + writer.end(ANSWERED)


class TestInternal:
    """`POST /internal/llm/proxy`, `GET /internal/llm/models`."""

    def test_the_documents_request_names_its_agent_tenant_and_channel(self) -> None:
        """What goes on is OpenAI's request, without `metadata`."""
        call = read(INTERNAL, INTERNAL_ASKED)
        assert (call.named.agent, call.named.tenant, call.named.channel) == (
            "agent:sofia",
            "microdao:7",
            "channel-uuid",
        )
        assert call.body == {name: value for name, value in INTERNAL_ASKED.items() if name != "metadata"}
        assert (call.dialect, call.max_tokens) == ("internal", 100)

    def test_the_documents_answer(self) -> None:
        """Exactly these fields."""
        assert orjson.loads(INTERNAL.write(openai_answer(), ANSWERED)) == {
            "content": "Hello! How can I help you today?",
            "usage": {"prompt_tokens": 25, "completion_tokens": 10, "total_tokens": 35},
            "provider": "openai",
            "model_resolved": "gpt-4-1106-preview",
            "latency_ms": 1234.5,
        }

    def test_the_examples_with_less_are_understood(self) -> None:
        """Only an agent; a `null` tenant; other labels; no model at all."""
        only_agent = {**INTERNAL_ASKED, "metadata": {"agent_id": "agent:test"}, "model": "dagi-local-8b"}
        assert read(INTERNAL, only_agent).named.tenant is None
        labels = {**INTERNAL_ASKED, "metadata": {"agent_id": "a", "microdao_id": None, "trace": {"any": [1]}}}
        assert "metadata" not in read(INTERNAL, labels).body
        assert read(INTERNAL, {"messages": INTERNAL_ASKED["messages"]}).group == "gpt-3.5-turbo"

    def test_tool_calls_are_told_when_there_are_any(self) -> None:
        """`content` stays a string."""
        written = orjson.loads(INTERNAL.write(openai_answer(None, tool_calls=[TOOL_CALL]), ANSWERED))
        assert (written["content"], written["tool_calls"]) == ("", [TOOL_CALL])

    def test_a_refusal_by_the_model_is_its_content(self) -> None:
        """There is no other place to read it."""
        assert orjson.loads(INTERNAL.write(openai_answer(None, refusal="No."), ANSWERED))["content"] == "No."

    def test_a_stream_is_pieces_and_one_done_event(self) -> None:
        """The frames of the document, byte for byte."""
        deltas = (
            {"role": "assistant", "content": ""},
            {"content": "Hello"},
            {"content": "!"},
            {"tool_calls": [{"index": 0, **TOOL_CALL}]},
        )
        assert retold(INTERNAL, openai_frames(*deltas)) == (
            b'data: {"content":"Hello"}\n\n'
            b'data: {"content":"!"}\n\n'
            b'data: {"content":"","tool_calls":[{"index":0,"id":"call_1","type":"function",'
            b'"function":{"name":"now","arguments":"{}"}}]}\n\n'
            b'data: {"done":true,"content":"",'
            b'"usage":{"prompt_tokens":25,"completion_tokens":10,"total_tokens":35},'
            b'"provider":"openai","model_resolved":"gpt-4-1106-preview","latency_ms":1234.5}\n\n'
            b"data: [DONE]\n\n"
        )

    def test_a_refusal_has_detail_and_the_envelope(self) -> None:
        """As its FastAPI clients and OpenAI's read it; in a stream the same object."""
        wrong = refusal(INTERNAL, {**INTERNAL_ASKED, "messages": None})
        body = {
            "detail": "Missing required parameter: 'messages'.",
            "error": {
                "message": "Missing required parameter: 'messages'.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "missing_required_parameter",
            },
        }
        assert INTERNAL.error(wrong) == body
        assert INTERNAL.stream_error(wrong) == b"data: " + orjson.dumps(body) + b"\n\n"

    def test_the_models(self) -> None:
        """As the document lists them."""
        offers = [Offer("gpt-4.1-mini", "openai", "gpt-4-1106-preview", 4096)]
        assert INTERNAL.models(offers) == {
            "models": [
                {
                    "name": "gpt-4.1-mini",
                    "provider": "openai",
                    "physical_name": "gpt-4-1106-preview",
                    "max_tokens": 4096,
                }
            ]
        }

    @pytest.mark.parametrize(
        ("field", "value", "param"),
        [
            ("n", 2, "n"),
            ("metadata", [], "metadata"),
            ("metadata", {"agent_id": 7}, "metadata.agent_id"),
            ("metadata", {"api_base": "x"}, "metadata.api_base"),
            ("api_key", "x", "api_key"),
        ],
    )
    def test_what_it_cannot_say_is_refused(self, field: str, value: Any, param: str) -> None:
        """Named by its field."""
        assert refusal(INTERNAL, {**INTERNAL_ASKED, field: value}).param == param


class TestGenerate:
    """`POST /llm-proxy/generate` and `/llm-proxy/stream`."""

    def test_the_documents_request(self) -> None:
        """In camelCase, out in OpenAI's words."""
        call = read(GENERATE, GENERATE_ASKED)
        assert call.body == {
            "model": "gpt-4",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 2048,
            "user": "user-123",
        }
        assert (call.named.user, call.max_tokens, call.streaming) == ("user-123", 2048, False)

    def test_the_documents_answer(self) -> None:
        """Exactly these fields."""
        assert orjson.loads(GENERATE.write(openai_answer("Response text"), ANSWERED)) == {
            "content": "Response text",
            "usage": {"totalTokens": 35, "promptTokens": 25, "completionTokens": 10},
        }

    def test_the_stream_of_the_other_path(self) -> None:
        """Pieces, then usage and why it ended, then the end mark, byte for byte."""
        assert read(GENERATE_STREAM, GENERATE_ASKED).body["stream_options"] == {"include_usage": True}
        assert retold(GENERATE_STREAM, openai_frames({"content": "Response"}, {"content": " text"})) == (
            b'data: {"content":"Response"}\n\n'
            b'data: {"content":" text"}\n\n'
            b'data: {"content":"","usage":{"totalTokens":35,"promptTokens":25,"completionTokens":10},'
            b'"finishReason":"stop"}\n\n'
            b"data: [DONE]\n\n"
        )

    def test_provider_picks_the_group(self) -> None:
        """As `X-Provider` does; both must agree."""
        assert (
            read(GENERATE, {**GENERATE_ASKED, "provider": "anthropic", "model": "claude-3"}).group
            == "anthropic/claude-3"
        )
        assert refusal(GENERATE, GENERATE_ASKED, Hints(provider="anthropic")).param == "provider"
        assert read(GENERATE, GENERATE_ASKED, Hints(provider="openai")).group == "gpt-4"

    def test_every_field_has_its_camel_spelling(self) -> None:
        """At top level, in messages, in the response format; OpenAI's own spelling too."""
        schema = {"name": "x", "schema": {"type": "object"}}
        asked = {
            "messages": [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": None, "toolCalls": [TOOL_CALL]},
                {"role": "tool", "toolCallId": "call_1", "content": "12:00"},
            ],
            "model": "gpt-4",
            "topP": 0.5,
            "frequencyPenalty": 1,
            "presence_penalty": 1,
            "toolChoice": "auto",
            "responseFormat": {"type": "json_schema", "jsonSchema": schema},
            "topK": 7,
        }
        body = read(GENERATE, asked).body
        assert (body["top_p"], body["frequency_penalty"], body["presence_penalty"]) == (0.5, 1, 1)
        assert body["tool_choice"] == "auto"
        assert body["response_format"] == {"type": "json_schema", "json_schema": schema}
        assert body["messages"][1]["tool_calls"] == [TOOL_CALL]
        assert body["messages"][2]["tool_call_id"] == "call_1"
        assert body["extra_body"] == {"topK": 7}

    def test_tool_calls_come_back_in_camel_case(self) -> None:
        """Whole and in pieces."""
        written = orjson.loads(GENERATE.write(openai_answer(None, tool_calls=[TOOL_CALL]), ANSWERED))
        assert (written["content"], written["toolCalls"]) == ("", [TOOL_CALL])
        stream = openai_frames({"tool_calls": [{"index": 0, **TOOL_CALL}]}, finish="tool_calls")
        first, last, _ = [
            sse.parse(raw).data or b"" for raw in sse.Splitter().feed(retold(GENERATE_STREAM, stream))
        ]
        assert orjson.loads(first)["toolCalls"][0]["id"] == "call_1"
        assert orjson.loads(last)["finishReason"] == "tool_calls"

    @pytest.mark.parametrize(("field", "value", "param"), MISSPELLED)
    def test_a_wrong_field_is_named_as_it_was_spelled(self, field: str, value: Any, param: str) -> None:
        """In the message too."""
        wrong = refusal(GENERATE, {**GENERATE_ASKED, field: value})
        assert wrong.param == param
        assert f"'{param}'" in wrong.message

    def test_a_refusal_is_nests_exception_body(self) -> None:
        """With our code and field beside it; in a stream the same object."""
        wrong = refusal(GENERATE, {"model": "gpt-4"})
        body = {
            "statusCode": 400,
            "message": "Missing required parameter: 'messages'.",
            "error": "Bad Request",
            "code": "missing_required_parameter",
            "param": "messages",
        }
        assert GENERATE.error(wrong) == body
        assert GENERATE_STREAM.stream_error(wrong) == b"data: " + orjson.dumps(body) + b"\n\n"


class TestEveryDialect:
    """What holds in all of them."""

    @pytest.mark.parametrize("dialect", [OPENAI, INTERNAL, GENERATE], ids=lambda dialect: dialect.name)
    @pytest.mark.parametrize(
        "refused", [RateLimited("Slow down."), UpstreamTimeout("Too late."), BadRequest("No.")]
    )
    def test_any_refusal_can_be_told(self, dialect: Dialect, refused: Refused) -> None:
        """As JSON, and as one frame without an end mark."""
        assert refused.message in orjson.dumps(dialect.error(refused)).decode()
        event = sse.parse(dialect.stream_error(refused))
        assert orjson.loads(event.data or b"") == dialect.error(refused)

    @pytest.mark.parametrize("dialect", [INTERNAL, GENERATE], ids=lambda dialect: dialect.name)
    @pytest.mark.parametrize("reply", [b"", b"<html>", b"[]", b"{}", b'{"choices":[]}', b'{"choices":{}}'])
    def test_an_answer_that_is_none_is_the_providers_failure(self, dialect: Dialect, reply: bytes) -> None:
        """Not an empty text, and not an exception of another kind."""
        with pytest.raises(ProviderFailed):
            dialect.write(reply, ANSWERED)

    @pytest.mark.parametrize("dialect", [INTERNAL, GENERATE_STREAM], ids=lambda dialect: dialect.name)
    @given(words=st.lists(st.text(max_size=10), max_size=6), step=st.integers(1, 50))
    def test_the_pieces_joined_are_the_whole_however_they_came(
        self, dialect: Dialect, words: list[str], step: int
    ) -> None:
        """Old clients read the same text streamed and not, in any chunking."""
        try:
            "".join(words).encode()
        except UnicodeEncodeError:
            return
        stream = openai_frames(*({"content": word} for word in words))
        told = retold(dialect, stream, step)
        events = [sse.parse(raw).data or b"" for raw in sse.Splitter().feed(told)]
        assert events[-1] == b"[DONE]"
        whole = orjson.loads(dialect.write(openai_answer("".join(words)), ANSWERED))
        assert whole["content"] == "".join(orjson.loads(event)["content"] for event in events[:-1])
        assert whole["usage"] == orjson.loads(events[-2])["usage"]

    def test_openais_bytes_pass(self) -> None:
        """Nothing is read, nothing is written anew."""
        reply = openai_answer()
        assert OPENAI.write(reply, ANSWERED) is reply
        dialect: Dialect = OPENAI
        assert (
            dialect.stream(read(OPENAI, {"model": "gpt-4", "messages": [{"role": "user", "content": "x"}]}))
            is None
        )
        assert OPENAI.models([Offer("a/b", "openai")]) == {
            "object": "list",
            "data": [{"id": "a/b", "object": "model", "created": 0, "owned_by": "openai"}],
        }
