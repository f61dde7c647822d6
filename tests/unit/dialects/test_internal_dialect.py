"""The internal dialect: pairs from its document, see `docs/dialects/internal_and_generate.md`."""

from typing import Any

import orjson
import pytest
from dialect_examples import (
    ANSWERED,
    CALL,
    INTERNAL_ASKED,
    TOOL_CALL,
    error_of,
    openai_answer,
    openai_frames,
    read,
    rendered,
)

from llm_proxy.dialects.dialect import ListedModel
from llm_proxy.dialects.internal import INTERNAL


class TestInternal:
    """`POST /internal/llm/proxy`, `GET /internal/llm/models`."""

    def test_the_documents_request_names_its_agent_tenant_and_channel(self) -> None:
        """OpenAI's request is sent, without `metadata`."""
        call = read(INTERNAL, INTERNAL_ASKED)
        assert (call.attribution.agent, call.attribution.tenant, call.attribution.channel) == (
            "agent:sofia",
            "microdao:7",
            "channel-uuid",
        )
        assert call.body == {name: value for name, value in INTERNAL_ASKED.items() if name != "metadata"}
        assert (call.dialect, call.max_tokens) == ("internal", 100)

    def test_the_documents_answer(self) -> None:
        """Exactly these fields."""
        assert orjson.loads(INTERNAL.render(CALL, openai_answer(), ANSWERED)) == {
            "content": "Hello! How can I help you today?",
            "usage": {"prompt_tokens": 25, "completion_tokens": 10, "total_tokens": 35},
            "provider": "openai",
            "model_resolved": "gpt-4-1106-preview",
            "latency_ms": 1234.5,
        }

    def test_the_shorter_examples_are_accepted(self) -> None:
        """Only an agent; a `null` tenant; other labels; no model at all."""
        only_agent = {**INTERNAL_ASKED, "metadata": {"agent_id": "agent:test"}, "model": "dagi-local-8b"}
        assert read(INTERNAL, only_agent).attribution.tenant is None
        labels = {**INTERNAL_ASKED, "metadata": {"agent_id": "a", "microdao_id": None, "trace": {"any": [1]}}}
        assert "metadata" not in read(INTERNAL, labels).body
        assert read(INTERNAL, {"messages": INTERNAL_ASKED["messages"]}).group == "gpt-3.5-turbo"

    def test_tool_calls_are_in_the_answer_if_there_are_any(self) -> None:
        """`content` stays a string."""
        written = orjson.loads(INTERNAL.render(CALL, openai_answer(None, tool_calls=[TOOL_CALL]), ANSWERED))
        assert (written["content"], written["tool_calls"]) == ("", [TOOL_CALL])

    def test_a_model_s_refusal_is_the_content(self) -> None:
        """The dialect has no other field for it."""
        assert (
            orjson.loads(INTERNAL.render(CALL, openai_answer(None, refusal="No."), ANSWERED))["content"]
            == "No."
        )

    def test_a_stream_is_chunks_and_one_done_event(self) -> None:
        """The frames of the document, byte for byte."""
        deltas = (
            {"role": "assistant", "content": ""},
            {"content": "Hello"},
            {"content": "!"},
            {"tool_calls": [{"index": 0, **TOOL_CALL}]},
        )
        assert rendered(INTERNAL, openai_frames(*deltas)) == (
            b'data: {"content":"Hello"}\n\n'
            b'data: {"content":"!"}\n\n'
            b'data: {"content":"","tool_calls":[{"index":0,"id":"call_1","type":"function",'
            b'"function":{"name":"now","arguments":"{}"}}]}\n\n'
            b'data: {"done":true,"content":"",'
            b'"usage":{"prompt_tokens":25,"completion_tokens":10,"total_tokens":35},'
            b'"provider":"openai","model_resolved":"gpt-4-1106-preview","latency_ms":1234.5}\n\n'
            b"data: [DONE]\n\n"
        )

    def test_an_error_has_detail_and_openai_s_error(self) -> None:
        """For its FastAPI clients and OpenAI's; in a stream the same object."""
        wrong = error_of(INTERNAL, {**INTERNAL_ASKED, "messages": None})
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
        assert INTERNAL.open_stream(CALL).fail(wrong) == b"data: " + orjson.dumps(body) + b"\n\n"

    def test_the_models(self) -> None:
        """As in the document."""
        offers = [ListedModel("gpt-4.1-mini", "openai", "gpt-4-1106-preview", 4096)]
        assert INTERNAL.render_models(offers) == {
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
    def test_what_the_dialect_cannot_express_is_rejected(self, field: str, value: Any, param: str) -> None:
        """Named by its field."""
        assert error_of(INTERNAL, {**INTERNAL_ASKED, field: value}).param == param
