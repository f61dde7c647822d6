"""Messages bodies translated into chat bodies."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.dialects.dialect import BodyLimits
from llm_proxy.dialects.messages.request import MessagesContext, translate_request
from llm_proxy.dialects.messages.schema import check_body
from llm_proxy.dialects.messages.tool_ids import sent_tool_id, shown_tool_id
from llm_proxy.dialects.request.openai_schema import parse_messages
from llm_proxy.dialects.translation.carried import carried_by
from llm_proxy.errors import BadRequest
from llm_proxy.json_access import Json

CLAUDE, COMPATIBLE, OPENAI = ("anthropic",), ("hosted_vllm",), ("openai",)
MARK = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
TOOL: Json = {"name": "get_weather", "description": "d", "input_schema": {"type": "object", "properties": {}}}
CALLED = {"type": "tool_use", "id": "toolu_01A", "name": "get_weather", "input": {"city": "Paris"}}


def translated(providers: tuple[str, ...] = COMPATIBLE, /, **fields: Any) -> tuple[Json, MessagesContext]:
    """The chat body of a body with these fields, which passes OpenAI's schema."""
    parsed = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}], **fields}
    extra = check_body(parsed, "2023-06-01", BodyLimits())
    before = orjson.dumps(parsed)
    body, context = translate_request(parsed, extra, carried_by(providers))
    assert orjson.dumps(parsed) == before
    parse_messages(body["messages"], 100)
    return body, context


def messages(*blocks: Json, role: str = "user", providers: tuple[str, ...] = COMPATIBLE) -> list[Json]:
    """The chat messages of one message of these blocks."""
    turns = [{"role": role, "content": list(blocks)}]
    if role == "assistant":
        turns.append({"role": "user", "content": "go on"})
    found: list[Json] = translated(providers, messages=turns)[0]["messages"]
    return found if role == "user" else found[:-1]


def refusal(providers: tuple[str, ...] = COMPATIBLE, /, **fields: Any) -> str | None:
    """The path of a refused body."""
    with pytest.raises(BadRequest) as caught:
        translated(providers, **fields)
    assert caught.value.code in {"unsupported_parameter", "unknown_parameter"}
    return caught.value.param


def refused_block(block: Json, role: str = "user") -> str | None:
    """The path of a refused block."""
    return refusal(messages=[{"role": role, "content": [block]}, {"role": "user", "content": "x"}])


class TestContent:
    """Content blocks."""

    def test_texts_and_images_are_parts_in_order(self) -> None:
        url = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
        (message,) = messages({"type": "text", "text": "a"}, PNG, url, {"type": "text", "text": "b"})
        assert message["content"] == [
            {"type": "text", "text": "a"},
            PNG_PART,
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            {"type": "text", "text": "b"},
        ]

    def test_a_lone_text_is_a_string(self) -> None:
        assert messages({"type": "text", "text": "a", **MARK}) == [{"role": "user", "content": "a"}]

    def test_a_cache_mark_stays_where_the_provider_has_it(self) -> None:
        block = {"type": "text", "text": "a", **MARK}
        assert messages(block, providers=CLAUDE) == [{"role": "user", "content": [block]}]
        body, _ = translated(CLAUDE, system=[block], tools=[{**TOOL, **MARK}])
        assert body["messages"][0] == {"role": "system", "content": [block]}
        assert body["tools"][0]["cache_control"] == MARK["cache_control"]

    def test_a_mark_of_the_whole_request_is_the_last_part_s(self) -> None:
        body, _ = translated(CLAUDE, **MARK)
        assert body["messages"][-1]["content"] == [{"type": "text", "text": "Hi", **MARK}]
        assert translated(**MARK)[0]["messages"][-1]["content"] == "Hi"

    def test_a_pdf_is_a_file_and_other_documents_are_texts(self) -> None:
        pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
        text = {"type": "text", "media_type": "text/plain", "data": "plain"}
        content = {"type": "content", "content": [{"type": "text", "text": "inside"}, PNG]}
        (message,) = messages(
            {"type": "document", "source": pdf, "title": "a.pdf", "context": "c"},
            {"type": "document", "source": pdf},
            {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
            {"type": "document", "source": text, "title": "T"},
            {"type": "document", "source": content},
        )
        data = "data:application/pdf;base64,JVBERi0="
        assert message["content"] == [
            {"type": "text", "text": "c"},
            {"type": "file", "file": {"file_data": data, "filename": "a.pdf"}},
            {"type": "file", "file": {"file_data": data, "filename": "document.pdf"}},
            {"type": "file", "file": {"file_id": "https://example.com/a.pdf"}},
            {"type": "text", "text": "T\n\nplain"},
            {"type": "text", "text": "inside"},
            PNG_PART,
        ]

    def test_turns_of_one_role_in_a_row_are_one(self) -> None:
        """As Anthropic reads them."""
        turns = [
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c"},
            {"role": "assistant", "content": [{"type": "text", "text": "d", **MARK}, CALLED]},
            {"role": "assistant", "content": [{**CALLED, "id": "toolu_2"}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_01A"}]},
        ]
        first, said, *_ = translated(messages=turns)[0]["messages"]
        assert first["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        assert said["content"] == "c\n\nd"
        assert [call["id"] for call in said["tool_calls"]] == ["toolu_01A", "toolu_2"]
        marked = translated(CLAUDE, messages=turns)[0]["messages"][1]
        assert marked["content"] == [{"type": "text", "text": "c"}, {"type": "text", "text": "d", **MARK}]

    def test_a_search_result_is_its_text(self) -> None:
        found = {
            "type": "search_result",
            "source": "s",
            "title": "t",
            "content": [{"type": "text", "text": "x"}],
        }
        assert messages(found)[0]["content"] == "t\n\ns\n\nx"

    def test_system_blocks_are_one_text_or_marked_parts(self) -> None:
        blocks = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", **MARK}]
        assert translated(system=blocks)[0]["messages"][0] == {"role": "system", "content": "a\n\nb"}
        assert translated(system="s")[0]["messages"][0] == {"role": "system", "content": "s"}
        assert translated(system="")[0]["messages"][0]["role"] == "user"

    def test_a_system_message_in_between_is_a_reminder_but_for_claude(self) -> None:
        """Claude Code sends one behind each user's; many templates take one at the start alone."""
        turns = [
            {"role": "user", "content": "a"},
            {"role": "system", "content": [{"type": "text", "text": "now"}]},
            {"role": "user", "content": "b"},
        ]
        roles = [message["role"] for message in translated(CLAUDE, messages=turns)[0]["messages"]]
        assert roles == ["user", "system", "user"]
        (message,) = translated(messages=turns)[0]["messages"]
        assert message["content"] == [
            {"type": "text", "text": "a"},
            {"type": "text", "text": "<system-reminder>\nnow\n</system-reminder>"},
            {"type": "text", "text": "b"},
        ]

    @pytest.mark.parametrize(
        ("block", "role", "path"),
        [
            ({"type": "container_upload", "file_id": "f"}, "user", "messages.0.content.0"),
            (
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                "assistant",
                "messages.0.content.0",
            ),
            (
                {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
                "assistant",
                "messages.0.content.0",
            ),
            (
                {"type": "image", "source": {"type": "file", "file_id": "f"}},
                "user",
                "messages.0.content.0.source",
            ),
            (
                {"type": "document", "source": {"type": "file", "file_id": "f"}},
                "user",
                "messages.0.content.0.source",
            ),
            (
                {
                    "type": "document",
                    "source": {"type": "text", "media_type": "text/plain", "data": "x"},
                    "citations": {"enabled": True},
                },
                "user",
                "messages.0.content.0.citations",
            ),
            (
                {**CALLED, "caller": {"type": "code_execution_20250825", "tool_id": "s"}},
                "assistant",
                "messages.0.content.0.caller",
            ),
            (
                {**PNG, "transformations": {"oversized_image": "error"}},
                "user",
                "messages.0.content.0.transformations",
            ),
        ],
    )
    def test_a_block_without_a_place_is_refused_by_its_path(self, block: Json, role: str, path: str) -> None:
        assert refused_block(block, role) == path

    def test_a_beginning_of_the_answer_is_refused_where_models_cannot_go_on(self) -> None:
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "{"}]
        assert refusal(messages=turns) == "messages.1"
        assert translated(CLAUDE, messages=turns)[0]["messages"][-1]["content"] == "{"


class TestTools:
    """Tools, their calls and outputs."""

    def test_calls_and_outputs(self) -> None:
        turns = [
            {"role": "user", "content": "weather?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Looking."},
                    CALLED,
                    {**CALLED, "id": "toolu_p_call_2", "caller": {"type": "direct"}, "toolset_name": None},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_01A", "content": "sunny"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_p_call_2",
                        "is_error": True,
                        "content": [{"type": "text", "text": "boom"}, PNG],
                    },
                    {"type": "text", "text": "so?"},
                ],
            },
        ]
        found = translated(messages=turns, tools=[TOOL])[0]["messages"]
        assert found[1]["content"] == "Looking."
        assert [call["id"] for call in found[1]["tool_calls"]] == ["toolu_01A", "call_2"]
        assert found[1]["tool_calls"][0]["function"] == {
            "name": "get_weather",
            "arguments": '{"city":"Paris"}',
        }
        assert found[2:] == [
            {"role": "tool", "tool_call_id": "toolu_01A", "content": "sunny"},
            {"role": "tool", "tool_call_id": "call_2", "content": "Error: boom"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Attached to the output of the tool call call_2:"},
                    PNG_PART,
                    {"type": "text", "text": "so?"},
                ],
            },
        ]

    def test_an_image_stays_in_the_output_at_claude(self) -> None:
        (message,) = messages(
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [PNG]}, providers=CLAUDE
        )
        assert message == {"role": "tool", "tool_call_id": "toolu_1", "content": [PNG_PART]}

    @pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": []}])
    def test_an_output_may_be_empty(self, content: Json) -> None:
        (message,) = messages({"type": "tool_result", "tool_use_id": "toolu_1", **content})
        assert message["content"] == ""

    def test_a_reference_to_a_tool_is_its_name(self) -> None:
        reference = {"type": "tool_reference", "tool_name": "get_weather"}
        (message,) = messages({"type": "tool_result", "tool_use_id": "toolu_1", "content": [reference]})
        assert message["content"] == "get_weather"

    def test_a_tool_keeps_what_chat_has_and_its_examples(self) -> None:
        closed: Json = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
        tools: list[Json] = [
            {**TOOL, "defer_loading": True, "eager_input_streaming": True, "allowed_callers": ["direct"]},
            {
                "type": "custom",
                "name": "f",
                "input_schema": closed,
                "strict": True,
                "input_examples": [{"a": 1}],
            },
        ]
        assert translated(tools=tools)[0]["tools"] == [
            {
                "type": "function",
                "function": {"name": "get_weather", "description": "d", "parameters": TOOL["input_schema"]},
            },
            {
                "type": "function",
                "function": {
                    "name": "f",
                    "description": '\n\nExamples of input:\n{"a":1}',
                    "parameters": closed,
                    "strict": True,
                },
            },
        ]

    def test_a_long_name_is_sent_short_wherever_it_stands(self) -> None:
        name = "mcp__" + "server" * 15
        turns = [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [{**CALLED, "name": name}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_01A"}]},
        ]
        body, context = translated(
            messages=turns, tools=[{**TOOL, "name": name}], tool_choice={"type": "tool", "name": name}
        )
        (short,) = context.tool_names
        assert context.tool_names[short] == name
        assert body["tools"][0]["function"]["name"] == short
        assert body["messages"][1]["tool_calls"][0]["function"]["name"] == short
        assert body["tool_choice"]["function"]["name"] == short

    @pytest.mark.parametrize(
        ("choice", "fields"),
        [
            ({"type": "auto"}, {"tool_choice": "auto"}),
            ({"type": "any"}, {"tool_choice": "required"}),
            ({"type": "none"}, {"tool_choice": "none"}),
            (
                {"type": "tool", "name": "get_weather"},
                {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
            ),
            (
                {"type": "auto", "disable_parallel_tool_use": True},
                {"tool_choice": "auto", "parallel_tool_calls": False},
            ),
        ],
    )
    def test_a_choice(self, choice: Json, fields: Json) -> None:
        body, _ = translated(tools=[TOOL], tool_choice=choice)
        assert {name: body[name] for name in ("tool_choice", "parallel_tool_calls") if name in body} == fields

    def test_a_choice_without_tools_asks_for_nothing(self) -> None:
        assert "tool_choice" not in translated(tool_choice={"type": "auto"})[0]

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"tool_choice": {"type": "any"}}, "tool_choice"),
            ({"tool_choice": {"type": "tool", "name": "get_weather"}, "tools": list[Json]()}, "tool_choice"),
            ({"tool_choice": {"type": "tool", "name": "other"}, "tools": [TOOL]}, "tool_choice.name"),
            ({"system": "s", "messages": [{"role": "user", "content": list[Json]()}]}, "messages"),
        ],
    )
    def test_no_content_and_a_choice_of_what_is_not_offered_are_refused(
        self, fields: Json, param: str
    ) -> None:
        with pytest.raises(BadRequest) as caught:
            translated(**fields)
        assert caught.value.param == param

    def test_a_server_s_tool_is_refused_by_name(self) -> None:
        with pytest.raises(BadRequest, match="'web_search' of type 'web_search_20250305'") as caught:
            translated(tools=[TOOL, {"type": "web_search_20250305", "name": "web_search"}])
        assert caught.value.param == "tools.1"
        assert (
            refusal(tools=[{**TOOL, "allowed_callers": ["code_execution_20250825"]}])
            == "tools.0.allowed_callers"
        )

    @given(provider_id=st.text(min_size=1, max_size=80))
    def test_an_id_comes_back_as_its_provider_made_it(self, provider_id: str) -> None:
        try:
            shown = shown_tool_id(provider_id)
        except UnicodeEncodeError:
            return
        assert shown.startswith("toolu_")
        assert all(sign.isascii() and (sign.isalnum() or sign in "_-") for sign in shown)
        if not provider_id.startswith(("toolu_p_", "toolu_x_")):
            assert sent_tool_id(shown) == provider_id

    @pytest.mark.parametrize("shown", ["toolu_01A", "toolu_p_", "toolu_x_", "toolu_x_!", "call_1", "x"])
    def test_another_s_id_is_sent_unchanged(self, shown: str) -> None:
        assert sent_tool_id(shown) == shown


class TestThinking:
    """What was thought, and how much to think."""

    BLOCKS = (
        {"type": "thinking", "thinking": "signed", "signature": "c2ln"},
        {"type": "thinking", "thinking": "unsigned", "signature": ""},
        {"type": "redacted_thinking", "data": "ZGF0YQ=="},
        {"type": "text", "text": "said"},
    )

    def test_signed_and_redacted_blocks_go_back_to_claude(self) -> None:
        (message,) = messages(*self.BLOCKS, role="assistant", providers=CLAUDE)
        assert message == {
            "role": "assistant",
            "content": "said",
            "thinking_blocks": [self.BLOCKS[0], self.BLOCKS[2]],
        }

    def test_models_that_read_it_get_the_text(self) -> None:
        (message,) = messages(*self.BLOCKS, role="assistant", providers=("deepseek",))
        assert message["reasoning_content"] == "signedunsigned"

    def test_others_get_what_was_said(self) -> None:
        assert messages(*self.BLOCKS, role="assistant", providers=OPENAI) == [
            {"role": "assistant", "content": "said"}
        ]

    def test_a_turn_of_thinking_alone_is_left_out_where_none_reads_it(self) -> None:
        assert messages(self.BLOCKS[0], role="assistant", providers=OPENAI) == []

    @pytest.mark.parametrize(
        ("fields", "effort"),
        [
            ({}, None),
            ({"thinking": {"type": "disabled"}}, None),
            ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, None),
            ({"thinking": {"type": "between_tools"}}, None),
            ({"thinking": {"type": "adaptive"}}, "medium"),
            ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
            ({"thinking": {"type": "enabled", "budget_tokens": 31999}}, "high"),
            ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, "low"),
            ({"output_config": {"effort": "max"}}, "high"),
        ],
    )
    def test_it_is_an_effort(self, fields: Json, effort: str | None) -> None:
        assert translated(**fields)[0].get("reasoning_effort") == effort

    def test_claude_has_its_own_field(self) -> None:
        thinking = {"type": "enabled", "budget_tokens": 2000, "display": "omitted"}
        body, context = translated(CLAUDE, thinking=thinking, output_config={"effort": "max"})
        assert (body["thinking"], body["output_config"]) == (thinking, {"effort": "max"})
        assert "reasoning_effort" not in body
        assert (context.wants_thinking, context.omits_thinking) == (True, True)


class TestFields:
    """The other fields."""

    def test_what_chat_has_is_carried(self) -> None:
        body, context = translated(
            stop_sequences=["zz"],
            temperature=0.5,
            top_p=0.9,
            top_k=5,
            stream=True,
            metadata={"user_id": "ann"},
        )
        names = ("stop", "temperature", "top_p", "top_k", "stream", "user", "max_tokens")
        assert [body[name] for name in names] == [["zz"], 0.5, 0.9, 5, True, "ann", 10]
        assert context.stop_sequences == ("zz",)

    def test_structured_output(self) -> None:
        closed: Json = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
        wanted: Json = {"type": "json_schema", "schema": closed}
        expected: Json = {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": closed, "strict": True},
        }
        assert translated(output_config={"format": wanted})[0]["response_format"] == expected
        assert translated(output_format=wanted)[0]["response_format"] == expected
        loose: Json = {"type": "json_schema", "schema": {"type": "object", "properties": {"a": {}}}}
        assert (
            translated(output_config={"format": loose})[0]["response_format"]["json_schema"]["strict"]
            is False
        )

    def test_a_tier_is_openai_s_default(self) -> None:
        assert translated(OPENAI, service_tier="standard_only")[0]["service_tier"] == "default"
        assert "service_tier" not in translated(OPENAI, service_tier="auto")[0]
        assert "service_tier" not in translated(service_tier="standard_only")[0]

    def test_what_asks_for_nothing_passes(self) -> None:
        plain = translated()[0]
        asked, context = translated(
            mcp_servers=[],
            speed="standard",
            inference_geo="global",
            diagnostics={"previous_message_id": None},
            context_management={"edits": [{"type": "clear_thinking_20251015"}]},
        )
        assert asked == plain
        assert context.has_edits

    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({"container": "c"}, "container"),
            ({"mcp_servers": [{"type": "url", "url": "https://example.com", "name": "m"}]}, "mcp_servers"),
            ({"speed": "fast"}, "speed"),
            ({"inference_geo": "us"}, "inference_geo"),
            ({"output_config": {"task_budget": {"type": "tokens", "total": 5}}}, "output_config.task_budget"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"new_beta": 1}, "new_beta"),
        ],
    )
    def test_what_chat_has_not_is_refused_by_name(self, fields: Json, path: str) -> None:
        assert refusal(**fields) == path
