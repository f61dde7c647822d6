"""The camelCase dialect: pairs from its document, see `docs/dialects/internal_and_generate.md`."""

from typing import Any

import orjson
import pytest
from dialect_examples import (
    ANSWERED,
    CALL,
    GENERATE_ASKED,
    TOOL_CALL,
    error_of,
    openai_answer,
    openai_frames,
    read,
    rendered,
)

from llm_proxy import sse
from llm_proxy.dialects.generate import GENERATE, GENERATE_STREAM
from llm_proxy.dialects.request_options import RequestOptions

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


class TestGenerate:
    """`POST /llm-proxy/generate` and `/llm-proxy/stream`."""

    def test_the_documents_request(self) -> None:
        """From camelCase to OpenAI's names."""
        call = read(GENERATE, GENERATE_ASKED)
        assert call.body == {
            "model": "gpt-4",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 2048,
            "user": "user-123",
        }
        assert (call.attribution.user, call.max_tokens, call.streaming) == ("user-123", 2048, False)

    def test_the_documents_answer(self) -> None:
        """Exactly these fields."""
        assert orjson.loads(GENERATE.render(CALL, openai_answer("Response text"), ANSWERED)) == {
            "content": "Response text",
            "usage": {"totalTokens": 35, "promptTokens": 25, "completionTokens": 10},
        }

    def test_the_stream_of_the_other_path(self) -> None:
        """Chunks, then usage and finish reason, then the end mark, byte for byte."""
        assert read(GENERATE_STREAM, GENERATE_ASKED).body["stream_options"] == {"include_usage": True}
        assert rendered(GENERATE_STREAM, openai_frames({"content": "Response"}, {"content": " text"})) == (
            b'data: {"content":"Response"}\n\n'
            b'data: {"content":" text"}\n\n'
            b'data: {"content":"","usage":{"totalTokens":35,"promptTokens":25,"completionTokens":10},'
            b'"finishReason":"stop"}\n\n'
            b"data: [DONE]\n\n"
        )

    def test_provider_selects_the_group(self) -> None:
        """As `X-Provider` does; both must agree."""
        assert (
            read(GENERATE, {**GENERATE_ASKED, "provider": "anthropic", "model": "claude-3"}).group
            == "anthropic/claude-3"
        )
        assert error_of(GENERATE, GENERATE_ASKED, RequestOptions(provider="anthropic")).param == "provider"
        assert read(GENERATE, GENERATE_ASKED, RequestOptions(provider="openai")).group == "gpt-4"

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

    def test_tool_calls_are_in_camel_case(self) -> None:
        """Streamed or not."""
        written = orjson.loads(GENERATE.render(CALL, openai_answer(None, tool_calls=[TOOL_CALL]), ANSWERED))
        assert (written["content"], written["toolCalls"]) == ("", [TOOL_CALL])
        stream = openai_frames({"tool_calls": [{"index": 0, **TOOL_CALL}]}, finish="tool_calls")
        first, last, _ = [
            sse.parse_event(raw).data or b""
            for raw in sse.SSEDecoder().feed(rendered(GENERATE_STREAM, stream))
        ]
        assert orjson.loads(first)["toolCalls"][0]["id"] == "call_1"
        assert orjson.loads(last)["finishReason"] == "tool_calls"

    @pytest.mark.parametrize(("field", "value", "param"), MISSPELLED)
    def test_an_invalid_field_is_named_as_the_caller_spelled_it(
        self, field: str, value: Any, param: str
    ) -> None:
        """In the message too."""
        wrong = error_of(GENERATE, {**GENERATE_ASKED, field: value})
        assert wrong.param == param
        assert f"'{param}'" in wrong.message

    def test_an_error_is_nestjs_s_exception_body(self) -> None:
        """With our code and field beside it; in a stream the same object."""
        wrong = error_of(GENERATE, {"model": "gpt-4"})
        body = {
            "statusCode": 400,
            "message": "Missing required parameter: 'messages'.",
            "error": "Bad Request",
            "code": "missing_required_parameter",
            "param": "messages",
        }
        assert GENERATE.error(wrong) == body
        assert GENERATE_STREAM.open_stream(CALL).fail(wrong) == b"data: " + orjson.dumps(body) + b"\n\n"
